"""The journal of a run, from which it goes on, and the record made of it: JSON and tables in Markdown."""

import importlib.metadata
import json
import platform
from dataclasses import asdict
from pathlib import Path

from dossier.errors import Worst
from dossier.peers import LIBRARIES

RECORD = Path(__file__).parent.parent / "accuracy.json"
PACKAGES = ("numpy", "scipy", "torch", "jax", "mpmath")


class Journal:
    """One line of JSON a finished piece: {case, piece, found}. A piece that is in it is not done again."""

    def __init__(self, path):
        self.path, self.done = path, {}
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith("\n"):  # the run ended amid it
            path.write_text("".join(lines[:-1]))
        for line in lines:
            if line.endswith("\n"):
                entry = json.loads(line)
                self.done[entry["case"], tuple(entry["piece"])] = entry["found"]

    def add(self, case, piece, found):
        """Keep {who: Worst} of a piece."""
        found = {who: asdict(worst) for who, worst in found.items()}
        self.done[case, tuple(piece)] = found
        with self.path.open("a") as file:
            file.write(json.dumps({"case": case, "piece": piece, "found": found}) + "\n")

    def total(self, case):
        """{who: Worst} of a case's pieces."""
        total = {}
        for (name, _), pieces in self.done.items():
            for who, found in pieces.items() if name == case else ():
                total.setdefault(who, Worst()).merge(Worst(**found))
        return total


def as_record(journal, facts_of, rechecked):
    """{versions, cases}: of each case its bound, how many inputs there were, and everybody's worst of them."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    cases = {}
    for key in dict.fromkeys(case for case, _ in journal.done):
        found = journal.total(key)
        exact = rechecked(key, found["fastxent"])  # what is said of fastxent is mpmath's word
        found["fastxent"].ulp, found["fastxent"].relative = exact["ulp"], exact["relative"]
        cases[key] = facts_of(key) | {"found": {who: asdict(worst) for who, worst in found.items()}}
    return {"versions": versions, "cases": cases}


def fuller(recorded, measured, keys):
    """The cases of both records in the order of `keys`, each as the one has it that tried more inputs."""

    def tried(case):
        return case["found"]["fastxent"]["inputs"]

    either = {key: [cases[key] for cases in (measured, recorded) if key in cases] for key in keys}
    return {key: max(cases, key=tried) for key, cases in either.items() if cases}


# --- tables -----------------------------------------------------------------------------------------------------------

# What the README shows, under what name.
SHORT = {
    "exp_shifted": "exp",
    "log1p_positive": "log1p",
    "log_normal32": "log",
    "log": "log",
    "binary_cross_entropy, label 0": "`binary_cross_entropy`",
    "cross_entropy": "`cross_entropy`",
    "cross_entropy, soft": "`cross_entropy`, distributions",
    "score, NLL of a row": "`score`, a row's NLL",
    "log_softmax": "`log_softmax`",
    "softmax": "`softmax`",
    "logsumexp": "`logsumexp`",
    "gradient, labels": "gradient for labels",
    "entropy, logits": "`entropy` of logits",
    "kl_divergence, probs": "`kl_divergence`",
}


def amount(found, dtype):
    """An error in ulp for a cell: two digits; from half of all digits on, that none is right."""
    if found is None:
        return ""
    ulp = found["ulp"]
    if ulp > (2.0**22 if dtype == "float32" else 2.0**51):
        return "all"
    return f"{ulp:.2f}" if ulp < 100 else f"{ulp:.1e}".replace("e+0", "e")


def table(record, names):
    """Markdown: a line a case, of those in `names` ({case without its dtype: how to call it}, or all)."""
    head = ["function", "dtype", "inputs", "bound", "fastxent", *LIBRARIES]
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    for key, case in record["cases"].items():
        name, _, dtype = key.rpartition(" ")
        if names is not None and name not in names:
            continue
        ours = case["found"]["fastxent"]
        tried = f"{ours['inputs']:,}"
        lines.append(
            [
                name if names is None else names[name],
                dtype,
                f"all {tried}" if case["of"] and ours["inputs"] >= case["of"] else tried,
                f"{case['bound']:.3g}" if case["bound"] < 1e5 else f"{case['bound']:.1e}",
                *(amount(case["found"].get(who), dtype) for who in ("fastxent", *LIBRARIES)),
            ]
        )
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def short_table(record):
    """What the README shows."""
    return table(record, SHORT)


def long_table(record):
    """Every case, and the inputs that gave fastxent's worst."""
    worst = "".join(
        f"- {key}: {case['found']['fastxent']['relative']:.4f} epsilon at {case['found']['fastxent']['relative_at']}\n"
        for key, case in record["cases"].items()
    )
    return f"# Worst errors in ulp\n\n{table(record, None)}\n# Where fastxent's are\n\n{worst}"
