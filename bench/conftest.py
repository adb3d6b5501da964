"""pytest bench [--large] [--benchmark-json FILE]: the cases of fastxent.benchmark, one benchmark for each contender.

The benchmarks of a case form a group. Each one's extra_info says rows/s, GB/s and the share of the limit, which is
measured when the case is prepared. Inputs have 64 MB unless --large asks for the gigabyte that no cache holds.
`fastxent bench` compares the same calls in turns: better for ratios.
"""

import warnings

import pytest

from fastxent.benchmark import measuring
from fastxent.benchmark.cases import CASES
from fastxent.benchmark.contenders import WORKS
from fastxent.benchmark.references import LIMITS, limit_s

ROUNDS = 5
USUAL_BYTES = 64 << 20
_prepared = {}  # the last case: its arrays may be large


def pytest_addoption(parser):
    parser.addoption("--large", action="store_true", help="inputs of a gigabyte")


def pytest_configure(config):
    config.addinivalue_line("python_files", "bench_*.py")


def pytest_generate_tests(metafunc):
    """A benchmark for each case of the module's topic (bench_losses.py: losses) and each of its contenders."""
    topic = metafunc.module.__name__.removeprefix("bench_")
    large = metafunc.config.getoption("--large")
    cases = [case if large else case.sized(USUAL_BYTES) for case in CASES if case.topic == topic]
    pairs = [(case, name) for case in cases for name in ("fastxent", *WORKS[case.work].peers)]
    metafunc.parametrize(("case", "contender"), pairs, ids=[f"{case.name}-{name}" for case, name in pairs])


@pytest.fixture
def time_case(benchmark):
    """A function that times one contender of a case."""

    def run(case, contender):
        problem, fastest_s = _prepare(case)
        if contender in problem.absent:
            pytest.skip(f"{contender}: {problem.absent[contender]} is not installed")
        benchmark.group = case.name
        call, scale = problem.contenders[contender], problem.scales.get(contender, 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's deprecations
            call()
            once_s = measuring.timed(call, 1)
            repeats = max(1, round(measuring.FULL.turn_s / once_s))
            benchmark.pedantic(call, rounds=ROUNDS if once_s < 1 else 1, iterations=repeats)
        best_s = benchmark.stats.stats.min if benchmark.stats else once_s  # no statistics with --benchmark-disable
        best_s *= scale
        benchmark.extra_info |= {
            "bytes": problem.n_bytes,
            "rows_per_s": problem.n_rows / best_s,
            "gb_per_s": problem.n_bytes / best_s / 1e9,
            "share_of_limit": fastest_s / best_s,
            "part_of_rows": 1 / scale,
        }

    return run


def _prepare(case):
    if case not in _prepared:
        _prepared.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                problem = measuring.prepare(case)
            except ImportError as error:
                pytest.skip(f"{case.dtype}: {error.name} is not installed")
            limits = {name: problem.references[name] for name in LIMITS[case.limit] if name in problem.references}
            for call in limits.values():
                call()
            _prepared[case] = problem, limit_s(case, measuring.time_turns(limits))
    return _prepared[case]


def pytest_benchmark_update_json(config, benchmarks, output_json):
    from fastxent.benchmark.machine import machine

    output_json["fastxent"] = machine()
