"""Which columns or members of the files are the predictions and the target."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from fastxent.files.base import ArrayFile, TableFile, listing, match_columns


@dataclass(frozen=True)
class Wanted:
    """What to read; None takes the only candidate, or the column or member called ``target``."""

    columns: str | None = None  # a pattern such as logit_*, or names with commas: the classes, in that order
    target_column: str | None = None  # one column of class indices, or a pattern: distributions
    weight_column: str | None = None
    id_column: str | None = None
    predictions_key: str | None = None  # a member of an .npz
    target_key: str | None = None
    axis: int = -1  # the class axis of arrays
    classes: str | None = None  # names of the classes with commas, or a file with one a line: the target is text
    by_column: str | None = None  # the group of each row: integers or text
    cluster_column: str | None = None  # the rows that belong together, likewise
    has_target: bool = True

    @property
    def beside(self) -> set[str]:
        """The columns or members that are named and neither predictions nor target."""
        named = {self.weight_column, self.id_column, self.by_column, self.cluster_column}
        return {name for name in named if name is not None}


def prediction_names(file: Any, wanted: Wanted, used: set[str], classes: list[str]) -> list[str]:
    """The columns or the member that hold the predictions."""
    if isinstance(file, TableFile):
        if wanted.columns is not None:
            columns = _once(match_columns(file.names, wanted.columns, "--columns", file.path), file)
            if sorted(columns) == sorted(classes) and columns != classes:
                raise ValueError(f"--classes: {listing(classes)} is another order than --columns: {listing(columns)}")
            return columns
        if classes and set(classes) <= set(file.names):  # columns called as the classes, in the classes' order
            return _once(list(classes), file)
        names = [name for name in file.names if name not in used]
        unnamed = [name for name in names if not name.strip() or name.startswith(("Unnamed: ", "__index_level_"))]
        if unnamed or not names:
            what = f"column {unnamed[0]!r} looks like an index" if unnamed else "no column is left for the predictions"
            raise ValueError(f"--columns: {what}: name the classes' columns; {file.path} has {listing(file.names)}")
        return _once(names, file)
    return _member_names(file, wanted.predictions_key, "predictions", "--predictions-key", used)


def target_names(file: Any, wanted: Wanted, alone: bool) -> list[str]:
    """The columns or the member that hold the target; ``alone`` in a file of their own."""
    if isinstance(file, ArrayFile):
        if not file.names and not alone:
            raise ValueError(f"target: {file.path} holds predictions alone; give a file with the target after it")
        return _member_names(file, wanted.target_key, "target", "--target-key", wanted.beside if alone else None)
    if wanted.target_column is not None:
        return _once(match_columns(file.names, wanted.target_column, "--target-column", file.path), file)
    rest = [name for name in file.names if name not in wanted.beside]
    if alone and len(rest) == 1:
        return rest
    if "target" in file.names:
        return ["target"]
    raise ValueError(f"--target-column: say which column of {file.path} is the target; it has {listing(file.names)}")


def no_predictions(file: Any, wanted: Wanted) -> set[str]:
    """The names that hold no predictions in a file from which nothing else is read."""
    target = {wanted.target_key or "target"}
    if isinstance(file, TableFile):
        pattern = wanted.target_column or "target"
        target = {name for name in file.names for part in [pattern, *pattern.split(",")] if fnmatchcase(name, part)}
    return wanted.beside | target


def _member_names(file: Any, key: str | None, default: str, option: str, used: Any) -> list[str]:
    """A member of an .npz: by its key, by the field's own name, or the only one that is left (``used`` not None)."""
    if not file.names:
        if key is not None:
            raise ValueError(f"{option}: {file.path} is one array, which has no members")
        return []
    if key is not None:
        if key not in file.names:
            raise ValueError(f"{option}: {file.path} has no member {key!r}; it has {listing(file.names)}")
        return [key]
    if default in file.names:
        return [default]
    rest = [name for name in file.names if used is not None and name not in used]
    if len(rest) == 1:
        return rest
    raise ValueError(f"{option}: say which member of {file.path} is the {default}; it has {listing(file.names)}")


def _once(names: list[str], file: Any) -> list[str]:
    """The names, each of which the file must have once."""
    twice = next((name for name in names if file.names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{file.path}: column {twice!r} is there {file.names.count(twice)} times")
    return names
