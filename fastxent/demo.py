"""Real predictions that every machine can make: models of the next byte of Python's own source code.

Unigram, bigram and trigram models are counted on two thirds of the standard library's files and predict every byte of
the rest: 256 classes, millions of rows. A chunk of predictions exists at a time, is scored, and is overwritten.
"""

import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

N_CLASSES = 256
CHUNK_ROWS = 1 << 14  # 16 MiB of float32 predictions
EXPECTED_ROWS = 2_000_000
SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}  # absent from some machines

Progress = Callable[[str, float, int], None]


class Corpus(NamedTuple):
    """Source files, some for counting and some held out."""

    folder: str
    n_files: int
    train: np.ndarray  # uint8
    held_out: np.ndarray  # uint8


class ByteModel(NamedTuple):
    """P(next byte | the ``order`` bytes before it)."""

    name: str
    order: int
    row: np.ndarray  # int32[256 ** order]: context -> row of the tables
    probs: np.ndarray  # float64[rows, 256]
    log_probs: np.ndarray  # float32[rows, 256]


class Outcome(NamedTuple):
    """One model's score card, and how long it took."""

    model: ByteModel
    score: Any  # fastxent.scoring.scorer.Score
    predict_s: float
    score_s: float


class Result(NamedTuple):
    """What the demo shows."""

    corpus: Corpus
    outcomes: list[Outcome]
    fit_s: float
    compile_s: float
    elapsed_s: float


def read_corpus(folder: str | None = None, most_files: int | None = None) -> Corpus:
    """Read the standard library's ``.py`` files in the order of their paths; every third one is held out.

    Parameters
    ----------
    folder : str, optional
        The standard library of the running Python unless given.
    most_files : int, optional
        Read so many files alone.
    """
    root = Path(folder if folder is not None else os.path.dirname(os.__file__))
    paths = sorted(p.relative_to(root).parts for p in root.rglob("*.py"))
    paths = [parts for parts in paths if not SKIPPED.intersection(parts)][:most_files]
    texts = [root.joinpath(*parts).read_bytes() for parts in paths]
    train = b"".join(text for i, text in enumerate(texts) if i % 3 != 2)
    held_out = b"".join(texts[2::3])
    if len(held_out) < 4:
        raise ValueError(f"demo: found {len(paths)} .py files under {root}; need the standard library's sources there")
    return Corpus(str(root), len(paths), np.frombuffer(train, np.uint8), np.frombuffer(held_out, np.uint8))


def contexts(text: np.ndarray, order: int, start: int, stop: int) -> np.ndarray:
    """The ``order`` bytes before each position from start to stop, as one number, int32."""
    code = np.zeros(stop - start, np.int32)
    for back in range(order, 0, -1):
        code = (code << 8) | text[start - back : stop - back]
    return code


def fit(text: np.ndarray) -> list[ByteModel]:
    """Count bytes, pairs and triples: each model interpolates its counts with the model one byte shorter.

    P(b | c) = (n(c, b) + k(c) P(b | c')) / (n(c) + k(c)), where k(c) different bytes followed the context c and c' is
    c without its first byte (Witten and Bell, IEEE Transactions on Information Theory 37, 1991; no byte has
    probability 0). An unseen context takes the row of c'.
    """
    models: list[ByteModel] = []
    row, probs = np.zeros(1, np.int32), np.full((1, N_CLASSES), 1 / N_CLASSES)
    for order, name in enumerate(("unigram", "bigram", "trigram")):
        grams, gram_counts = np.unique(contexts(text, order + 1, order + 1, text.size + 1), return_counts=True)
        seen, place = np.unique(grams >> 8, return_inverse=True)
        counts = np.zeros((seen.size, N_CLASSES))
        counts[place, grams & 255] = gram_counts
        kinds = np.count_nonzero(counts, axis=1)[:, None]
        shorter = np.arange(N_CLASSES**order) % N_CLASSES ** max(0, order - 1)
        lower = row[shorter]
        counts += kinds * probs[lower[seen]]
        counts /= counts.sum(axis=1, keepdims=True)
        row = (lower + seen.size).astype(np.int32)
        row[seen] = np.arange(seen.size)
        probs = np.concatenate([counts, probs])
        models.append(ByteModel(name, order, row, probs, np.log(probs).astype(np.float32)))
    return models


def predictions(model: ByteModel, text: np.ndarray, buffer: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (log-probabilities float32[rows, 256] in the buffer, next bytes uint8[rows]), from the third byte on."""
    for start, stop in pairwise([*range(2, text.size, len(buffer)), text.size]):
        rows = model.row[contexts(text, model.order, start, stop)]
        yield np.take(model.log_probs, rows, axis=0, out=buffer[: rows.size], mode="clip"), text[start:stop]


def run(most_files: int | None = None, progress: Progress | None = None) -> Result:
    """Fit the models and score them.

    Parameters
    ----------
    most_files : int, optional
        Read so many files alone: a quick look.
    progress : callable, optional
        Called with what is being done, how much of it is done (0 to 1), and the rows scored so far.

    Returns
    -------
    Result
        Times in seconds; the scores in nats.
    """
    tell = progress or (lambda _what, _fraction, _rows: None)
    begin = time.perf_counter()
    tell("reading the standard library", 0.0, 0)
    corpus = read_corpus(most_files=most_files)
    tell("counting", 0.0, 0)
    counting = time.perf_counter()
    models = fit(corpus.train)
    fit_s = time.perf_counter() - counting
    tell("compiling, or loading what is compiled", 0.0, 0)
    compiling = time.perf_counter()
    buffer = np.empty((CHUNK_ROWS, N_CLASSES), np.float32)
    _compile(models[0], corpus.held_out, buffer)
    compile_s = time.perf_counter() - compiling
    outcomes = [_score(model, corpus.held_out, buffer, tell) for model in models]
    return Result(corpus, outcomes, fit_s, compile_s, time.perf_counter() - begin)


def _scorer() -> Any:
    from fastxent.scoring.scorer import Scorer

    return Scorer(kind="log_probs", n_classes=N_CLASSES)


def _compile(model: ByteModel, text: np.ndarray, buffer: np.ndarray) -> None:
    """Score once what is scored later, so that no timing holds a compilation."""
    scorer = _scorer()
    for log_probs, target in predictions(model, text[: CHUNK_ROWS // 2], buffer):
        scorer.update(log_probs, target)
    scorer.result()


def _score(model: ByteModel, text: np.ndarray, buffer: np.ndarray, tell: Progress) -> Outcome:
    scorer, n_rows, predict_s, score_s = _scorer(), 0, 0.0, 0.0
    tell(f"scoring the {model.name}", 0.0, 0)
    before = time.perf_counter()
    for log_probs, target in predictions(model, text, buffer):
        made = time.perf_counter()
        scorer.update(log_probs, target, start=n_rows)
        n_rows += len(target)
        scored = time.perf_counter()
        predict_s, score_s = predict_s + made - before, score_s + scored - made
        tell(f"scoring the {model.name}", n_rows / (text.size - 2), n_rows)
        before = time.perf_counter()
    return Outcome(model, scorer.result(), predict_s, score_s)


def to_dict(result: Result) -> dict[str, Any]:
    """The demo's figures as plain Python objects; "score" is as in ``Score.to_dict``."""
    corpus = result.corpus
    models = [
        {
            "name": outcome.model.name,
            "score": outcome.score.to_dict(),
            "predict_s": outcome.predict_s,
            "score_s": outcome.score_s,
            "rows_per_s": outcome.score.n / outcome.score_s,
        }
        for outcome in result.outcomes
    ]
    return {
        "schema": "fastxent.demo/1",
        "folder": corpus.folder,
        "files": corpus.n_files,
        "train_bytes": corpus.train.size,
        "held_out_bytes": corpus.held_out.size,
        "fit_s": result.fit_s,
        "compile_s": result.compile_s,
        "elapsed_s": result.elapsed_s,
        "models": models,
    }
