"""A local file's bytes where the page cache has them, without a copy, while nobody can change them."""

import mmap
import os
import signal

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LEAST_BYTES = 1 << 20  # below it a copy costs less than the mapping
_GRAIN = 1 << 21  # bytes of a large page: where the page cache has one, a single fault maps it whole


def mapped(path: str, facts: tuple[int, int], position: int, n_bytes: int) -> np.ndarray | None:
    """So many bytes of a file from a position on, which stay as they are while the array or a view of it lives.

    For that the kernel gives a lease: whoever wants to write to the file or truncate it waits until the array is gone.
    (Without, a mapped file that shrinks kills the process.) It is given to the file's owner, where the file is not open
    for writing, and waits for some 45 s at most (/proc/sys/fs/lease-break-time): work on a piece, then let it go.

    Parameters
    ----------
    path : str
    facts : (int, int)
        The size and the time of the last change that the file must have.
    position, n_bytes : int
        Within the file.

    Returns
    -------
    uint8 array, read-only, or None
        None where the bytes are to be read instead: there is no lease, the file is another one, or the page cache does
        not have it, and a disk that fails would kill the process too.
    """
    if n_bytes < LEAST_BYTES or not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # tells of those who wait, and is ignored, unlike SIGIO
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        stat = os.fstat(file)
        if (stat.st_size, stat.st_mtime_ns) != facts:
            return None
        for at in (*range(position, position + n_bytes, _GRAIN), position + n_bytes - 1):
            os.preadv(file, [bytearray(1)], at, os.RWF_NOWAIT)  # network file systems and FUSE refuse to say
        begin, end = position // _GRAIN * _GRAIN, min(-(-(position + n_bytes) // _GRAIN) * _GRAIN, stat.st_size)
        pages = mmap.mmap(file, end - begin, mmap.MAP_SHARED, mmap.PROT_READ, offset=begin)
    except OSError:
        return None
    finally:
        os.close(file)  # the lease is the mapping's from here on
    return np.frombuffer(pages, np.uint8, n_bytes, position - begin)
