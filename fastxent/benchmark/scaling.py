"""How time grows with rows, classes and threads."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import fastxent
from fastxent.benchmark import charts, tables
from fastxent.benchmark.cases import Case
from fastxent.benchmark.contenders import WORKS
from fastxent.benchmark.machine import describe, machine
from fastxent.benchmark.measuring import FULL, QUICK, Pace, time_turns
from fastxent.benchmark.references import reader, sum_chunk
from fastxent.threads import limited

SCHEMA = "fastxent.scaling/1"
ROW_CLASSES = (2, 10, 1000)
CLASSES = (2, 3, 5, 10, 16, 20, 32, 50, 64, 65, 80, 100, 128, 200, 500, 1000, 2000, 5000, 10000, 50257, 128256, 500000)
MOST_ROWS = 10**8
FULL_BYTES, CONSTANT_BYTES = 16 * 10**8, 5 * 10**8  # 10^8 rows of two classes; every point of the series of classes
QUICK_BYTES, QUICK_CONSTANT_BYTES = 16 << 20, 8 << 20


class Point(NamedTuple):
    """One measurement."""

    series: str  # "rows", "classes" or "threads"
    n_rows: int
    n_classes: int
    threads: int
    n_bytes: int
    seconds: float
    sum_s: float  # of the plain sum of the same bytes on the same threads

    @property
    def row_ns(self) -> float:
        return self.seconds / self.n_rows * 1e9

    @property
    def gb_per_s(self) -> float:
        return self.n_bytes / self.seconds / 1e9


@dataclasses.dataclass
class Growth:
    """The points measured so far."""

    points: list[Point] = dataclasses.field(default_factory=list)
    interrupted: bool = False

    def of(self, series: str) -> list[Point]:
        """The points of a series."""
        return [point for point in self.points if point.series == series]

    def to_dict(self) -> dict[str, Any]:
        """As plain Python objects."""
        points = [{**p._asdict(), "row_ns": p.row_ns, "gb_per_s": p.gb_per_s} for p in self.points]
        return {"schema": SCHEMA, "machine": machine(), "points": points}

    def show(self, markdown: bool = False) -> None:
        """Print a line for each point."""
        head = ["series", "rows", "classes", "threads", "time", "ns/row", "GB/s", "of the sum"]
        lines = []
        for p in self.points:
            cells = [f"{p.n_rows:,}", f"{p.n_classes:,}", str(p.threads), tables.duration(p.seconds)]
            lines.append([p.series, *cells, f"{p.row_ns:.4g}", f"{p.gb_per_s:.3g}", f"{p.sum_s / p.seconds:.2f}"])
        tables.show(tables.Sheet(head, lines, 1), markdown)
        sys.stdout.write(f"\n{describe(machine())}\n")

    def judge(self, *_: Any) -> bool:
        """Nothing here has a target."""
        return True

    def draw(self, path: str) -> None:
        """Draw the chart into a file."""
        charts.scaling({name: self.of(name) for name in ("rows", "classes", "threads")}, machine(), path)


def plan(quick: bool = False, all_threads: int | None = None) -> Iterator[tuple[str, Case, int]]:
    """What is measured: (series, float32 case, threads).

    Parameters
    ----------
    quick : bool
        Small inputs.
    all_threads : int, optional
        As many as the process may use, unless given.
    """
    threads = all_threads or fastxent.get_threads()
    most, constant = (QUICK_BYTES, QUICK_CONSTANT_BYTES) if quick else (FULL_BYTES, CONSTANT_BYTES)
    for n_classes in ROW_CLASSES:
        for half_decades in range(6, 17):
            case = Case("cross_entropy", "float32", n_classes, n_rows=round(10 ** (half_decades / 2)))
            if case.n_rows * case.row_bytes <= most and case.n_rows <= MOST_ROWS:
                yield "rows", case, threads
    for n_classes in CLASSES:
        yield "classes", Case("cross_entropy", "float32", n_classes, n_rows=MOST_ROWS).sized(constant), threads
    for n_classes in ROW_CLASSES:
        case = Case("cross_entropy", "float32", n_classes, n_rows=MOST_ROWS).sized(constant)
        for number in sorted({2**k for k in range(threads.bit_length())} | {threads}):
            yield "threads", case, number


def measure(
    quick: bool = False, tell: Callable[[str], Any] = lambda _: None, steps: Sequence[Any] | None = None
) -> Growth:
    """Measure every point; Ctrl-C ends it, and keeps what is there.

    Parameters
    ----------
    quick : bool
    tell : callable
        Called with what is being measured.
    steps : sequence, optional
        What to measure, unless it is `plan`'s.
    """
    growth = Growth()
    steps = list(plan(quick)) if steps is None else steps
    try:
        for i, (series, case, threads) in enumerate(steps):
            tell(f"point {i + 1} of {len(steps)}: {case.n_rows:,} x {case.n_classes:,}, {threads} threads")
            growth.points.append(_point(series, case, threads, QUICK if quick else FULL))
    except KeyboardInterrupt:
        growth.interrupted = True
    return growth


def _point(series: str, case: Case, threads: int, pace: Pace) -> Point:
    arrays = WORKS[case.work].inputs(case, np.random.default_rng(0))
    z, y = arrays
    with limited(threads):
        calls = {"fastxent": lambda: fastxent.cross_entropy(z, y), "sum": reader(sum_chunk, arrays)}
        for call in calls.values():
            call()
        seconds = time_turns(calls, pace)
    n_bytes = z.nbytes + y.nbytes
    return Point(series, case.n_rows, case.n_classes, threads, n_bytes, seconds["fastxent"], seconds["sum"])
