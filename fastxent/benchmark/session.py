"""One run of ``fastxent bench``: cases measured once or several times, and what is made of it."""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fastxent.benchmark import charts, tables
from fastxent.benchmark.cases import Case, select
from fastxent.benchmark.judging import FAIL, NOT_JUDGED, PASS, TOLERANCE, Verdict, compare, judge, typical
from fastxent.benchmark.machine import describe, machine
from fastxent.benchmark.measuring import FULL, QUICK, Pace, Row, run

SCHEMA = "fastxent.benchmark/2"


@dataclasses.dataclass
class Session:
    """Everything measured so far: the runs of the whole table, one after another."""

    cases: Sequence[Case]
    runs: list[list[Row]] = dataclasses.field(default_factory=list)
    interrupted: bool = False

    def by_case(self) -> list[list[Row]]:
        """The runs of each case, in the order of the table; a case without any is left out."""
        found = [[row for rows in self.runs for row in rows if row.case == case] for case in self.cases]
        return [rows for rows in found if rows]

    @property
    def rows(self) -> list[Row]:
        """Each case's run with the median share of its limit."""
        return [typical(rows) for rows in self.by_case()]

    def verdicts(self) -> list[Verdict]:
        """Of the cases that have a target."""
        return [judge(rows) for rows in self.by_case() if rows[0].case.target is not None]

    def show(self, markdown: bool = False) -> None:
        """Print the table, what it means, and the machine."""
        rows = self.rows
        tables.show(tables.results(rows) if markdown else tables.fitting(rows), markdown)
        sys.stdout.write(f"\n{tables.legend(rows)}\n\n{describe(machine())}\n")

    def judge(self, targets: bool = False, old: str | None = None, tolerance: float = TOLERANCE) -> bool:
        """Print verdicts and changes, where they are wanted; whether nothing fell short.

        Parameters
        ----------
        targets : bool
        old : str, optional
            A file of ``--json`` to compare with.
        tolerance : float
            Of the share of the limit.
        """
        fine = True
        if targets:
            found = self.verdicts()
            counts = Counter(verdict.result for verdict in found)
            sys.stdout.write("\n")
            tables.show(tables.verdicts(found))
            summary = ", ".join(f"{counts[result]} {result}" for result in (PASS, FAIL, NOT_JUDGED) if counts[result])
            sys.stdout.write(f"\n{summary}; the median of {len(self.runs)} run{'s' * (len(self.runs) > 1)} decides\n")
            fine = counts[FAIL] == 0
        if old is not None:
            changes = compare(read_rows(old), [row.to_dict() for row in self.rows], tolerance)
            counts = Counter(change.result for change in changes)
            sys.stdout.write("\n")
            tables.show(tables.changes(changes))
            sys.stdout.write(
                f"\n{counts['slower']} slower, {counts['faster']} faster, by the share of the limit and more than "
                f"{tolerance:.0%}\n"
            )
            fine = fine and counts["slower"] == 0
        return fine

    def draw(self, path: str) -> None:
        """Draw the roofline chart into a file."""
        charts.roofline(self.rows, machine(), path)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python objects: the machine, the median rows, and every run."""
        return {
            "schema": SCHEMA,
            "machine": machine(),
            "rows": [row.to_dict() for row in self.rows],
            "runs": [[row.to_dict() for row in rows] for rows in self.runs],
        }


def measure_all(
    cases: Sequence[Case], pace: Pace = FULL, runs: int = 1, tell: Callable[[str], Any] = lambda _: None
) -> Session:
    """Measure the whole table so many times; Ctrl-C ends it, and keeps what is there.

    Parameters
    ----------
    cases : sequence of Case
    pace : Pace
    runs : int
    tell : callable
        Called with what is being measured, and with what was left out.
    """
    session = Session(cases)
    try:
        for k in range(runs):
            rows: list[Row] = []
            session.runs.append(rows)
            for i, case in enumerate(cases):
                which = f"run {k + 1} of {runs}, " if runs > 1 else ""
                tell(f"{which}case {i + 1} of {len(cases)}: {case.name}")
                run([case], pace, tell, rows)
    except KeyboardInterrupt:
        session.interrupted = True
    return session


def read_rows(path: str) -> list[dict[str, Any]]:
    """The rows that ``--json`` wrote to a file.

    Raises
    ------
    ValueError
        If it holds something else.
    """
    with open(path) as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"--compare: {path} is no JSON ({error})") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"--compare: {path} was not written by this version's fastxent bench --json ({SCHEMA})")
    rows: list[dict[str, Any]] = content["rows"]
    return rows


def measure_named(
    names: Sequence[str],
    quick: bool = False,
    targets: bool = False,
    runs: int | None = None,
    rounds: int | None = None,
    tell: Callable[[str], Any] = lambda _: None,
) -> Session:
    """What the command line asks for.

    Parameters
    ----------
    names : sequence of str
        Words of cases.
    quick, targets : bool
        Small inputs and little time; only what has a target.
    runs, rounds : int, optional
        Whole tables (1, or 3 for targets), and turns of each contender in a case.
    tell : callable

    Raises
    ------
    ValueError
        If a word matches no case, or a number is below 1.
    """
    for option, number in (("--runs", runs), ("--rounds", rounds)):
        if number is not None and number < 1:
            raise ValueError(f"{option}: must be at least 1, got {number}")
    pace = QUICK if quick else FULL
    pace = pace if rounds is None else pace._replace(rounds=rounds)
    return measure_all(select(list(names), quick=quick, targets=targets), pace, runs or (3 if targets else 1), tell)
