"""Where tiles of rows give way to single rows: both measured from 16 to 256 classes, by a process of its own.

The constant tiles.TILE_CLASSES decides for every N, since the bits depend on it; this is what it was chosen by.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastxent
from fastxent.benchmark import charts, tables
from fastxent.benchmark.cases import Case
from fastxent.benchmark.contenders import WORKS
from fastxent.benchmark.machine import describe, machine
from fastxent.benchmark.measuring import Pace, time_turns
from fastxent.benchmark.references import Call

SCHEMA = "fastxent.crossover/1"
MOST = 256
CLASSES = (16, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192, 224, MOST)
FEW_CLASSES = (16, 32, 64, 128, MOST)
BYTES = 1 << 19  # in the second-level cache
# Every module that is loaded later takes the sizes from here: nothing else may be loaded before.
PROGRAM = f"""
from fastxent.kernels import tiles
tiles.TILE_SIZE *= {MOST} // tiles.TILE_CLASSES + 1
tiles.TILE_CLASSES = {MOST}
import sys
from fastxent.benchmark.crossover import points
print(points("--quick" in sys.argv))
"""


@dataclasses.dataclass
class Crossover:
    """ns a row of both ways to compute a loss, on one thread with data in the second-level cache."""

    points: list[dict[str, Any]]
    chosen: int  # tiles.TILE_CLASSES
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain Python objects."""
        return {"schema": SCHEMA, "machine": machine(), "crossover": self.points, "tile_classes": self.chosen}

    def show(self, markdown: bool = False) -> None:
        """Print a line for each number of classes."""
        head = ["dtype", "classes", "tiles ns/row", "rows ns/row", "rows/tiles", "used"]
        lines = []
        for p in self.points:
            used = "tiles" if p["n_classes"] <= self.chosen else "rows"
            ratio = p["rows_ns"] / p["tiles_ns"]
            cells = [f"{p['tiles_ns']:.1f}", f"{p['rows_ns']:.1f}", f"{ratio:.2f}", used]
            lines.append([p["dtype"], str(p["n_classes"]), *cells])
        tables.show(tables.Sheet(head, lines, 1), markdown)
        sys.stdout.write(f"\n{describe(machine())}\n")

    def judge(self, *_: Any) -> bool:
        """Nothing here has a target."""
        return True

    def draw(self, path: str) -> None:
        """Draw the chart into a file."""
        charts.crossover(self.points, self.chosen, machine(), path)


def measure(quick: bool = False, tell: Callable[[str], Any] = lambda _: None) -> Crossover:
    """Compare tiles with single rows from 16 classes, the least that have a whole vector, to 256.

    The tiles' buffers are as large as the constant needs; a process of its own compiles them larger, without the
    cache of compiled code.

    Parameters
    ----------
    quick : bool
        Few numbers of classes.
    tell : callable
        Called with what is being done.
    """
    from fastxent.kernels.tiles import TILE_CLASSES

    tell("compiling tiles of up to 256 classes")
    environment = os.environ | {"FASTXENT_CACHE_DIR": os.devnull}  # whose names know nothing of another constant
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *(["--quick"] if quick else [])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Crossover(json.loads(done.stdout), TILE_CLASSES)


def points(quick: bool = False) -> str:
    """What the process of its own measures, as JSON: for each type and number of classes, ns a row of both ways."""
    from fastxent.kernels import batch

    found = []
    for dtype in ("float32", "float64"):
        for n_classes in FEW_CLASSES if quick else CLASSES:
            case = Case("cross_entropy", dtype, n_classes, n_rows=BYTES).sized(BYTES)
            z, y = WORKS[case.work].inputs(case, np.random.default_rng(0))

            def call(most: int, z: np.ndarray, y: np.ndarray) -> Any:
                batch.TILE_CLASSES = most
                return fastxent.cross_entropy(z, y, threads=1)

            calls: dict[str, Call] = {"tiles_ns": partial(call, MOST, z, y), "rows_ns": partial(call, 0, z, y)}
            values: list[float] = [each() for each in calls.values()]
            if not abs(values[0] - values[1]) <= 1e-5 * values[0]:
                raise RuntimeError(f"{n_classes} classes: tiles say {values[0]}, rows {values[1]}")
            pace = Pace(rounds=20 if quick else 200, budget_s=2.0, turn_s=0.0, pause_s=0.0)
            ns = {name: s / case.n_rows * 1e9 for name, s in time_turns(calls, pace).items()}
            found.append({"dtype": dtype, "n_classes": n_classes, "n_rows": case.n_rows, **ns})
    return json.dumps(found)
