"""Files of predictions, read in chunks: memory stays bounded whatever their size.

A format is one small class, listed in ``FORMATS``. Arrays (.npy, .npz) hold predictions with the class axis anywhere;
tables (.csv, .parquet) hold a row a line. ``Scan`` brings predictions, target, weights and ids together, from one file
or from two of different formats, and yields them as ``Chunk``.
"""

from collections.abc import Callable

from fastxent.files.base import BLOCK_BYTES, ArrayFile, Chunk, TableFile
from fastxent.files.csv import Csv
from fastxent.files.npy import Npy
from fastxent.files.npz import Npz
from fastxent.files.parquet import Parquet

__all__ = ["BLOCK_BYTES", "FORMATS", "Chunk", "open_file"]

FORMATS: dict[str, Callable[[str], ArrayFile | TableFile]] = {
    ".npy": Npy,
    ".npz": Npz,
    ".csv": Csv,
    ".tsv": Csv,
    ".parquet": Parquet,
    ".pq": Parquet,
}


def open_file(path: str) -> ArrayFile | TableFile:
    """Open a file by the end of its name.

    Parameters
    ----------
    path : str
        Ends in one of ``FORMATS``.

    Raises
    ------
    ValueError
        Unknown format, or a file that is not what its name says.
    OSError
        No such file, or not readable.
    """
    for suffix, reader in FORMATS.items():
        if path.lower().endswith(suffix):
            return reader(path)
    raise ValueError(f"{path}: unknown format; need one of {', '.join(FORMATS)}")
