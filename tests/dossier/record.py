"""The journal of a run, from which it goes on, and the record made of it: JSON and tables in Markdown."""

import json
from dataclasses import asdict

from dossier.errors import Worst


class Journal:
    """One line of JSON a finished piece: {case, piece, found}. A piece that is in it is not done again."""

    def __init__(self, path):
        self.path, self.done = path, {}
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            for line in lines:
                if line.endswith("\n"):  # or the run ended amid it
                    entry = json.loads(line)
                    self.done[entry["case"], tuple(entry["piece"])] = entry["found"]
            if lines and not lines[-1].endswith("\n"):
                path.write_text("".join(lines[:-1]))

    def add(self, case, piece, found):
        """Keep {who: Worst} of a piece."""
        found = {who: asdict(worst) for who, worst in found.items()}
        self.done[case, tuple(piece)] = found
        with self.path.open("a") as file:
            file.write(json.dumps({"case": case, "piece": piece, "found": found}) + "\n")

    def total(self, case, pieces):
        """{who: Worst} of those pieces of a case that are done."""
        total = {}
        for piece in pieces:
            for who, found in self.done.get((case, tuple(piece)), {}).items():
                total.setdefault(who, Worst()).merge(Worst(**found))
        return total
