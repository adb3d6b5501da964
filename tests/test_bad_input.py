"""Bad input: one error, one line, which names the argument, the first offending row and the value."""

import datetime
import math

import numpy as np
import pytest

import fastxent as fx

N, C = 6, 4
Z = np.linspace(-3, 3, N * C, dtype=np.float32).reshape(N, C)
P = np.full((N, C), 0.25)
LP = np.log(P)
Y = np.arange(N) % C
B = np.linspace(-2, 2, N)
T = np.array([0.0, 1.0, 0.5, 1.0, 0.0, 0.25])


def changed(array, at, value, dtype=None):
    """A copy with one entry changed."""
    copy = np.array(array, dtype=dtype)
    copy[at] = value
    return copy


class Broken:
    """Says that it is an array, and is none."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("lost\nin two lines")


def ce(*args, **options):
    return fx.cross_entropy, args, options


# name, the call, the error, and what else the message must say (a value, a place, advice)
BAD = [
    # the target's values
    ("target", ce(Z, changed(Y, 3, -1)), ValueError, "row 3 is -1"),
    ("target", ce(Z, changed(Y, 3, -1)), ValueError, "ignore_index=-1"),
    ("target", ce(Z, changed(Y, 2, -100)), ValueError, "ignore_index=-100"),
    ("target", ce(Z, changed(Y, 0, C)), ValueError, f"row 0 is {C}, outside 0..{C - 1}"),
    ("target", ce(Z, changed(Y, 5, 2**62)), ValueError, str(2**62)),
    ("target", ce(Z, changed(Y, 5, -(2**63))), ValueError, str(-(2**63))),
    ("target", ce(Z, changed(Y, 4, 2**63, np.uint64)), ValueError, f"row 4 is {2**63}"),
    ("target", ce(Z, changed(Y, 4, 2**64 - 1, np.uint64)), ValueError, str(2**64 - 1)),
    ("target", ce(Z, changed(Y, 4, 2**64 - 1, np.uint64), ignore_index=-1), ValueError, str(2**64 - 1)),
    ("target", ce(Z, changed(Y, 1, 255, np.uint8)), ValueError, "ignore_index=255"),
    ("target", ce(Z, changed(Y, 1, -128, np.int8)), ValueError, "-128"),
    ("target", ce(Z, changed(Y, 1, -2, ">i4")), ValueError, "row 1 is -2"),
    ("target", ce(Z, changed(Y, 1, -1), ignore_index=-100), ValueError, "row 1"),
    ("target", ce(Z.reshape(2, 3, C), changed(Y, 4, 9).reshape(2, 3)), ValueError, "row 4 (index (1, 1)) is 9"),
    ("target", ce(Z[::-1], changed(Y, 1, -7)[::-1]), ValueError, "row 4 is -7"),
    ("target", ce(Z[0], C), ValueError, str(C)),
    ("target", ce(Z, changed(P, (2, 1), -0.5)), ValueError, "row 2 has -0.5 for class 1"),
    ("target", ce(Z.astype("f4"), changed(P, (2, 1), -1e-300, "f8")), ValueError, "row 2 has -1e-300 for class 1"),
    ("target", ce(Z, changed(P, (2, 3), math.nan)), ValueError, "nan"),
    ("target", ce(Z, changed(P, (2, 3), math.inf)), ValueError, "inf"),
    ("target", ce(Z, changed(P, (4, 0), 0.75)), ValueError, "row 4 sums to 1.5"),
    ("target", ce(Z, np.zeros((N, C), int)), ValueError, "row 0 sums to 0"),
    ("target", ce(Z[:, :1], Y[:, None]), ValueError, "class indices have one dimension fewer"),
    ("target", (fx.nll, (LP, changed(Y, 2, C)), {}), ValueError, "row 2"),
    ("target", (fx.log_loss, (P, changed(Y, 2, -1)), {}), ValueError, "row 2"),
    ("target", (fx.perplexity, (Z, changed(Y, 2, -1)), {}), ValueError, "row 2"),
    ("target", (fx.log_likelihood, (Z, changed(Y, 2, -1)), {}), ValueError, "row 2"),
    # the target's shape and dtype
    ("target", ce(Z, Y[:-1]), ValueError, f"shape ({N - 1},) does not go with logits of shape ({N}, {C})"),
    ("target", ce(Z, Y[:, None]), ValueError, f"({N}, 1)"),
    ("target", ce(Z, P[:, :-1]), ValueError, f"({N}, {C - 1})"),
    ("target", ce(Z, P.T), ValueError, f"({C}, {N})"),
    ("target", ce(Z, 1), ValueError, "()"),
    ("target", ce(Z, np.empty((0,), int)), ValueError, "(0,)"),
    ("target", ce(Z, P[None]), ValueError, f"(1, {N}, {C})"),
    ("target", ce(Z.T, Y[:-1], axis=0), ValueError, f"logits of shape ({C}, {N})"),
    ("target", ce(Z, Y.astype(float)), TypeError, "float64"),
    ("target", ce(Z, Y.astype(np.float16)), TypeError, "float16"),
    ("target", ce(Z, Y > 0), TypeError, "bool"),
    ("target", ce(Z, list(map(str, Y))), TypeError, ""),
    ("target", ce(Z, Y.astype(object)), TypeError, "object"),
    ("target", ce(Z, Y.astype(complex)), TypeError, "complex128"),
    ("target", ce(Z, Y.astype("M8[D]")), TypeError, "datetime64"),
    ("target", ce(Z, Y.astype("m8[s]")), TypeError, "timedelta64"),
    ("target", ce(Z, None), TypeError, "None"),
    ("target", ce(Z, {0: 1}), TypeError, "dict"),
    ("target", ce(Z, "012301"), TypeError, "str"),
    ("target", ce(Z, P.astype(complex)), TypeError, "complex128"),
    ("target", ce(Z, [0, 1, 2, 3, 0, [1]]), ValueError, ""),
    ("target", ce(Z, np.ma.masked_array(Y, Y == 0)), TypeError, "masked"),
    # predictions
    ("logits", ce(Z.astype(complex), Y), TypeError, "complex128"),
    ("logits", ce(Z.astype(object), Y), TypeError, "object"),
    ("logits", ce(Z > 0, Y), TypeError, "bool"),
    ("logits", ce(Z.astype("U8"), Y), TypeError, "<U8"),
    ("logits", ce(Z.astype("S8"), Y), TypeError, "|S8"),
    ("logits", ce(np.zeros((N, C), "f4,f4"), Y), TypeError, ""),
    ("logits", ce([[datetime.date.today()] * C] * N, Y), TypeError, "objects"),
    ("logits", ce(np.ma.masked_array(Z, Z < 0), Y), TypeError, "masked"),
    ("logits", ce(np.float32(1), 0), ValueError, "class axis"),
    ("logits", ce(np.empty((N, 0)), Y), ValueError, "no classes"),
    ("logits", ce(np.empty((0, 0)), []), ValueError, "no classes"),
    ("logits", ce(None, Y), TypeError, "None"),
    ("logits", ce(b"abc", Y), TypeError, "bytes"),
    ("logits", ce([[1.0, 2.0], [3.0]], [0, 0]), ValueError, ""),
    ("logits", ce(Broken(), Y), TypeError, "lost"),
    ("logits", (fx.softmax, ({},), {}), TypeError, "dict"),
    ("logits", (fx.log_softmax, (np.empty((3, 0)),), {}), ValueError, "no classes"),
    ("logits", (fx.logsumexp, (Z.astype(complex),), {}), TypeError, "complex128"),
    ("log_probs", (fx.nll, (changed(LP, (4, Y[4]), 0.5), Y), {}), ValueError, "row 4 has 0.5"),
    ("log_probs", (fx.nll, (changed(LP, (4, Y[4]), math.nan), Y), {}), ValueError, "row 4 has nan"),
    ("log_probs", (fx.nll, (changed(LP, (1, 2), 0.5), P), {}), ValueError, "row 1 has 0.5 for class 2"),
    ("probs", (fx.log_loss, (changed(P, (3, 1), 1.5), Y), {}), ValueError, "row 3 has 1.5 for class 1"),
    ("probs", (fx.log_loss, (changed(P, (3, 1), -0.25), Y), {}), ValueError, "row 3 has -0.25"),
    ("probs", (fx.log_loss, (changed(P, (3, 1), math.nan), Y), {}), ValueError, "row 3 has nan"),
    ("probs", (fx.log_loss, (changed(P, (3, 1), 0.5), Y), {}), ValueError, "row 3 sums to 1.25"),
    ("probs", (fx.log_loss, (changed(P, (3, 1), 0.5), P), {}), ValueError, "normalize=True"),
    ("probs", (fx.log_loss, (P * 1.01, Y), {"sum_tol": 1e-3}), ValueError, "row 0 sums to 1.01"),
    ("p", (fx.entropy, (changed(P, (2, 0), 0.5),), {}), ValueError, "row 2"),
    ("p", (fx.entropy, (changed(P, (2, 0), -0.5),), {}), ValueError, "row 2 has -0.5"),
    ("p", (fx.kl_divergence, (changed(P, (2, 0), 2.0), P), {}), ValueError, "row 2 has 2.0"),
    ("q", (fx.kl_divergence, (P, changed(P, (2, 0), 0.5)), {}), ValueError, "row 2 sums to 1.25"),
    ("q", (fx.kl_divergence, (P, P[:-1]), {}), ValueError, f"({N - 1}, {C})"),
    ("q", (fx.kl_divergence, (P, P[0]), {}), ValueError, f"({C},)"),
    # binary
    ("target", (fx.binary_cross_entropy, (B, changed(T, 2, 1.5)), {}), ValueError, "row 2 is 1.5"),
    ("target", (fx.binary_cross_entropy, (B, changed(T, 2, math.nan)), {}), ValueError, "row 2 is nan"),
    ("target", (fx.binary_cross_entropy, (B, np.array([1, 1, -1, 1, -1, 1])), {}), ValueError, "(y + 1) / 2"),
    ("target", (fx.binary_cross_entropy, (B, T[:-1]), {}), ValueError, f"({N},)"),
    ("target", (fx.binary_cross_entropy, (B, T[:, None]), {}), ValueError, f"({N}, 1)"),
    ("target", (fx.binary_cross_entropy, (B, ["yes"] * N), {}), TypeError, ""),
    ("logits", (fx.binary_cross_entropy, (B > 0, T), {}), TypeError, "booleans"),
    ("logits", (fx.binary_cross_entropy, (B * 1j, T), {}), TypeError, "complex128"),
    ("probs", (fx.binary_log_loss, (changed(T, 1, 1.5), T), {}), ValueError, "row 1 is 1.5"),
    ("probs", (fx.binary_log_loss, (changed(T, 1, math.nan), T), {}), ValueError, "row 1 is nan"),
    ("eps", (fx.binary_log_loss, (T, T), {"eps": 0.5}), ValueError, "0.5"),
    ("pos_weight", (fx.binary_cross_entropy, (B, T), {"pos_weight": -1}), ValueError, "-1"),
    ("pos_weight", (fx.binary_cross_entropy, (B, T), {"pos_weight": math.nan}), ValueError, "nan"),
    ("pos_weight", (fx.binary_cross_entropy, (B, T), {"pos_weight": np.ones(3)}), TypeError, ""),
    (
        "sample_weight",
        (fx.binary_cross_entropy, (B, T), {"sample_weight": changed(T, 3, -1)}),
        ValueError,
        "row 3 has -1.0",
    ),
    # weights
    ("weight", ce(Z, Y, weight=np.ones(C + 1)), ValueError, f"({C + 1},)"),
    ("weight", ce(Z, Y, weight=np.ones((C, 1))), ValueError, f"({C}, 1)"),
    ("weight", ce(Z, Y, weight=2.0), ValueError, "()"),
    ("weight", ce(Z, Y, weight=changed(np.ones(C), 2, math.nan)), ValueError, "class 2 has nan"),
    ("weight", ce(Z, Y, weight=changed(np.ones(C), 2, -1)), ValueError, "class 2 has -1.0"),
    ("weight", ce(Z, Y, weight=changed(np.ones(C), 2, math.inf)), ValueError, "class 2 has inf"),
    ("weight", ce(Z, Y, weight=["a"] * C), TypeError, ""),
    ("weight", ce(Z, Y, weight=np.ones(C, bool)), TypeError, "bool"),
    ("sample_weight", ce(Z, Y, sample_weight=np.ones(N + 1)), ValueError, f"({N + 1},)"),
    ("sample_weight", ce(Z, Y, sample_weight=1.0), ValueError, "()"),
    ("sample_weight", ce(Z, Y, sample_weight=np.ones((N, 1))), ValueError, f"({N}, 1)"),
    ("sample_weight", ce(Z, Y, sample_weight=changed(np.ones(N), 5, -1e-9)), ValueError, "row 5 has -1e-09"),
    ("sample_weight", ce(Z, Y, sample_weight=changed(np.ones(N), 1, math.nan)), ValueError, "row 1 has nan"),
    ("sample_weight", ce(Z, Y, sample_weight=changed(np.ones(N), 1, math.inf)), ValueError, "row 1 has inf"),
    ("sample_weight", ce(Z, Y, sample_weight=[-1] * N), ValueError, "row 0 has -1.0"),
    ("sample_weight", ce(Z, Y, sample_weight=np.ones(N, complex)), TypeError, "complex128"),
    ("sample_weight", ce(Z, P, sample_weight=changed(np.ones(N), 1, math.nan)), ValueError, "row 1"),
    # options
    ("ignore_index", ce(Z, Y, ignore_index=1.0), TypeError, "1.0"),
    ("ignore_index", ce(Z, Y, ignore_index=True), TypeError, "True"),
    ("ignore_index", ce(Z, Y, ignore_index="-1"), TypeError, "'-1'"),
    ("ignore_index", ce(Z, Y, ignore_index=np.array([1])), TypeError, ""),
    ("ignore_index", ce(Z, Y, ignore_index=2**70), ValueError, str(2**70)),
    ("ignore_index", ce(Z, P, ignore_index=0), ValueError, "distributions"),
    ("label_smoothing", ce(Z, Y, label_smoothing=-0.1), ValueError, "-0.1"),
    ("label_smoothing", ce(Z, Y, label_smoothing=1.1), ValueError, "1.1"),
    ("label_smoothing", ce(Z, Y, label_smoothing=math.nan), ValueError, "nan"),
    ("label_smoothing", ce(Z, Y, label_smoothing="0"), TypeError, "'0'"),
    ("temperature", ce(Z, Y, temperature=0.0), ValueError, "0.0"),
    ("temperature", ce(Z, Y, temperature=-1), ValueError, "-1"),
    ("temperature", ce(Z, Y, temperature=math.inf), ValueError, "inf"),
    ("temperature", ce(Z, Y, temperature=None), TypeError, "None"),
    ("temperature", (fx.softmax, (Z,), {"temperature": math.nan}), ValueError, "nan"),
    ("eps", (fx.log_loss, (P, Y), {"eps": 0.5}), ValueError, "0.5"),
    ("eps", (fx.log_loss, (P, Y), {"eps": -1e-9}), ValueError, "-1e-09"),
    ("eps", (fx.log_loss, (P, Y), {"eps": "auto"}), TypeError, "'auto'"),
    ("sum_tol", (fx.log_loss, (P, Y), {"sum_tol": -1.0}), ValueError, "-1.0"),
    ("sum_tol", (fx.log_loss, (P, Y), {"sum_tol": math.nan}), ValueError, "nan"),
    ("normalize", (fx.log_loss, (P, Y), {"normalize": 1}), TypeError, "1"),
    ("reduction", ce(Z, Y, reduction="avg"), ValueError, "'avg'"),
    ("reduction", ce(Z, Y, reduction=None), TypeError, "None"),
    ("reduction", ce(Z, Y, reduction=np.array(["mean", "sum"])), TypeError, ""),
    ("kind", (fx.entropy, (P,), {"kind": "prob"}), ValueError, "'prob'"),
    ("kind", (fx.kl_divergence, (P, P), {"kind": 2}), TypeError, "2"),
    ("axis", ce(Z, Y, axis=2), ValueError, "2"),
    ("axis", ce(Z, Y, axis=-3), ValueError, "-3"),
    ("axis", ce(Z, Y, axis=1.0), TypeError, "1.0"),
    ("axis", ce(Z, Y, axis=(1,)), TypeError, "(1,)"),
    ("axis", ce(Z, Y, axis=None), TypeError, "None"),
    ("threads", ce(Z, Y, threads=0), ValueError, "0"),
    ("threads", ce(Z, Y, threads=-2), ValueError, "-2"),
    ("threads", ce(Z, Y, threads=1.5), TypeError, ""),
    ("threads", (fx.softmax, (Z,), {"threads": 0}), ValueError, "0"),
    # out
    ("out", ce(Z, Y, out=np.empty(N)), ValueError, f"({N},)"),
    ("out", ce(Z, Y, reduction="none", out=np.empty(N - 1)), ValueError, f"({N - 1},)"),
    ("out", ce(Z, Y, reduction="none", out=np.empty(N, "f4")), TypeError, "float32"),
    ("out", ce(Z, Y, reduction="none", out=np.empty(N, int)), TypeError, "int64"),
    ("out", ce(Z, Y, reduction="none", out=[0.0] * N), TypeError, "list"),
    ("out", ce(Z, Y, reduction="none", out=np.broadcast_to(0.0, N)), ValueError, "read-only"),
    ("out", (fx.softmax, (Z,), {"out": np.empty((N, C))}), TypeError, "float64"),
    ("out", (fx.softmax, (Z,), {"out": np.empty((C, N), "f4")}), ValueError, f"({C}, {N})"),
    ("out", (fx.logsumexp, (Z,), {"out": np.empty((N, 1))}), ValueError, f"({N}, 1)"),
]


@pytest.mark.parametrize(("name", "call", "error", "says"), BAD, ids=[f"{i}-{row[0]}" for i, row in enumerate(BAD)])
def test_bad_call_gets_one_line_that_names_the_argument(name, call, error, says):
    function, args, options = call
    with pytest.raises(error) as caught:
        function(*args, **options)
    message = str(caught.value)
    assert type(caught.value) is error
    assert message.startswith(f"{name}: "), message
    assert says in message, message
    assert "\n" not in message


def test_the_table_is_long_enough():
    assert len(BAD) >= 60


def test_sparse_matrices_are_refused():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"^logits: a sparse matrix; pass x\.toarray\(\)"):
        fx.cross_entropy(sparse.csr_matrix(Z), Y)


def test_tensors_that_numpy_cannot_see_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"^logits: a tensor on meta"):
        fx.cross_entropy(torch.empty(N, C, device="meta"), Y)
    with pytest.raises(TypeError, match=r"^logits: "):
        fx.cross_entropy(torch.from_numpy(Z).to_sparse(), Y)
    with pytest.raises(TypeError, match=r"^target: dtype bfloat16 cannot be class indices"):
        fx.cross_entropy(Z, torch.zeros(N, dtype=torch.bfloat16))


def test_missing_values_are_refused():
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"^target: row 2 is null, one of 1; fill or drop missing values"):
        fx.cross_entropy(Z, pa.array([0, 1, None, 3, 0, 1]))
    with pytest.raises(ValueError, match=r"^probs: row 1 is null, one of 2"):
        fx.binary_log_loss(pa.array([0.5, None, None]), [0, 1, 1])


@pytest.mark.parametrize("row", [0, 1, 4095, 70_000, 99_999])
@pytest.mark.parametrize("bad", [-1, 10, 2**62])
def test_the_first_bad_label_of_many_rows_is_named(row, bad):
    logits, labels = np.zeros((100_000, 10), np.float32), np.zeros(100_000, np.int64)
    labels[row:] = bad
    for threads in (1, 2):
        with pytest.raises(ValueError, match=rf"^target: row {row} is {bad}, outside 0..9"):
            fx.cross_entropy(logits, labels, threads=threads)


def test_a_bad_row_behind_the_first_slice_is_named(monkeypatch):
    monkeypatch.setattr("fastxent.slices.SLICE_BYTES", 10 * C * 4)
    logits, labels = np.zeros((95, C), np.float32), np.zeros(95, np.int64)
    labels[91] = 7
    weights = np.ones(95)
    with pytest.raises(ValueError, match=r"^target: row 91 is 7"):
        fx.cross_entropy(logits, labels)
    weights[57] = -2
    with pytest.raises(ValueError, match=r"^sample_weight: row 57 has -2\.0"):
        fx.cross_entropy(logits, labels, sample_weight=weights)


@pytest.mark.parametrize("c", [3, 16, 64, 65, 130])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_bad_probability_is_named_wherever_it_stands(c, dtype):
    """In a row of its own among good ones, at and beside the label, in the prediction and in a target."""
    p, z, labels = np.full((20, c), 1 / c, dtype), np.zeros((20, c), dtype), np.zeros(20, int)
    p[3, 1] = -0.0
    p[3, 0] = 2 / c
    for k in range(c) if c < 20 else (0, 15, 16, 63, c - 17, c - 2, c - 1):
        for bad in (-1e-3, 1.5, math.nan, math.inf):
            wrong = p.copy()
            wrong[7:9, k] = bad
            for labels[7] in (k, c - 1 - k):
                for normalize in (False, True):
                    with pytest.raises(ValueError, match=f"^probs: row 7 has .* for class {k}"):
                        fx.log_loss(wrong, labels, normalize=normalize)
            if bad != 1.5:
                with pytest.raises(ValueError, match=f"^target: row 7 has .* for class {k}"):
                    fx.cross_entropy(z, wrong)
    fx.log_loss(p, labels)
    fx.cross_entropy(z, p)


@pytest.mark.parametrize("c", [10, 100, 1000])
def test_a_float32_row_is_refused_by_its_sum_in_float64(c):
    """A sum in float32 would be wrong by more than these rows are from the limit."""
    rng = np.random.default_rng(c)
    rows = rng.dirichlet(np.ones(c), 400) * (1 + 1e-3 + rng.uniform(-1, 1, (400, 1)) * 2**-23)
    rows = rows.astype("f4")
    refused = np.array([abs(math.fsum(row) - 1) > 1e-3 for row in rows.astype(float)])
    assert 100 < refused.sum() < 300
    for row, refuse in zip(rows, refused, strict=True):
        for call in ((fx.log_loss, row, 0), (fx.cross_entropy, np.zeros_like(row), row)):
            if refuse:
                with pytest.raises(ValueError, match=r"sums to 1\.001"):
                    call[0](*call[1:])
            else:
                call[0](*call[1:])


def test_numbers_beyond_floating_point_are_refused_as_others_are():
    with pytest.raises(ValueError, match="temperature: a number of 1329 bits"):
        fx.cross_entropy([[0.0, 1.0]], [0], temperature=10**400)
