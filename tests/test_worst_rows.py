"""Promise 3 where it is hardest: rows that hill climbing finds, and those that it found.

`bash ci/accuracy.sh` climbs for longer; what is recorded there is measured here once more.
"""

import numpy as np
import pytest
import reference
from dossier import climb
from dossier.losses import SEARCHES
from dossier.oracles import WIDE_IS_WIDER
from reference import EXACT

import fastxent

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
pytestmark = pytest.mark.skipif(not WIDE_IS_WIDER, reason="needs an 80-bit long double")


@DTYPES
@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("tries", [512, pytest.param(50_000, marks=pytest.mark.slow)])
def test_no_row_that_climbing_finds_is_beyond_the_bound(search, dtype, tries):
    for c in search.classes if tries > 1000 else search.classes[:1] + search.classes[2:3]:
        found = climb.climb(search, dtype, c, tries, seed=c)["fastxent"]
        assert found.inputs >= tries
        _, exact = climb.recheck(search, dtype, found.relative_at)
        assert exact <= search.bound(dtype), (c, climb.read(found.relative_at))
        # The search saw what mpmath sees, or it climbs its oracle's errors.
        assert exact == pytest.approx(found.relative, abs=0.02 * search.bound(dtype)), c


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
