"""The report: what it says, that names stay text, and that a real browser shows and sorts it."""

import hashlib
import html.parser
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, program

import fastxent
from fastxent.cli.main import main

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from fastxent.cli.report import Output
from fastxent.fit import TemperatureScaling
from fastxent.report import text
from fastxent.report.calibration import calibration_page
from fastxent.report.compare import compare_page
from fastxent.report.page import Run, render
from fastxent.report.score import score_page

HOSTILE = [
    "<script>document.title='run'</script>",
    "=cmd|' /C calc'!A0",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{a}$ & $",
    "a\x00b\x1b[31m\u202egnp.\ud800",
    "javascript:alert(1)",
    "x" * 300,
    "名前 🦆",
    "</style></svg><style>*{display:none}",
]
RUN = Run(["fastxent", "score", "--report", "<b>{{ 6 * 7 }}"], "2026-01-01 00:00:00 UTC", [], [])


def run(line):
    return main(line.split())


def logits(n, n_classes=10):
    rng = np.random.default_rng(7)
    z = 2 * rng.standard_normal((n, n_classes))
    return z, (z + 1.3 * rng.gumbel(size=z.shape)).argmax(1) if n else np.zeros(0, int)


def example(n=3000, n_classes=10, **more):
    return fastxent.score(*logits(n, n_classes), **more)


def comparison():
    z, y = logits(500)
    by = np.array([*HOSTILE[:4], "b"])[np.arange(500) % 5]
    names = *HOSTILE[:2], "third"
    return fastxent.compare(z, 0.5 * z, 2 * z, target=y, names=names, by=by, bins=5, bootstrap=30)


class Words(html.parser.HTMLParser):
    """A page's elements and text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if program() is None:
        pytest.skip("needs Chromium or Chrome")
    page = Browser(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Pages of many kinds, by name."""
    folder = tmp_path_factory.mktemp("reports")
    with pytest.warns(RuntimeWarning):
        empty = example(0)
    cards = {
        "ten": (example(), None),
        "hostile": (example(), HOSTILE),
        "many": (example(20_000, 1000), None),
        "two": (example(500, 2), None),
        "one": (fastxent.score(np.zeros((5, 1)), np.zeros(5, int)), None),
        "empty": (empty, None),
        "soft": (fastxent.score(np.zeros((4, 3)), np.full((4, 3), 1 / 3)), None),
        "infinite": (fastxent.score(np.array([[0.0, -np.inf], [1.0, 2.0]]), [1, 0]), None),
        "groups": (example(by=np.arange(3000) % 70), None),
    }
    for name, (card, names) in cards.items():
        title = HOSTILE[0] if name == "hostile" else name
        (folder / f"{name}.html").write_text(render(score_page(card, title, RUN, names)), "utf-8")
    z, y = logits(500)
    calibrator = TemperatureScaling().fit(z, y)
    pages = {
        "calibration": calibration_page(calibrator.to_dict(), calibrator.evaluate(z, y), "calibration", RUN),
        "comparison": compare_page(comparison(), HOSTILE[0], RUN, HOSTILE),
    }
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(render(page), "utf-8")
    return folder


KINDS = ["ten", "hostile", "many", "two", "one", "empty", "soft", "infinite", "groups", "calibration", "comparison"]


@pytest.mark.parametrize("name", KINDS)
def test_a_browser_shows_it_whole_without_complaint_or_request(browser, reports, name):
    address = (reports / f"{name}.html").as_uri()
    for width, dark in ((360, False), (1200, True)):
        browser.open(address, width=width, dark=dark, phone=width == 360)
        assert browser.complaints == []
        assert browser.requests == [address]
        assert browser.run("document.documentElement.scrollWidth") <= width
        background, ink = (browser.run(f"getComputedStyle(document.body).{p}") for p in ("backgroundColor", "color"))
        assert (brightness(background) < brightness(ink)) is dark
    assert browser.run("document.title").startswith("<script>" if name in ("hostile", "comparison") else name)
    ids = browser.run("Array.from(document.querySelectorAll('[id]'), e => e.id)")
    assert len(ids) == len(set(ids))


def brightness(colour):
    return sum(int(part) for part in colour.strip("rgb()").split(",")[:3])


def test_plots_have_the_page_s_colours(browser, reports):
    seen = {}
    for dark in (False, True):
        browser.open((reports / "ten.html").as_uri(), dark=dark)
        script = "Array.from(document.querySelectorAll('figure text'), e => getComputedStyle(e).fill)"
        seen[dark] = set(browser.run(script))
        assert "rgb(0, 0, 0)" not in seen[dark]
    assert seen[True].isdisjoint(seen[False])
    assert browser.run("document.querySelectorAll('figure > svg').length") == 4


def test_tables_sort_by_number_and_by_text(browser, reports):
    browser.open((reports / "infinite.html").as_uri())
    browser.open((reports / "ten.html").as_uri())
    column = (
        "(() => {const t = document.querySelector('table'), h = t.tHead.rows[0].cells[%d];"
        "h.querySelector('button').click();"
        "return [h.getAttribute('aria-sort'), Array.from(t.tBodies[0].rows, r => r.cells[%d].textContent)]})()"
    )
    classes = example().classes
    for order, sign in (("descending", -1), ("ascending", 1)):
        told, cells = browser.run(column % (2, 2))
        assert told == order
        assert cells == [text.fixed(x) for x in sorted(classes.nll.tolist(), key=lambda x: sign * x)]
    assert browser.run(column % (0, 0)) == ["ascending", [str(k) for k in range(10)]]
    assert browser.run(column % (0, 0)) == ["descending", [str(9 - k) for k in range(10)]]
    assert browser.run("document.querySelectorAll('table')[0].querySelectorAll('[aria-sort]').length") == 1


def test_it_prints(browser, reports):
    browser.open((reports / "many.html").as_uri())
    content = browser.pdf()
    assert content.startswith(b"%PDF")
    browser.media("print", dark=True)
    assert brightness(browser.run("getComputedStyle(document.body).backgroundColor")) == 3 * 255
    assert browser.run("Array.from(document.querySelectorAll('tbody tr')).filter(r => r.offsetHeight).length") < 200


@pytest.mark.parametrize("name", ["hostile", "comparison"])
def test_hostile_names_stay_text(reports, name):
    page = (reports / f"{name}.html").read_text("utf-8")
    words = Words(page)
    assert words.tags.count("script") == 1
    assert words.tags.count("style") == 1
    assert "img" not in words.tags
    assert not [name for name, _ in words.attributes if name.startswith("on")]
    found = [part.strip() for part in words.text]
    for name in HOSTILE:
        assert text.shown(name) in found, name
    assert not {"42", "49"} & set(found)
    assert not any(part.startswith("=") for part in found)
    assert all(c.isprintable() or c in "\n\u2060" for c in page)


def test_the_headline_is_the_score_s(reports):
    card, words = example(), Words((reports / "ten.html").read_text("utf-8"))
    found = " ".join(" ".join(words.text).split())
    low, high = card.nll_interval
    assert f"{card.nll:.3f} nats" in found
    assert f"{low:.3f} to {high:.3f}" in found
    hits = card.accuracy * card.n
    from scipy.stats import binomtest

    low, high = binomtest(round(hits), card.n).proportion_ci(method="wilson")
    assert f"{100 * low:.2f} to {100 * high:.2f} %" in found
    assert card.accuracy_interval == pytest.approx((low, high), rel=1e-12)


def test_without_the_libraries_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "jinja2" else object())
    np.save(tmp_path / "x.npy", np.zeros((2, 2)))
    code = main(["score", str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "--report", str(tmp_path / "r.html")])
    assert code == 2
    assert "pip install 'fastxent[report]'" in capsys.readouterr().err


def test_the_command_writes_page_and_plots(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    z, y = rng.standard_normal((300, 3)), rng.integers(0, 3, 300)
    np.save("x.npy", z)
    np.save("y.npy", y)
    (tmp_path / "labels.csv").write_text("target\n" + "\n".join("ab"[k] if k < 2 else "<c>" for k in y) + "\n")
    assert run("score x.npy labels.csv --report r.html --plots drawn --classes a,b,<c> --json -") == 0
    assert json.loads(capsys.readouterr().out)["nll"] == fastxent.score(z, y).nll
    page = (tmp_path / "r.html").read_text("utf-8")
    for name in ("x.npy", "labels.csv"):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() in page
    assert "fastxent score x.npy labels.csv --report r.html" in " ".join(" ".join(Words(page).text).split())
    assert "&lt;c&gt;" in page
    drawn = {"reliability", "nll", "classes", "confusion"}
    assert {p.name for p in (tmp_path / "drawn").iterdir()} == {f"{d}.{form}" for d in drawn for form in ("png", "svg")}
    assert not list(tmp_path.rglob(".*"))
    for line in (*2 * ["score x.npy y.npy --resume s.state --report again.html"], "merge s.state --report merged.html"):
        assert run(line) == 0
    assert (tmp_path / "merged.html").read_text("utf-8").count("SHA-256") == 1


def test_the_readme_s_command_runs(tmp_path, monkeypatch, capsys):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    line = readme.split("\n## Reports\n")[1].split("```sh\n")[1].splitlines()[0]
    monkeypatch.chdir(tmp_path)
    z, y = logits(200, 3)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    columns = {f"p_{name}": p[:, k] for k, name in enumerate(("rain", "sun", "<snow>"))}
    parquet.write_table(pyarrow.table({**columns, "y": y}), "predictions.parquet")
    assert main(shlex.split(line)[1:]) == 0
    assert "p_&lt;snow&gt;" in (tmp_path / "report.html").read_text("utf-8")
    assert len(list((tmp_path / "plots").iterdir())) == 8
    assert "perplexity" in capsys.readouterr().out


def test_a_file_that_changes_before_its_checksum_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    z, y = logits(50, 3)
    np.save("x.npy", z)
    np.save("y.npy", y)
    monkeypatch.setattr(Output, "write_score", changing(Output.write_score, "y.npy"))
    assert run("score x.npy y.npy --report r.html") == 2
    assert "y.npy: was changed while it was read" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def changing(function, path):
    def changed(*arguments):
        np.save(path, np.ones(50, int))
        return function(*arguments)

    return changed


@pytest.mark.parametrize("option", ["--report .", "--report -", "--report no/r.html", "--plots x.npy", "--plots no/d"])
def test_a_place_that_cannot_be_written_is_refused_first(tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((2, 2)))
    assert main(["score", "x.npy", "absent.npy", *option.split()]) == 2
    assert option.split()[0] in capsys.readouterr().err


def test_secrets_in_addresses_are_not_told():
    from fastxent.cli.report import _command

    told = " ".join(_command(["score", "s3://key:word@bucket/x.npy", "https://host/y.npy?signature=abc"]))
    assert "word" not in told
    assert "abc" not in told
    assert "bucket/x.npy" in told


def test_numbers_are_shown_with_the_digits_of_their_error():
    assert text.decimals_of(0.0123) == 3
    assert text.decimals_of(12.0) == 0
    assert text.fixed(math.pi, text.decimals_of(0.0123)) == "3.142"
    assert text.fixed(-math.inf) == "−∞"


def test_a_notebook_shows_figures_and_diagram(browser, tmp_path):
    card = example()
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>n</title><body>{card._repr_html_()}</body>", "utf-8")
    browser.open(page.as_uri(), width=360)
    assert browser.complaints == []
    assert len(card._repr_html_()) < 10_000
    assert browser.run("document.querySelectorAll('circle').length") == np.count_nonzero(card.reliability.n)
    assert f"{card.nll:.3f} nats" in browser.run("document.body.innerText")
    soft = fastxent.score(np.zeros((4, 3)), np.full((4, 3), 1 / 3))
    assert "<svg" not in soft._repr_html_()


@pytest.mark.parametrize("backend", ["pandas", "polars", "pyarrow"])
def test_tables_go_into_frames(backend):
    pytest.importorskip(backend)
    card = example(by=np.arange(3000) % 3)
    for table, column, want in (
        ("figures", "nll", [card.nll]),
        ("figures", "top_5_accuracy", [card.top_k_accuracy[5]]),
        ("classes", "precision", card.classes.precision.tolist()),
        ("reliability", "n", card.reliability.n.tolist()),
        ("nll_histogram", "high", card.nll_histogram.edges[1:].tolist()),
        ("confusion", "predicted", card.confusion.predicted.tolist()),
        ("worst", "id", [row.id for row in card.worst]),
        ("groups", "nll", [group.nll for group in card.groups.values()]),
    ):
        frame = card.to_frame(table, backend=backend)
        assert type(frame).__module__.split(".")[0] in (backend, "pandas")
        found = frame[column]
        assert (found.to_pylist() if backend == "pyarrow" else found.to_list()) == want


def test_a_calibration_is_shown_like_a_score():
    from matplotlib.figure import Figure

    pytest.importorskip("pyarrow")
    z, y = logits(500)
    result = TemperatureScaling().fit(z, y).evaluate(z, y)
    table = result.to_frame(backend="pyarrow")
    assert table.column("nll").to_pylist() == [result.before.nll, result.after.nll]
    assert table.column("ece_se").to_pylist() == [figure.se for figure in result.ece]
    assert f"{result.after.nll:.3f}" in result._repr_html_()
    assert f"before: {result.before.nll:.3f}" in result._repr_html_()
    axes = Figure().subplots()
    assert result.plot_reliability(axes) is axes
    assert [line.get_label() for line in axes.lines[:2]] == ["before", "after"]


def test_frames_that_cannot_be_are_refused(monkeypatch):
    soft = fastxent.score(np.zeros((4, 3)), np.full((4, 3), 1 / 3))
    for table in ("classes", "reliability", "confusion", "groups", "no"):
        with pytest.raises(ValueError, match=table):
            soft.to_frame(table)
    with pytest.raises(ValueError, match="backend: 'numpy'"):
        soft.to_frame(backend="numpy")
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(ImportError, match="pip install pandas"):
        soft.to_frame()


def test_reliability_goes_into_axes_of_one_s_own():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    card = example()
    assert card.plot_reliability(ax=axes) is axes
    drawn = [line.get_xydata() for line in axes.lines if line.get_marker() == "o"]
    want = np.column_stack([card.reliability.confidence, card.reliability.accuracy])[card.reliability.n > 0]
    assert any(np.array_equal(points, want) for points in drawn)
    with pytest.raises(ValueError, match="class indices"):
        fastxent.score(np.zeros((4, 3)), np.full((4, 3), 1 / 3)).plot_reliability(ax=axes)
