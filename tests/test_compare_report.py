"""Comparisons shown: the report in a real browser, notebooks, data frames."""

import numpy as np
import pytest
from browser import Browser, program

from fastxent import compare
from fastxent.cli.main import main

pa = pytest.importorskip("pyarrow")
RNG = np.random.default_rng(23)
N, C = 400, 4
Y = RNG.integers(0, C, N)
OLD = RNG.normal(size=(N, C)) + (np.arange(C) == Y[:, None])
NEW, THIRD = (OLD + RNG.normal(size=(N, C)) for _ in range(2))
BY = RNG.choice(["<b>north</b>", "south"], N)
NAMES = ("<i>old</i>", "new", "=third()")


@pytest.fixture(scope="module")
def three():
    return compare(OLD, NEW, THIRD, Y, names=NAMES, by=BY, worst=3)


def test_the_report_holds_everything_in_a_real_browser(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for name, x in (("old", OLD), ("new", NEW), ("third", THIRD), ("y", Y)):
        np.save(f"{name}.npy", x)
    names = [word for name in NAMES for word in ("--name", name)]
    command = ["compare", "old.npy", "new.npy", "third.npy", "y.npy", *names, "--report", "r.html", "--plots", "plots"]
    assert main(command) == 0
    page = (tmp_path / "r.html").read_text()
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        f"{x}.{y}" for x in ("models", "reliability", "class") for y in ("png", "svg")
    }
    assert "&lt;i&gt;old&lt;/i&gt;" in page
    assert "<i>old" not in page
    result = compare(OLD, NEW, THIRD, Y)
    for model in result.models:
        assert f"{model.nll:.5f}" in page
    assert "adjusted for all 3 pairs (Holm)" in page
    if program() is None:
        pytest.skip("needs Chromium or Chrome")
    browser = Browser(tmp_path / "profile")
    try:
        address = (tmp_path / "r.html").as_uri()
        browser.open(address, width=390, phone=True)
        assert (browser.complaints, browser.requests) == ([], [address])
        assert browser.run("document.documentElement.scrollWidth") <= 390
        browser.run("document.querySelector('table.sorts thead th:nth-child(3) button').click()")
        shown = browser.run("[...document.querySelector('table.sorts tbody').rows].map(r => r.cells[2].textContent)")
        assert len(shown) == 3
        assert shown in (sorted(shown), sorted(shown, reverse=True))
    finally:
        browser.close()


@pytest.mark.parametrize("kind", ["three", "distributions", "empty", "infinite"])
def test_notebooks_and_pages_show_every_kind(kind, three):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    from fastxent.report.compare import compare_page
    from fastxent.report.page import Run, render

    p = np.array([[1.0, 0.0], [0.5, 0.5]])
    if kind == "empty":
        with pytest.warns(RuntimeWarning):
            shown = compare(OLD[:0], NEW[:0], Y[:0])
    elif kind == "distributions":
        shown = compare(OLD, NEW, np.full((N, C), 1 / C))
    elif kind == "infinite":
        shown = compare(p, p[::-1], [1, 0], kind="probs")
    else:
        shown = three
    html = shown._repr_html_()
    assert "<script" not in html
    assert "<i>" not in html
    assert f"{shown.n:,} row" in html
    assert "</html>" in render(compare_page(shown, kind, Run(["fastxent"], "now", [], [])))
    assert repr(shown).startswith("<Comparison of")


def test_tables_become_data_frames(three):
    def frame(name):
        return three.to_frame(name, backend="pyarrow").to_pylist()

    assert [row["nll"] for row in frame("models")] == [model.nll for model in three.models]
    assert [row["nll_difference_se"] for row in frame("pairs")] == [pair.nll.se for pair in three.pairs]
    assert [row["difference"] for row in frame("by")] == [x for p in three.pairs for x in p.by.difference.tolist()]
    assert len(frame("classes")) == 3 * C
    assert len(frame("rows")) == 3 * 2 * 3
    with pytest.raises(ValueError, match=r"^table: 'by' needs rows that were compared with by="):
        compare(OLD, NEW, Y).to_frame("by")
    shown = frame("reliability")
    assert [row["n"] for row in shown] == [n for bins in three.reliability.values() for n in bins.n.tolist()]
    with pytest.raises(ValueError, match=r"^table: 'bootstrap' needs rows that were compared with bootstrap="):
        three.to_frame("bootstrap")
    with pytest.raises(ValueError, match=r"^table: 'x' is not one of 'models'"):
        three.to_frame("x")


def test_reliability_of_all_models_in_one_plot(three):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    assert three.plot_reliability(axes) is axes
    lines = {line.get_label().strip(): line for line in axes.get_lines()}
    assert [text.get_text() for text in axes.get_legend().get_texts()][-1] == three.against_best()[0].b
    for name in NAMES:
        bins = three.reliability[name]
        here = bins.n > 0
        assert lines[name].get_xdata().tolist() == bins.confidence[here].tolist()
        assert lines[name].get_ydata().tolist() == bins.accuracy[here].tolist()
    with pytest.raises(ValueError, match="^plot_reliability: needs targets that are class indices"):
        compare(OLD, NEW, np.full((N, C), 1 / C)).plot_reliability()
