"""Promise 3 where it is hardest: rows that hill climbing finds, and those that it found.

`bash ci/accuracy.sh` climbs for longer; what is recorded there is measured here once more.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import reference
from dossier import climb
from dossier.errors import Worst
from dossier.losses import SEARCHES
from dossier.measure import facts_of, rechecked
from dossier.oracles import WIDE_IS_WIDER
from dossier.record import RECORD, Journal, fuller, short_table
from reference import EXACT

import fastxent

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
pytestmark = pytest.mark.skipif(not WIDE_IS_WIDER, reason="needs an 80-bit long double")


@DTYPES
@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("tries", [512, pytest.param(51_200, marks=pytest.mark.slow)])
def test_no_row_that_climbing_finds_is_beyond_the_bound(search, dtype, tries):
    for c in search.classes if tries > 1000 else search.classes[:1] + search.classes[2:3]:
        found = climb.climb(search, dtype, c, tries, seed=c)["fastxent"]
        assert found.inputs >= tries
        _, exact = climb.recheck(search, dtype, found.relative_at)
        assert exact <= search.bound(dtype), (c, climb.read(found.relative_at))
        # The search saw what mpmath sees, or it climbs its oracle's errors.
        assert exact == pytest.approx(found.relative, abs=0.02 * search.bound(dtype)), c


CASES = json.loads(RECORD.read_text())["cases"]


@pytest.mark.parametrize("key", CASES)
def test_the_worst_input_on_record_gives_the_error_on_record(key):
    """The same bits on every machine, so the same error, and it is within the bound that is stated."""
    case = CASES[key]
    facts = facts_of(key)
    assert case["found"]["fastxent"]["relative"] <= case["bound"] == facts["bound"]
    exact = rechecked(key, Worst(**case["found"]["fastxent"]))
    for kind, error in exact.items():
        assert error == pytest.approx(case["found"]["fastxent"][kind], rel=1e-9), kind


def test_the_record_covers_every_float32_of_exp_and_log1p_and_every_search():
    for key in ("exp_shifted float32", "log1p_positive float32", "log_normal32 float32"):
        assert CASES[key]["found"]["fastxent"]["inputs"] == CASES[key]["of"] > 1e9
    assert set(CASES) >= {f"{name} {dtype}" for name in SEARCHES for dtype in ("float32", "float64")}
    assert short_table({"cases": CASES}).count("\n") > 20


def test_an_interrupted_run_goes_on_from_its_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for i in range(3):
        journal.add("exp", ("every", i, i + 1), {"fastxent": Worst(10, float(i), f"x{i}", 1.0, "y")})
    path.write_text(path.read_text()[:-5])  # killed while it wrote
    again = Journal(path)
    assert [piece for _, piece in again.done] == [("every", 0, 1), ("every", 1, 2)]
    again.add("exp", ("every", 2, 3), {"fastxent": Worst(10, 2.0, "x2", 1.0, "y")})
    total = Journal(path).total("exp")["fastxent"]
    assert (total.inputs, total.ulp, total.ulp_at, total.relative_at) == (30, 2.0, "x2", "y")


def test_what_a_run_left_out_stays_on_record():
    def cases(**inputs):
        return {key: {"found": {"fastxent": {"inputs": n}}} for key, n in inputs.items()}

    made = fuller(cases(a=5, b=7, gone=1), cases(c=3, b=9, a=4), ["c", "b", "a", "d"])
    assert list(made.items()) == list(cases(c=3, b=9, a=5).items())


@pytest.mark.slow
def test_the_script_writes_its_tables(tmp_path):
    here = RECORD.parent
    command = [sys.executable, "-m", "dossier", "--quick", "--folder", str(tmp_path), "log1p_unit32", "entropy, probs"]
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "accuracy.json").read_text())["cases"]
    assert set(made) == {"log1p_unit32 float32", "entropy, probs float32", "entropy, probs float64"}
    assert all(case["found"]["fastxent"]["relative"] <= case["bound"] for case in made.values())
    assert "| log1p_unit32 | float32 | 262,1" in (tmp_path / "accuracy.md").read_text()


@DTYPES
@pytest.mark.parametrize("c", [2, 40])
def test_a_score_card_keeps_the_digits_of_the_most_confident_rows(c, dtype):
    """Found by climbing: sums of terms up to 2^500 times a unit that had underflowed; 0.0 for an NLL of 1e-180."""
    gaps = np.arange(300.0, 700.0, 5.0)
    z = np.zeros((len(gaps), c), dtype)
    z[:, 1] = gaps
    z[:, 0] = 0.25
    card = fastxent.score(z, np.ones(len(z), int), worst=len(z))
    worst = {row.id: row.nll for row in card.worst}
    bound = 2.0**-21 if dtype == np.float32 else 2.0**-49
    for i, row in enumerate(z):
        want = reference.exact_nll(row, 1)
        assert abs(EXACT.mpf(worst[i]) - want) <= bound * want, row[:2]
    want = EXACT.fsum(reference.exact_entropy(row, "logits") for row in z) / len(z)
    assert abs(EXACT.mpf(card.entropy) - want) <= bound * want


@pytest.mark.parametrize("shift", [0.0, 100.0, 300.0, 500.0, 650.0])
def test_divergence_of_logits_far_from_their_rows_maximum_is_accurate(shift):
    """Found by climbing: the rounding of z - max is larger than that of the difference of two of them."""
    p = np.array([[-1.213454664834852, 690.0 - shift]])
    q = np.array([[-1.126617905841778, 689.8199187492467 - shift]])
    with EXACT.workdps(700):
        want, scale = reference.exact_kl_divergence(p[0], q[0], "logits")
    got = fastxent.kl_divergence(p, q, kind="logits", reduction="none")[0]
    assert abs(EXACT.mpf(got) - want) <= 2 * EXACT.mpf(2) ** -52 * scale
