"""pytest bench [--quick] [--benchmark-json FILE]: the cases of fastxent.contenders, one benchmark for each contender.

The benchmarks of a case form a group. Each one's extra_info says rows/s, GB/s and the share of the roofline, which is
measured when the case is prepared. `python -m fastxent.benchmark` compares the same calls in turns: better for ratios.
"""

import warnings

import pytest

from fastxent import benchmark as fast
from fastxent.contenders import CASES, WORKS

ROUNDS = 5
_prepared = {}  # the last case: its arrays may be large


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="small inputs")


def pytest_configure(config):
    config.addinivalue_line("python_files", "bench_*.py")


def pytest_generate_tests(metafunc):
    """A benchmark for each case of the module's topic (bench_losses.py: losses) and each of its contenders."""
    topic = metafunc.module.__name__.removeprefix("bench_")
    cases = [case.quick() if metafunc.config.getoption("--quick") else case for case in CASES if case.topic == topic]
    pairs = [(case, name) for case in cases for name in ("fastxent", *WORKS[case.work].peers)]
    metafunc.parametrize(("case", "contender"), pairs, ids=[f"{case.name}-{name}" for case, name in pairs])


@pytest.fixture
def time_case(benchmark):
    """A function that times one contender of a case."""

    def run(case, contender):
        problem, roofline_s = _prepare(case)
        if contender in problem.absent:
            pytest.skip(f"{contender}: {problem.absent[contender]} is not installed")
        benchmark.group = case.name
        call = problem.contenders[contender]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's deprecations
            once_s = fast.time_turns({contender: call}, 1)[contender]
            repeats = max(1, round(fast.TURN_S / once_s))
            benchmark.pedantic(call, rounds=ROUNDS, iterations=repeats, warmup_rounds=1)
        best_s = benchmark.stats.stats.min if benchmark.stats else once_s  # no statistics with --benchmark-disable
        benchmark.extra_info |= {
            "bytes": problem.n_bytes,
            "rows_per_s": case.n_rows / best_s,
            "gb_per_s": problem.n_bytes / best_s / 1e9,
            "share_of_roofline": roofline_s / best_s,
        }

    return run


def _prepare(case):
    if case not in _prepared:
        _prepared.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                problem = fast.prepare(case)
            except ImportError as error:
                pytest.skip(f"{case.dtype}: {error.name} is not installed")
            reads = {name: call for name, call in problem.references.items() if name != fast.LOSS_ALONE}
            _prepared[case] = problem, fast.roofline_s(fast.time_turns(reads, ROUNDS))
    return _prepared[case]


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["fastxent"] = fast.machine()
