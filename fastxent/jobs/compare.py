"""Files of several models' predictions through a comparison, in one pass over each."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastxent.files.base import Chunk
from fastxent.files.scan import Scan, Wanted
from fastxent.jobs.score import Progress, read_at_once, readers_of

if TYPE_CHECKING:
    from fastxent.comparing.comparer import Comparer

Models = Sequence[tuple[str, Wanted]]


def compare_files(
    models: Models, target: str | None, options: Mapping[str, Any], tell: Progress | None = None
) -> "tuple[Comparer, list[str] | None]":
    """Compare models by the predictions in files: with the bits of `compare` on arrays of them.

    Parameters
    ----------
    models : sequence of (str, Wanted)
        Each model's file of predictions, and what to read of it. The first one says what else is read, such as weights.
    target : str or None
        Another, unless the first model's file holds the target.
    options : mapping
        Keywords of `Comparer`.
    tell : callable, optional
        Is told about progress; see `Progress`.

    Returns
    -------
    Comparer
    list of str or None
        The classes' names, where there are any.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        One line about the files, the options, or the first offending row and value.
    """
    tell = tell or (lambda *_: None)
    (first, wanted), *others = models
    scan = Scan(first, target, wanted, others=others)
    from fastxent import checks  # loads Numba: a missing file is told without waiting for it
    from fastxent.comparing.comparer import Comparer

    def added(chunks: Iterator[Chunk], comparer: Comparer) -> Iterator[None]:
        for chunk in chunks:
            given = {"ids": chunk.ids, "by": chunk.by, "cluster": chunk.cluster, "sample_weight": chunk.weight}
            with checks.part_of((chunk.start + chunk.n_rows,), (chunk.start,)):  # errors name rows of the file
                comparer.update(chunk.predictions, *chunk.others, target=chunk.target, start=chunk.start, **given)
            yield

    comparer, *others_at_once = (Comparer(len(models), **options) for _ in range(readers_of(scan)))
    if others_at_once:

        def opened() -> Scan:
            return Scan(first, target, wanted, others=others)

        parts = [comparer, *others_at_once]
        read_at_once(scan, opened, lambda own, part: added(own.here(), part), parts, "comparing", tell)
        for part in others_at_once:
            comparer.merge(part)
        return comparer, scan.class_names
    tell("compiling, or loading what is compiled", 0.0, 0, 0)
    for _ in added(iter(scan), comparer):
        tell("comparing", scan.fraction, scan.rows_read, scan.bytes_read)
    return comparer, scan.class_names


def names_of(models: Models) -> tuple[str, ...]:
    """A name for each model: its file's, as short as tells it from the others; or by what is read of one file.

    Examples
    --------
    >>> names_of([("runs/old.npy", Wanted()), ("runs/new.npy", Wanted())])
    ('old', 'new')
    >>> names_of([("both.npz", Wanted(predictions_key="a")), ("both.npz", Wanted(predictions_key="b"))])
    ('a', 'b')
    """
    stems = [os.path.basename(path.rstrip("/")).partition(".")[0] for path, _ in models]
    keys = [wanted.predictions_key or wanted.columns or path for path, wanted in models]
    for names in (stems, [path for path, _ in models], keys):
        if max(Counter(names).values()) == 1 and all(names):
            return tuple(names)
    return tuple(f"model {k + 1}" for k in range(len(models)))
