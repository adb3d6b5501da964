"""Fuzz whatever reads bytes (ci/fuzz.sh installs what this needs): python ci/fuzz.py [SECONDS] [TARGET...]

Each target of tests/fuzz_targets.py has its share of the time, in a process of its own, as many at once as there are
processors: a crash ends that one alone. Seconds are of processor time, so that a machine that is busy, or stops this,
tries as much and finds no delays.
Half of that is guided by the coverage of the Python code, where Atheris can be had; the other half takes the inputs
that reached new code, and many more mutations of them. What was found and those inputs are in .fuzz/; exit code 1 where
anything was found.
"""

import contextlib
import faulthandler
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
STATE = ROOT / ".fuzz"
HANG_S = 20  # of processor time, for one input
IDLE_S = 600  # in which a process that is not stopped must have had some
FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a disk would be waited for most of the time
ADDRESSES = 4 << 30  # more than a process has when it begins: what asks for more has no memory, instead of the machine
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


class Run:
    """One target's inputs, counted; what they find, kept once a kind."""

    def __init__(self, name: str, target, seconds: float) -> None:
        self.name, self.target, self.inputs, self.kinds = name, target, 0, set()
        self.begin_s = self.told_s = time.process_time()
        self.end_s = self.begin_s + seconds
        self.found = STATE / "found"

    def __call__(self, data: bytes) -> None:
        Path("input").write_bytes(data)  # what a crash leaves
        signal.setitimer(signal.ITIMER_PROF, HANG_S)  # its signal ends the process, amid a library's code too
        try:
            self.target.run(data)
        except Exception as error:
            self.keep(error, data)
        self.inputs += 1
        if time.process_time() > self.told_s + 1:
            self.tell()

    def keep(self, error: Exception, data: bytes) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} {Path(frame.filename).name}:{frame.lineno} " + re.sub(r"\d+", "#", str(error))
        if kind[:120] in self.kinds:
            return
        self.kinds.add(kind[:120])
        save_found(self.name, "".join(traceback.format_exception(error)), data)

    def tell(self) -> None:
        self.told_s = time.process_time()
        facts = {"inputs": self.inputs, "seconds": self.told_s - self.begin_s}
        (STATE / f"{self.name}.json").write_text(json.dumps(facts))
        if self.told_s > self.end_s:
            sys.stdout.flush()
            os._exit(0)  # libFuzzer ends by the clock alone


def save_found(name: str, said: str, data: bytes) -> None:
    path = STATE / "found" / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(said)
    print(f"{name}: {said.splitlines()[-1][:200]}\n  {path}", flush=True)


def fuzz(name: str, seconds: int, how: str) -> None:
    """In a process of its own: one target."""
    atheris = None
    if how == "guided":
        with contextlib.suppress(ImportError):
            import atheris
    guided = contextlib.nullcontext()
    if atheris is not None:
        for path in (ROOT / "fastxent" / "kernels").glob("*.py"):  # Numba compiles their bytecode: it stays as it is
            importlib.import_module(f"fastxent.kernels.{path.stem}")
        guided = atheris.instrument_imports(include=["fastxent", "numpy.lib", "zarr"])
    with guided, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fuzz_targets

        import fastxent.cli.main
        import fastxent.jobs.score
        import fastxent.scoring.scorer  # noqa: F401
    warnings.simplefilter("ignore")
    target = fuzz_targets.TARGETS[name]
    corpus = STATE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = [*fuzz_targets.corpus(name), *(path.read_bytes() for path in sorted(corpus.iterdir())[:2000])]
    for seed in seeds:  # what is loaded and compiled late takes time and memory
        with contextlib.suppress(Exception):
            target.run(seed)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES,) * 2)
    run = Run(name, target, seconds)
    if atheris is None:
        rng = random.Random(time.time_ns())
        while True:
            run(fuzz_targets.mutated(rng.choice(seeds), target.words, rng, seeds))
    for seed in seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:40]).write_bytes(seed)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return atheris.Mutate(data, most)
        return fuzz_targets.mutated(data, target.words, rng, seeds)[:most]

    # Its -timeout is of the clock: never.
    limits = ["-timeout=100000000", "-rss_limit_mb=0", "-max_len=65536", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *limits, "-artifact_prefix=./", str(corpus)], run, custom_mutator=mutate)
    atheris.Fuzz()


def ended(process: subprocess.Popen) -> "int | str":
    """The exit code of a process; it is ended where it waits for something that does not come."""
    used, idle_s = b"", 0
    while process.poll() is None:
        time.sleep(1)  # what stops the process stops this one as well
        fields = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()
        idle_s = idle_s + 1 if fields[11:13] == used else 0
        used = fields[11:13]
        if idle_s > IDLE_S:
            process.kill()
            process.wait()
            return f"none: it waited for {IDLE_S} s"
    return {-signal.SIGPROF: f"none: an input took {HANG_S} s"}.get(process.returncode, process.returncode)


def share(name: str, seconds: float, how: str) -> dict:
    """Run a target for so long, anew after each crash. Returns its figures."""
    total = {"inputs": 0, "seconds": 0.0, "crashes": 0}
    while (left_s := seconds - total["seconds"] - 5 * total["crashes"]) > 1:
        (STATE / f"{name}.json").unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="fastxent-fuzz-", dir=FOLDER) as folder:
            command = [sys.executable, __file__, "--target", name, str(int(left_s)), how]
            with open(STATE / f"{name}.log", "wb") as log:
                code = ended(subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            with contextlib.suppress(OSError, ValueError):
                facts = json.loads((STATE / f"{name}.json").read_text())
                total = {key: total[key] + facts.get(key, 0) for key in total}
            if code != 0:
                total["crashes"] += 1
                log = (STATE / f"{name}.log").read_text(errors="replace")[-4000:]
                last = Path(folder, "input")
                save_found(name, f"{log}\nexit code {code}", last.read_bytes() if last.exists() else b"")
    return total


def main() -> int:
    if sys.argv[1:2] == ["--target"]:
        faulthandler.enable()
        fuzz(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return 0
    import fuzz_targets

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3600.0
    names = sys.argv[2:] or list(fuzz_targets.TARGETS)
    shutil.rmtree(STATE / "found", ignore_errors=True)
    (STATE / "found").mkdir(parents=True)
    print(f"{'target':<18}{'seconds':>9}{'inputs':>12}{'crashes':>9}")
    half = seconds / len(names) / 2

    def both(name: str) -> dict:
        guided, more = share(name, half, "guided"), share(name, half, "")
        return {key: guided[key] + more[key] for key in guided}

    inputs = crashes = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, total in zip(names, pool.map(both, names)):
            inputs, crashes = inputs + total["inputs"], crashes + total["crashes"]
            print(f"{name:<18}{total['seconds']:>9.0f}{total['inputs']:>12,}{total['crashes']:>9}", flush=True)
    found = len(list((STATE / "found").glob("*.txt")))
    print(f"{inputs:,} inputs, {crashes} crashes, {found} findings (see {STATE / 'found'})")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
