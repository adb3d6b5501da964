"""Finds the hot loops in the machine code of kernels, counts what is in them, and compares with what was recorded.

Counts from the generated assembly do not depend on who else uses the machine, nor on the machine: every kernel is
compiled for two named processors, and not run. Reads the AT&T syntax of x86-64, as LLVM prints it.

    python tests/hot_loops.py --record    writes hot_loops.json anew, after a kernel was changed
    python tests/hot_loops.py             shows what is different from it
"""

import json
import os
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).with_suffix(".json")
PROCESSORS = {"znver4": 512, "haswell": 256}  # bits of the widest vectors
# Module of fastxent.kernels, function, types of its matrices.
KERNELS = [
    ("chunks", "hard_cross_entropy", "float32"),
    ("chunks", "hard_cross_entropy", "float64"),
    ("chunks", "hard_cross_entropy", "float16"),
    ("chunks", "hard_cross_entropy_tiles", "float32"),
    ("chunks", "hard_cross_entropy_tiles", "float64"),
    ("chunks", "soft_cross_entropy", "float32"),
    ("chunks", "hard_log_loss", "float32"),
    ("chunks", "hard_log_loss_tiles", "float32"),
    ("chunks", "binary", "float32"),
    ("distributions", "logsumexp", "float32"),
    ("softmax_groups", "softmax_groups", "float32"),
    ("cards", "score_logits", "float32"),
    ("cards", "score_logits_tiles", "float32"),
    ("gradient_chunks", "label_gradients", "float32"),
    ("gradient_terms", "label_gradients_of_terms", "float32"),
]
LEAST_VECTOR = 8  # packed arithmetic instructions that make an innermost loop a hot one
MOST_LOOPS = 6  # of a kernel: those with the most arithmetic
# What may differ from the record: as much as LLVM's choices vary between neighbouring versions of a source.
MORE_INSTRUCTIONS, MORE_SPILLS, MORE_SCALAR, LESS_SHARE = 1.1, 4, 2, 0.8

_LABEL = re.compile(r"^([\w.$@]+):")
_LOCAL = re.compile(r"^\.L\w+$")
_TARGET = re.compile(r"(\.LBB\w+)$")
_JUMP = re.compile(r"^j\w+$")
_REGISTER = re.compile(r"%([xyz])mm\d+")
_STACK = re.compile(r"(?:^|[\s,])-?\d*\(%r[bs]p\)")  # without an index: a variable's place, not an array's
# Arithmetic of floating-point numbers, by the last letters: packed or scalar, single or double.
_ARITHMETIC = re.compile(
    r"^v?(?:add|sub|mul|div|sqrt|max|min|fn?m(?:add|sub)(?:132|213|231)|scalef|rndscale|range|round|cmp\w*?|u?comi)"
    r"([ps][sd])$"
)
_BITS = {"x": 128, "y": 256, "z": 512}


class Block(NamedTuple):
    """Instructions without a jump among them, and the blocks that may follow."""

    instructions: list[str]
    successors: list[str]


class Loop(NamedTuple):
    """What an innermost loop holds, every path of it counted once."""

    instructions: int
    vector: int  # packed floating-point arithmetic
    scalar: int  # floating-point arithmetic of single numbers
    bits: int  # of the widest register in packed arithmetic
    calls: int
    spills: int  # moves between a vector register and a variable's place on the stack

    @property
    def share(self) -> float:
        """Of the instructions, what is packed arithmetic."""
        return self.vector / self.instructions


def functions(assembly: str) -> dict[str, list[str]]:
    """The functions of a listing: name -> its lines, labels of its blocks included."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in assembly.splitlines():
        text = line.split("#")[0].strip()
        label = _LABEL.match(text)
        if label and not _LOCAL.match(label[1]):
            lines = found.setdefault(label[1], [])
        elif label or (text and not text.startswith(".")):
            lines.append(text)
    return found


def blocks(lines: list[str]) -> dict[str, Block]:
    """A function's basic blocks, in order; the first is the entry."""
    parts: list[tuple[str, list[str]]] = [("entry", [])]
    for line in lines:
        label = _LABEL.match(line)
        if label:
            parts.append((label[1], []))
            continue
        parts[-1][1].append(line)
        if _JUMP.match(line.split()[0]):
            parts.append((f"after {len(parts)}", []))
    found = {}
    for (name, instructions), follower in zip(parts, [*(name for name, _ in parts[1:]), None]):
        operation = instructions[-1].split()[0] if instructions else ""
        target = _TARGET.search(instructions[-1]) if _JUMP.match(operation) else None
        successors = [target[1]] if target else []
        if follower is not None and not operation.startswith(("jmp", "ret", "ud2")):
            successors.append(follower)
        found[name] = Block(instructions, successors)
    for block in found.values():
        block.successors[:] = [name for name in block.successors if name in found]
    return found


def innermost(graph: dict[str, Block]) -> list[set[str]]:
    """The natural loops that hold no other one, as sets of blocks.

    A back edge is one to a block on the path of a depth-first walk, which in code made from loops is its header.
    """
    entry = next(iter(graph))
    state = {entry: "open"}
    walk = [(entry, iter(graph[entry].successors))]
    back: list[tuple[str, str]] = []
    while walk:
        name, rest = walk[-1]
        for successor in rest:
            if state.get(successor) == "open":
                back.append((name, successor))
            elif successor not in state:
                state[successor] = "open"
                walk.append((successor, iter(graph[successor].successors)))
                break
        else:
            state[name] = "done"
            walk.pop()
    before: dict[str, list[str]] = {name: [] for name in graph}
    for name, block in graph.items():
        for successor in block.successors:
            before[successor].append(name)
    loops: dict[str, set[str]] = {}
    for tail, header in back:
        body = loops.setdefault(header, {header})
        waiting = [tail]
        while waiting:
            name = waiting.pop()
            if name not in body and name in state:
                body.add(name)
                waiting += before[name]
    return [body for header, body in loops.items() if not body & (loops.keys() - {header})]


def count(instructions: list[str]) -> Loop:
    """Count what is in a loop."""
    vector = scalar = bits = calls = spills = 0
    for line in instructions:
        operation, _, operands = line.replace("\t", " ").partition(" ")
        widths = [_BITS[letter] for letter in _REGISTER.findall(operands)]
        arithmetic = _ARITHMETIC.match(operation)
        if arithmetic and arithmetic[1][0] == "p":
            vector += 1
            bits = max(bits, *widths)
        elif arithmetic:
            scalar += 1
        calls += operation.startswith("call")
        spills += bool(widths) and operation.startswith(("vmov", "mov")) and bool(_STACK.search(operands))
    return Loop(len(instructions), vector, scalar, bits, calls, spills)


def hot_loops(assembly: str) -> list[Loop]:
    """The hot loops of a listing's longest function, the most arithmetic first."""
    graph = blocks(max(functions(assembly).values(), key=len))
    found = [count([line for name in body for line in graph[name].instructions]) for body in innermost(graph)]
    return sorted((x for x in found if x.vector >= LEAST_VECTOR), reverse=True, key=lambda x: x[1::-1])[:MOST_LOOPS]


def faults(recorded: list[Loop], found: list[Loop], bits: int) -> list[str]:
    """What became worse: loops that are no longer vectorised, or hold more than they did."""
    said = []
    if len(found) < len(recorded):
        said.append(f"{len(found)} loops are vectorised, {len(recorded)} were")
    for k, (before, now) in enumerate(zip(recorded, found)):
        if now.bits < min(bits, before.bits):
            said.append(f"loop {k}: vectors of {now.bits} bits instead of {before.bits}")
        if now.calls > before.calls:
            said.append(f"loop {k}: {now.calls} calls")
        for what, most in (
            ("instructions", MORE_INSTRUCTIONS * before.instructions),
            ("scalar", before.scalar + MORE_SCALAR),
            ("spills", before.spills + MORE_SPILLS),
        ):
            if getattr(now, what) > most:
                said.append(f"loop {k}: {what} {getattr(now, what)}, recorded {getattr(before, what)}")
        if now.share < LESS_SHARE * before.share:
            said.append(f"loop {k}: {now.share:.0%} is packed arithmetic, recorded {before.share:.0%}")
    return said


def compile_kernels() -> dict[str, list[Loop]]:
    """The hot loops of every kernel, compiled by this process and not run."""
    from importlib import import_module

    import numpy as np
    from numba import typeof, types

    from fastxent.kernels import batch

    found = {}
    for module, name, dtype in KERNELS:
        kernel = getattr(import_module(f"fastxent.kernels.{module}"), name)
        stored = np.dtype("int16" if dtype == "bfloat16" else dtype)  # whose bits kernels see as these
        matrix = typeof(batch.TYPES[stored])
        signature = (types.int64, types.int64, matrix, matrix, *batch._DATA, types.int64[:, ::1], batch._INTEGERS)
        kernel.compile(signature)
        found[f"{name} {dtype}"] = hot_loops(kernel.inspect_asm(signature))
    return found


def start(processor: str) -> subprocess.Popen[str]:
    """A process that compiles the kernels for a processor: Numba settles it when it is imported."""
    environment = os.environ | {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    environment |= {"FASTXENT_CACHE_DIR": os.devnull}  # the code of a cached function cannot be read
    command = [sys.executable, "-W", "ignore", __file__, "--compile"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def found_now() -> dict[str, dict[str, list[Loop]]]:
    """Processor -> kernel -> its hot loops, in two processes side by side."""
    processes = {processor: start(processor) for processor in PROCESSORS}
    found = {}
    for processor, process in processes.items():
        output, _ = process.communicate(timeout=900)
        if process.returncode:
            raise RuntimeError(f"compiling for {processor} ended with {process.returncode}")
        content = json.loads(output.splitlines()[-1])
        found[processor] = {name: [Loop(*loop) for loop in loops] for name, loops in content.items()}
    return found


def recorded() -> dict[str, dict[str, list[Loop]]]:
    """What hot_loops.json holds."""
    content = json.loads(RECORD.read_text())
    return {
        processor: {name: [Loop(*loop) for loop in loops] for name, loops in content[processor].items()}
        for processor in PROCESSORS
    }


def _calls_none(loop: Loop) -> bool:
    return not loop.calls


def write_record(found: dict[str, dict[str, list[Loop]]]) -> None:
    """One line for each kernel. A loop that calls a function, for rare rows, is not guarded, nor are lesser ones."""
    import llvmlite

    lines = [f'"llvmlite": "{llvmlite.__version__}"', f'"columns": {json.dumps(Loop._fields)}']
    for processor, kernels in found.items():
        rows = ",\n".join(
            f"    {json.dumps(name)}: {json.dumps(list(takewhile(_calls_none, loops)))}"
            for name, loops in kernels.items()
        )
        lines.append(f'"{processor}": {{\n{rows}\n  }}')
    RECORD.write_text("{\n  " + ",\n  ".join(lines) + "\n}\n")


def _main(arguments: list[str]) -> int:
    if "--compile" in arguments:
        sys.path.insert(0, os.getcwd())
        print(json.dumps(compile_kernels()))
        return 0
    found = found_now()
    if "--record" in arguments:
        write_record(found)
        return 0
    said = [
        f"{processor}, {name}: {fault}"
        for processor, kernels in recorded().items()
        for name, loops in kernels.items()
        for fault in faults(loops, found[processor].get(name, []), PROCESSORS[processor])
    ]
    print("\n".join(said) or "as recorded, or better")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
