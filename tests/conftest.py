"""What the tests share: the folder of their helpers, the slow ones' switch, and the table of the worst errors found."""

import math
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # reference.py and rows.py, whatever the import mode

from reference import EXACT, exact

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background: so would be what it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too: the larger sweeps")


def pytest_configure(config):
    """Hypothesis: the same few examples every time, or with --slow very many new ones."""
    short = {"derandomize": True, "max_examples": 20, "stateful_step_count": 25, "database": None}
    settings.register_profile("short", deadline=None, suppress_health_check=[HealthCheck.too_slow], **short)
    settings.register_profile("slow", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("slow" if config.getoption("--slow") else "short")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


# ---- accuracy: what was measured, printed after the run -------------------------------------------------------------

BOUND = {"float32": 2.0**-21, "float64": 2.0**-49}  # the third promise of the design
_DENORMALS = EXACT.ldexp(4, -1074)  # terms that float64 rounds below its normal range have no relative accuracy
_LARGEST = EXACT.ldexp(1, 1024) - EXACT.ldexp(1, 970)  # from here on float64 rounds to infinity
_worst = {}


class Errors:
    """Relative errors of one function against exact values. `add` them, then `verify` that the bound holds for all."""

    def __init__(self, function, dtype, promised=True):
        self.key = (function, str(dtype))
        self.bound = BOUND[str(dtype)]
        self.failures = []
        _worst.setdefault(self.key, {"rows": 0, "error": 0.0, "where": "", "bound": self.bound, "promised": promised})

    def add(self, got, want, where, *, scale=None, rounding=0):
        """Compare a float with an exact value, on a scale (default: the value); `rounding`: an absolute allowance."""
        error = self._error(float(got), want, scale, rounding)
        record = _worst[self.key]
        record["rows"] += 1
        if error > record["error"] or not record["where"]:
            record["error"], record["where"] = error, where
        if not error <= self.bound:
            self.failures.append((error, f"{where}: got {float(got)!r}, want {EXACT.nstr(want, 20)}"))

    def count(self, rows):
        """Add rows of a sweep whose worst were added one by one."""
        _worst[self.key]["rows"] += rows

    def _error(self, got, want, scale, rounding):
        if EXACT.isnan(want):
            return 0.0 if math.isnan(got) else math.inf
        if math.isnan(got):
            return math.inf
        if abs(want) >= _LARGEST:
            return 0.0 if math.isinf(got) and (got > 0) == (want > 0) else math.inf
        if math.isinf(got):
            return math.inf
        missed = abs(exact(got) - want) - rounding - _DENORMALS
        if missed <= 0:
            return 0.0
        scale = abs(want) if scale is None else scale
        return float(missed / scale) if scale else math.inf

    def verify(self):
        self.failures.sort(key=lambda failure: -failure[0])
        worst = "\n".join(f"  {_power(error)} {what}" for error, what in self.failures[:8])
        assert not self.failures, (
            f"{self.key[0]} ({self.key[1]}): {len(self.failures)} of {_worst[self.key]['rows']} rows "
            f"beyond {_power(self.bound)}:\n{worst}"
        )


def _power(error):
    return "0" if error == 0 else "inf" if math.isinf(error) else f"2^{math.log2(error):.1f}"


@pytest.fixture
def errors():
    """The class that collects relative errors; what it saw is printed when the run ends."""
    return Errors


def pytest_terminal_summary(terminalreporter):
    if not _worst:
        return
    terminalreporter.section("worst relative errors against mpmath")
    write = terminalreporter.write_line
    write(f"{'function':<34}{'dtype':<9}{'values':>8}  {'worst':>8}  {'bound':>6}  where")
    for (function, dtype), found in sorted(_worst.items()):
        if found["rows"]:
            mark = "" if found["promised"] else " (not promised)"
            write(
                f"{function:<34}{dtype:<9}{found['rows']:>8}  {_power(found['error']):>8}  "
                f"{_power(found['bound']).split('.')[0]:>6}  {found['where']}{mark}"
            )
