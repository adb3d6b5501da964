"""Comparisons of files: the bits of the arrays in them, whatever their formats and blocks; the command line."""

import json

import numpy as np
import pytest

from fastxent import compare
from fastxent.cli.main import main
from fastxent.files import base
from fastxent.files.scan import Wanted
from fastxent.jobs.compare import compare_files

pa = pytest.importorskip("pyarrow")
arrow_csv = pytest.importorskip("pyarrow.csv")
pq = pytest.importorskip("pyarrow.parquet")

N, C = 600, 5
RNG = np.random.default_rng(22)
Y = RNG.integers(0, C, N)
OLD = RNG.normal(size=(N, C))
NEW = (OLD + 0.3 * RNG.normal(size=(N, C))).astype("f4")
THIRD = RNG.normal(size=(N, C)).astype("f2")
W = RNG.random(N)
DOCUMENT = np.arange(N) // 4
COUNTRY = RNG.choice(["Chile", "India"], N)
BESIDE = {"w": W, "document": DOCUMENT, "country": COUNTRY, "id": N - np.arange(N)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Three models in several formats, in blocks of 30 to 120 rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(base, "BLOCK_BYTES", 60 * 4 * C)
    np.save("old.npy", OLD)
    np.save("old-t.npy", OLD.T.copy())
    np.save("new.npy", NEW)
    np.savez("third.npz", THIRD)
    np.save("y.npy", Y)
    np.savez("all.npz", a=OLD, b=NEW, y=Y, **{k: v for k, v in BESIDE.items() if k != "country"})
    table = pa.table({"y": Y, **BESIDE, **{f"logit_{k}": OLD[:, k] for k in range(C)}})
    pq.write_table(table, "old.parquet", row_group_size=70)
    arrow_csv.write_csv(table, "old.csv")


def run(capsys, *arguments):
    code = main(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def compared(models, target):
    return compare_files(models, target, {})[0].result()


def as_json(comparison):
    return json.loads(json.dumps(comparison.to_dict(), allow_nan=False))


@pytest.mark.parametrize("lead", ["old.parquet", "old.csv"])
def test_files_give_the_bits_of_the_arrays(capsys, lead):
    options = "--columns logit_* --target-column y --weight-column w --cluster document --by country --id-column id"
    code, out, err = run(capsys, lead, "new.npy", "third.npz", lead, *options.split(), "--json", "-")
    assert (code, err) == (0, "")
    whole = compare(
        {"old": OLD, "new": NEW, "third": THIRD},
        Y,
        sample_weight=W,
        cluster=DOCUMENT,
        by=COUNTRY,
        ids=BESIDE["id"],
    )
    assert json.loads(out) == as_json(whole)


def test_blocks_of_other_sizes_and_axes_are_brought_together():
    for first, second in (("old.npy", "new.npy"), ("new.npy", "old.npy")):
        made = compared([(first, Wanted()), (second, Wanted())], "y.npy")
        x = {"old.npy": OLD, "new.npy": NEW}
        assert made == compare(x[first], x[second], Y)
    np.save("third-t.npy", THIRD.T.copy())
    models = [("old-t.npy", Wanted(axis=0)), ("third-t.npy", Wanted(axis=0))]
    assert compared(models, "y.npy") == compare(OLD, THIRD, Y)
    images = [x.reshape(20, 30, C).transpose(0, 2, 1).copy() for x in (OLD, NEW.astype("f8"), THIRD)]
    for k, image in enumerate(images):
        np.save(f"image-{k}.npy", image)
    np.save("image-y.npy", Y.reshape(20, 30))
    models = [(f"image-{k}.npy", Wanted(axis=1)) for k in range(3)]
    assert compared(models, "image-y.npy") == compare(*images, Y.reshape(20, 30), axis=1)


@pytest.mark.parametrize("lead", ["old.npy", "old.parquet"])
def test_several_readers_at_once_give_the_bits_of_one(lead, monkeypatch, capsys):
    monkeypatch.setattr("fastxent.jobs.score.READER_BYTES", OLD.nbytes // 3)
    monkeypatch.setattr("fastxent.threads.get_threads", lambda: 2)
    models = [(lead, Wanted(columns="logit_*" if lead == "old.parquet" else None)), ("new.npy", Wanted())]
    told, options = [], {"names": ("A", "B"), "bootstrap": 20}
    made, _ = compare_files(models, "y.npy", options, lambda *facts: told.append(facts))
    assert made.result() == compare(OLD, NEW, Y, bootstrap=20)
    assert told[-1] == ("comparing", 1.0, N, OLD.nbytes + NEW.nbytes)
    assert {what for what, *_ in told} == {"compiling, or loading what is compiled", "comparing"}
    bad = NEW.copy()
    bad[[30, 411]] = np.nan
    np.save("new.npy", bad)
    with pytest.raises(ValueError, match="^B: row 30 has a NaN"):
        compare_files(models, "y.npy", options)


def test_members_of_one_file(capsys):
    keys = "--predictions-key a --predictions-key b --target-key y --cluster document --kind logits"
    code, out, _ = run(capsys, "all.npz", "all.npz", "all.npz", *keys.split(), "--json", "-")
    assert code == 0
    assert json.loads(out) == as_json(compare({"a": OLD, "b": NEW}, Y, cluster=DOCUMENT))


def test_options_for_each_model(capsys):
    np.save("p.npy", np.exp(OLD) / np.exp(OLD).sum(1, keepdims=True))
    more = "--kind logits --kind probs --temperature 2 --temperature 1 --name warm --name plain --worst 3"
    code, out, _ = run(capsys, "old.npy", "p.npy", "y.npy", *more.split(), "--json", "-")
    assert code == 0
    kinds = ("logits", "probs")
    given = {"kind": kinds, "temperature": (2.0, 1.0), "names": ("warm", "plain"), "worst": 3}
    assert json.loads(out) == as_json(compare(OLD, np.load("p.npy"), Y, **given))


def test_the_table_says_who_is_better_and_where(capsys):
    code, out, _ = run(capsys, "old.npy", "new.npy", "third.npz", "y.npy")
    assert code == 0
    result = compare(OLD, NEW, THIRD, Y)
    best, other = sorted(result.models, key=lambda model: model.rank)[:2]
    names = dict(zip("ABC", ("old", "new", "third")))
    pair = result.pair(other.name, best.name)
    for shown in (
        f"{names[best.name]:<5}    1 {best.nll:.6f}",
        f"{names[other.name]} against {names[best.name]}",
        f"{pair.nll.value:+.6f}",
        f"{pair.mcnemar_p:.2g}",
        f"{pair.decide_for_a[0].nll_a:.6g}",
        "adjusted for all 3 pairs",
        f"{N:,} rows, {C} classes, logits",
    ):
        assert shown in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("old.npy y.npy", "A B TARGET: 2 files; need two of predictions or more, and the target"),
        ("old.npy short.npy y.npy", "predictions: short.npy has 599 rows, old.npy has 600"),
        ("old.csv short.csv y.npy --columns logit_*", "predictions: short.csv has fewer rows than old.csv"),
        ("short.csv old.csv short-y.npy --columns logit_*", "predictions: old.csv has more rows than short.csv (599)"),
        ("old.npy wide.npy y.npy", "predictions: wide.npy has 6 classes, old.npy has 5"),
        ("old.npy new.npy y.npy --cluster document", "--cluster: no column or member 'document': old.npy has none"),
        ("old.npy new.npy y.npy --kind probs --kind probs --kind probs", "--kind: given 3 times for 2 models"),
        ("old.npy missing.npy y.npy", "missing.npy: no such file"),
        ("old.npy bad.npy y.npy", "bad: row 411 has a NaN or +inf, or only -inf; invalid='count' leaves such rows out"),
    ],
)
def test_errors_are_one_line(capsys, arguments, message):
    np.save("short.npy", NEW[:-1])
    np.save("short-y.npy", Y[:-1])
    np.save("wide.npy", np.zeros((N, 6)))
    bad = NEW.copy()
    bad[411, 2] = np.nan
    np.save("bad.npy", bad)
    arrow_csv.write_csv(pa.table({f"logit_{k}": OLD[:-1, k] for k in range(C)}), "short.csv")
    code, out, err = run(capsys, *arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("fastxent: error: ")
    assert message in err
    assert err.count("\n") == 1
