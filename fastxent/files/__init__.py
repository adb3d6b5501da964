"""Files of predictions, read in chunks: memory stays bounded whatever their size.

A format is one small class in a file of its own, listed in ``FORMATS``. Arrays (.npy, .npz, .safetensors, .zarr, .h5)
hold predictions with the class axis anywhere; tables (.csv, .parquet, .arrow) hold a row a line. ``scan.Scan`` brings
predictions, target, weights and ids together, from one file or from two of different formats, each of them perhaps in
shards, and yields them as ``Chunk``.
"""

import os
from glob import glob
from importlib import import_module

from fastxent.files.base import ArrayFile, Chunk, TableFile, natural_key
from fastxent.files.source import filesystem, is_remote, told_by

__all__ = ["FORMATS", "Chunk", "open_file", "shards_of"]

# End of the name -> module and class; a module comes in with the first file of its format.
FORMATS = {
    ".npy": "npy.Npy",
    ".npz": "npz.Npz",
    ".safetensors": "safetensors.Safetensors",
    ".zarr": "zarr.Zarr",
    ".h5": "h5.H5",
    ".hdf5": "h5.H5",
    ".parquet": "parquet.Parquet",
    ".pq": "parquet.Parquet",
    ".arrow": "ipc.Ipc",
    ".feather": "ipc.Ipc",
    **{f".{text}{end}": "csv.Csv" for text in ("csv", "tsv") for end in ("", ".gz", ".bz2", ".xz", ".zst")},
}


def open_file(path: str) -> ArrayFile | TableFile:
    """Open a file by the end of its name.

    Parameters
    ----------
    path : str
        Ends in one of ``FORMATS``: a file on this machine, or at an address that fsspec knows.

    Raises
    ------
    ValueError
        Unknown format, or a file that is not what its name says.
    OSError
        No such file, or not readable.
    ImportError
        The library that reads the format is missing; says what to install.
    """
    suffix = _suffix(path)
    if suffix is None:
        raise ValueError(f"{path}: unknown format; need one of {', '.join(FORMATS)}")
    module, reader = FORMATS[suffix].split(".")
    with told_by(path, suffix):
        opened: ArrayFile | TableFile = getattr(import_module(f"fastxent.files.{module}"), reader)(path)
    if opened.source.cheap:
        opened.source.refuse_changed()  # while its header was read
    return opened


def shards_of(path: str) -> list[str]:
    """The files that a path names: itself, those that a pattern such as 'shards/*.npy' matches, or a folder's.

    They come in natural order: part_2 before part_10. Names in a folder that begin with a dot or an underscore are left
    out.

    Raises
    ------
    ValueError
        Where there is none.
    """
    if _suffix(path) and not any(sign in path for sign in "*?["):
        return [path]
    remote = is_remote(path)
    if remote:
        files, inner = filesystem(path)
        with told_by(path):
            pattern = f"{inner.rstrip('/')}/*" if files.isdir(inner) else inner
            found = [files.unstrip_protocol(name) for name in files.glob(pattern)]
    elif os.path.isdir(path):
        found = [os.path.join(path, name) for name in os.listdir(path)]
    elif any(sign in path for sign in "*?["):
        found = [path] if os.path.exists(path) else glob(path, recursive=True)
    else:
        return [path]
    shown = [name for name in found if not os.path.basename(name.rstrip("/")).startswith((".", "_"))]
    if not shown:
        raise ValueError(f"{path}: matches no file")
    shown.sort(key=natural_key)
    other = next((name for name in shown if _suffix(name) != _suffix(shown[0])), None)
    if other is not None:
        raise ValueError(
            f"{path}: {shown[0]} and {other} are of different formats; name the files of one by a pattern such as"
            " 'shards/*.npy'"
        )
    return shown


def _suffix(path: str) -> str | None:
    name = path.lower().rstrip("/")
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), None)
