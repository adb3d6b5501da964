"""Score cards by group: each has the bits of scoring its rows alone, in one pass, in any parts, kept and resumed."""

import hashlib
import itertools
import json
import pickle
import zlib

import numpy as np
import pytest

from fastxent import Scorer, score
from fastxent.cli.main import main
from fastxent.files import base
from fastxent.files.scan import Wanted
from fastxent.jobs.resume import StateFile
from fastxent.jobs.score import Job, score_files
from fastxent.scoring import groups as module


def some_rows(n, c, seed=0, dtype="f4"):
    rng = np.random.default_rng(seed)
    z = (3 * rng.normal(size=(n, c))).astype(dtype)
    return z, rng.integers(0, c, n), rng


def check(z, y, by, weight=None, **options):
    """Whole and groups against calls without groups."""
    got = score(z, y, by=by, sample_weight=weight, **options)
    whole = score(z, y, sample_weight=weight, **options)
    assert got.groups is not None
    assert whole.groups is None
    assert {**got.to_dict(), "groups": None} == whole.to_dict()
    values = sorted(set(by.tolist()))
    assert list(got.groups) == values
    for value in values[:: max(1, len(values) // 12)]:
        rows = np.flatnonzero(by == value)
        part = None if weight is None else weight[rows]
        assert got.groups[value] == score(z[rows], y[rows], ids=rows, sample_weight=part, **options)
    table = got.groups.table()
    assert table.value == values
    assert table.n.sum() == got.n
    some = [got.groups[value] for value in values[:5]]
    for name in ("n", "weight", "nll", "accuracy") if y.ndim == 1 else ("n", "weight", "nll"):
        assert np.array_equal(getattr(table, name)[:5], [getattr(card, name) for card in some], equal_nan=True)
    return got


@pytest.mark.parametrize(("c", "groups"), [(2, 7), (2, 900), (10, 1), (10, 40), (100, 300), (300, 5), (300, 500)])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_group_has_the_bits_of_its_rows_alone(c, groups, weighted):
    z, y, rng = some_rows(3000, c)
    by = rng.integers(-groups // 2, groups // 2 + 1, 3000)
    check(z, y, by, rng.random(3000) if weighted else None, top_k=(1, 3))


@pytest.mark.parametrize("layout", ["rows", "strided", "fortran", "two axes"])
def test_many_rows_of_one_call_have_the_same_bits(layout, monkeypatch):
    monkeypatch.setattr(module, "DIRECT_ROWS", 100)
    for c, dtype in ((2, "f4"), (3, "f4"), (7, "f2"), (300, "f4")):
        z, y, rng = some_rows(2000, c, dtype=dtype)
        by = rng.integers(0, 30, 2000)
        if layout == "strided":
            z = np.repeat(z, 2, 0)[::2]
        elif layout == "fortran":
            z = np.asfortranarray(z)
        elif layout == "two axes":
            z = np.stack([z[:1000], z[1000:]], 1)[:, ::-1].swapaxes(0, 1)[::-1]
            got = score(z, y.reshape(2, 1000), by=by.reshape(2, 1000))
            assert got == score(z.reshape(-1, c), y, by=by)
            continue
        check(z, y, by, rng.random(2000))
        check(z, y, by)


def test_soft_targets_other_kinds_and_rows_left_out(monkeypatch):
    z, y, rng = some_rows(2000, 5)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    by = rng.integers(0, 20, 2000)
    check(z, np.eye(5)[y], by)
    for direct in (1 << 17, 100):
        monkeypatch.setattr(module, "DIRECT_ROWS", direct)
        check(p, y, by, kind="probs")
        check(np.log(p), y, by, kind="log_probs")
        bad, marked = z.copy(), y.copy()
        bad[::50] = np.nan
        bad[1::50, 2] = -np.inf  # labels on a masked class: an infinite NLL, which no compact sum holds
        marked[1::50] = 2
        marked[2::50] = -1
        got = check(bad, marked, by, ignore_index=-1, invalid="count")
        assert got.invalid == got.ignored == 40
        assert sum(card.invalid for card in got.groups.values()) == 40


@pytest.mark.parametrize("pending", [100, 1 << 20])
@pytest.mark.parametrize("direct", [50, 1 << 17])
def test_parts_in_any_order_give_the_bits_of_one_call(pending, direct, monkeypatch):
    monkeypatch.setattr(module, "PENDING_ROWS", pending)
    monkeypatch.setattr(module, "DIRECT_ROWS", direct)
    for c in (2, 4, 300):
        z, y, rng = some_rows(1500, c)
        by, w = rng.choice(["cat", "dog", "a much longer name", "é", ""], 1500), rng.random(1500)
        want = score(z, y, by=by, sample_weight=w)
        cuts = [0, 1, 40, 41, 300, 1200, 1500]
        parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
        scorers = []
        for group in (parts[:2], parts[2:3], parts[3:]):
            scorers.append(Scorer())
            for part in group:
                scorers[-1].update(z[part], y[part], start=part.start, by=by[part], sample_weight=w[part])
        a, b, third = (pickle.loads(pickle.dumps(s)) for s in scorers)
        assert third.merge(a).merge(b).result() == want
        assert scorers[0].merge(scorers[2]).merge(scorers[1]).result() == want
        assert {v: card.to_dict() for v, card in third.result().groups.items()} == {
            v: card.to_dict() for v, card in want.groups.items()
        }


def test_rows_with_and_without_weights_go_together():
    for c in (2, 5, 300):
        z, y, rng = some_rows(600, c)
        by, w = rng.integers(0, 9, 600), rng.random(600)
        want = score(z, y, by=by, sample_weight=np.r_[np.ones(200), w[200:]])
        first = Scorer().update(z[:200], y[:200], by=by[:200], start=0)
        rest = Scorer().update(z[200:], y[200:], by=by[200:], sample_weight=w[200:], start=200)
        for whole in (
            pickle.loads(pickle.dumps(first)).merge(rest),
            pickle.loads(pickle.dumps(rest)).merge(first),
            first.update(z[200:], y[200:], by=by[200:], sample_weight=w[200:], start=200),
        ):
            assert whole.result() == want


@pytest.mark.parametrize("direct", [50, 1 << 17])
def test_a_refused_row_adds_nothing_to_any_group(direct, monkeypatch):
    monkeypatch.setattr(module, "DIRECT_ROWS", direct)
    monkeypatch.setattr(module, "SLICE_BYTES", 8 * 4 * 256)  # several slices a call
    z, y, rng = some_rows(1000, 4)
    by = rng.integers(0, 12, 1000)
    scorer = Scorer().update(z[:300], y[:300], by=by[:300])
    for column, value, message in ((0, np.nan, "row 900"), (1, 4, "row 900")):
        bad_z, bad_y = z.copy(), y.copy()
        if column == 0:
            bad_z[900, 1] = value
        else:
            bad_y[900] = value
        with pytest.raises(ValueError, match=message):
            scorer.update(bad_z, bad_y, by=by + 100)
        assert list(scorer.result().groups) == list(range(12))
    assert scorer.update(z[300:], y[300:], by=by[300:]).result() == score(z, y, by=by)


def test_a_result_stays_as_it_was_when_more_rows_come():
    z, y, rng = some_rows(500, 3)
    by = rng.integers(0, 4, 500)
    scorer = Scorer().update(z[:200], y[:200], by=by[:200])
    early = scorer.result()
    scorer.update(z[200:], y[200:], by=by[200:])
    assert early == score(z[:200], y[:200], by=by[:200])
    assert pickle.loads(pickle.dumps(early)) == early
    assert early != scorer.result()


@pytest.mark.parametrize(
    "by",
    [
        np.array([1, 2, 1], np.uint8),
        np.array([True, False, True]),
        ["b", "a", "b"],
        np.array(["b", "a", "b"], object),
        np.array([5, 6, 5], ">i4"),
        (7, 8, 7),
    ],
)
def test_integers_and_strings_of_any_kind_name_groups(by):
    z = [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]
    got = score(z, [0, 0, 1], by=by)
    names = sorted(set(np.asarray(by).tolist()))
    assert list(got.groups) == names
    assert [got.groups[name].n for name in names] == [1, 2] if names[0] in ("a", False) else [2, 1]


@pytest.mark.parametrize(
    ("by", "error", "message"),
    [
        ([0.0, 1.0], TypeError, "by: dtype float64"),
        ([1], ValueError, "by: shape"),
        (np.array(["a", None], object), TypeError, "by: row 1 is None"),
        (np.array([1, 2**64 - 1], np.uint64), ValueError, "by: 18446744073709551615"),
        (np.array(["2024", "2025"], "M8[Y]"), TypeError, "by: dtype"),
    ],
)
def test_what_names_no_group_is_refused(by, error, message):
    with pytest.raises(error, match=f"^{message}"):
        score([[0.0, 1.0], [1.0, 0.0]], [0, 1], by=by)


def test_too_many_groups_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_GROUPS", 1000)
    z, y, _ = some_rows(1500, 2)
    with pytest.raises(ValueError, match="by: more than 100,000 different values"):
        score(z, y, by=np.arange(1500))
    scorer = Scorer().update(z[:900], y[:900], by=np.arange(900))
    with pytest.raises(ValueError, match="by: more than 100,000 different values"):
        scorer.update(z[900:], y[900:], by=np.arange(900, 1500))


def test_groups_and_none_do_not_mix():
    z, y, _ = some_rows(10, 3)
    grouped, plain = Scorer().update(z, y, by=y), Scorer().update(z, y)
    with pytest.raises(ValueError, match="by: not given"):
        grouped.update(z, y)
    with pytest.raises(ValueError, match="by: given"):
        plain.update(z, y, by=y)
    for one, other in ((grouped, plain), (plain, grouped)):
        with pytest.raises(ValueError, match="other: .*groups"):
            one.merge(other)
    with pytest.raises(ValueError, match="target: "):
        grouped.update(z, np.eye(3)[y], by=y)


def test_thousands_of_groups_take_the_room_of_what_occurs(tmp_path):
    z, y, rng = some_rows(40_000, 10)
    scorer = Scorer(worst=0).update(z, y, by=rng.integers(0, 4000, 40_000))
    scorer.save(tmp_path / "s.state")
    assert (tmp_path / "s.state").stat().st_size < 4000 * 1000
    (groups,) = [scorer._state]
    assert sum(shard._pool[0].nbytes * 2 for shard in groups._shards) < 4000 * 16 * 1000
    assert Scorer.load(tmp_path / "s.state").result() == scorer.result()


def test_to_dict_has_the_numbers_of_every_group():
    z, y, rng = some_rows(300, 3)
    got = score(z, y, by=rng.choice(["a", "b"], 300))
    plain = json.loads(json.dumps(got.to_dict(), allow_nan=False))
    assert [group["value"] for group in plain["groups"]] == ["a", "b"]
    assert plain["groups"][0].keys() >= {"n", "nll", "nll_se", "accuracy", "ece", "skill", "brier", "top_k_accuracy"}
    assert plain["groups"][0]["nll"] == got.groups["a"].nll
    assert sum(group["n"] for group in plain["groups"]) == 300
    assert score(z, y).to_dict()["groups"] is None


def test_a_damaged_or_impossible_state_of_groups_is_refused(tmp_path):
    z, y, rng = some_rows(300, 300)
    path = tmp_path / "s.state"
    Scorer().update(z, y, by=rng.integers(0, 5, 300)).save(path)
    content = path.read_bytes()
    for place in rng.integers(0, len(content), 30):
        broken = bytearray(content)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"s\.state: "):
            Scorer.load(path)
    at = content.index(b"\n") + 9
    end = at + int.from_bytes(content[at - 8 : at], "little")
    header, body = json.loads(content[at:end]), zlib.decompress(content[end:-32])
    n_words = header["arrays"]["places"][1][0]

    def write(header, body):
        head = json.dumps(header).encode()
        forged = content[: at - 8] + len(head).to_bytes(8, "little") + head + zlib.compress(bytes(body))
        path.write_bytes(forged + hashlib.sha256(forged).digest())

    write(header, body)
    assert list(Scorer.load(path).result().groups) == [0, 1, 2, 3, 4]
    for change in (
        lambda h, b: h.update(groups=[0, 1, 2, 3]),
        lambda h, b: h.update(groups=[0, 1, 2, 3, 3]),
        lambda h, b: h["arrays"].pop("places"),
        lambda h, b: b.__setitem__(slice(-16 * n_words - 40, -16 * n_words - 32), b"\xff" * 8),
        lambda h, b: b.__setitem__(slice(-16 * n_words, -16 * n_words + 8), b"\xff" * 8),
        lambda h, b: b.__setitem__(slice(-16 * n_words, -16 * n_words + 8), b"\x00\x00\x7f" + b"\x00" * 5),
    ):
        other, changed = json.loads(json.dumps(header)), bytearray(body)
        change(other, changed)
        write(other, changed)
        with pytest.raises(ValueError, match="contradicts itself"):
            Scorer.load(path)


@pytest.mark.slow
def test_ten_thousand_groups_of_a_million_rows():
    z, y, rng = some_rows(1_000_000, 10)
    check(z, y, rng.integers(0, 10_000, 1_000_000))


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The same rows in three formats, read in pieces."""
    pa = pytest.importorskip("pyarrow")
    csv, parquet = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "BLOCK_BYTES", 8 * 4 * 100)
    z, y, rng = some_rows(1000, 4, dtype="f8")
    names, numbers = rng.choice(["oslo", "rome", "a, b"], 1000), rng.integers(-3, 30, 1000)
    table = pa.table({"y": y, "city": names, "k": numbers, **{f"z{k}": z[:, k] for k in range(4)}})
    csv.write_csv(table, "t.csv")
    parquet.write_table(table.set_column(1, "city", table["city"].dictionary_encode()), "t.parquet")
    np.savez("t.npz", predictions=z, target=y, city=names, k=numbers)
    return z, y, {"city": names, "k": numbers}


def as_json(card):
    return json.loads(json.dumps(card.to_dict(), allow_nan=False))


def run(capsys, *arguments):
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("path", ["t.csv", "t.parquet", "t.npz"])
@pytest.mark.parametrize("column", ["city", "k"])
def test_a_column_of_a_file_names_the_groups(files, capsys, path, column):
    z, y, by = files
    where = [] if path == "t.npz" else ["--columns", "z*", "--target-column", "y"]
    code, out, err = run(capsys, "score", path, *where, "--by", column, "--json", "-")
    assert (code, err) == (0, "")
    assert json.loads(out) == as_json(score(z, y, by=by[column]))


def test_the_card_shows_the_largest_and_the_worst_groups(files, capsys):
    out = run(capsys, "score", "t.npz", "--by", "city")[1]
    assert "groups" in out
    assert "worst of the others" not in out
    out = run(capsys, "score", "t.npz", "--by", "k")[1]
    assert "largest groups" in out
    assert "worst of the others" in out
    assert "and 13 groups more; --json has all of them" in out


def test_groups_are_resumed_and_merged_like_the_rest(files, capsys):
    z, y, by = files
    job = Job("t.npz", None, Wanted(by_column="city"))

    def tell(what, fraction, rows, n_bytes):
        if rows >= 300:
            raise InterruptedError

    for _ in range(2):
        with pytest.raises(InterruptedError):
            score_files(job, tell=tell, state=StateFile("s.state", 0))
    want = as_json(score(z, y, by=by["city"]))
    assert as_json(score_files(job, state=StateFile("s.state")).result()) == want
    assert json.loads(run(capsys, "merge", "s.state", "--json", "-")[1]) == want
    code, _, err = run(capsys, "score", "t.npz", "--by", "k", "--resume", "s.state")
    assert code == 2
    assert "made with by column city, this command has k" in err
    assert run(capsys, "score", "t.npz", "--resume", "plain.state", "--first-row", "5000")[0] == 0
    code, _, err = run(capsys, "merge", "s.state", "plain.state")
    assert code == 2
    assert "plain.state: one of the score cards has groups" in err


def test_a_column_that_names_no_group_is_told(files, capsys):
    where = ["--columns", "z*", "--target-column", "y"]
    for path, column, what in (("t.parquet", "z1", "groups need integers or text"), ("t.csv", "x", "--by: no column")):
        code, out, err = run(capsys, "score", path, *where, "--by", column)
        assert (code, out) == (2, "")
        assert what in err
        assert err.count("\n") == 1
