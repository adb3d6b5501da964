"""Files of predictions, read in chunks: memory stays bounded whatever their size.

A format is one small class in a file of its own, listed in ``FORMATS``. Arrays (.npy, .npz) hold predictions with the
class axis anywhere; tables (.csv, .parquet) hold a row a line. ``scan.Scan`` brings predictions, target, weights and
ids together, from one file or from two of different formats, and yields them as ``Chunk``.
"""

from importlib import import_module
from typing import Any

from fastxent.files.base import ArrayFile, Chunk, TableFile

__all__ = ["FORMATS", "Chunk", "open_file"]

# End of the name -> module and class; a module comes in with the first file of its format.
FORMATS = {
    ".npy": "npy.Npy",
    ".npz": "npz.Npz",
    ".csv": "csv.Csv",
    ".tsv": "csv.Csv",
    ".parquet": "parquet.Parquet",
    ".pq": "parquet.Parquet",
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
            module, name = reader.split(".")
            opened: Any = getattr(import_module(f"fastxent.files.{module}"), name)(path)
            return opened
    raise ValueError(f"{path}: unknown format; need one of {', '.join(FORMATS)}")
