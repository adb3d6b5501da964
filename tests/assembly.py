"""Reads the machine code of every compiled kernel: which symbols it calls, which registers it names.

Run as a program it compiles the kernels, looks through them and prints what it found as JSON; `inspect_kernels` does
that in a fresh process, because Numba settles the processor and its features when it is imported. bits_suite.py looks
through what comes before the machine code, LLVM's own language: machine code has to be generated once more to be read.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

# Every function of C's math library, in its double, float and long double form.
_NAMES = """acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp10 exp2 expm1 fabs fdim
floor fma fmax fmin fmod frexp hypot ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf nearbyint
nextafter pow remainder rint round roundeven scalbln scalbn sin sincos sinh sqrt tan tanh tgamma trunc"""
_LIBM = _NAMES.split()
LIBM = {f"{prefix}{name}{suffix}" for name in _LIBM for suffix in ("", "f", "l") for prefix in ("", "__", "numba_")}
LIBM |= {f"__{name}{suffix}_finite" for name in _LIBM for suffix in ("", "f", "l")}
# What LLVM has instructions for on every processor here; its other functions of these names become calls.
_INSTRUCTIONS = {"ceil", "copysign", "fabs", "floor", "fma", "nearbyint", "rint", "roundeven", "sqrt", "trunc"}
INTRINSICS = {f"llvm.{name}" for name in (*_LIBM, "powi") if name not in _INSTRUCTIONS}

_SYMBOL = re.compile(r"(?<![\w.%])[A-Za-z_][\w.]*")


def instructions(assembly):
    """The lines that are instructions, without labels, directives and comments."""
    for line in assembly.splitlines():
        text = line.split("#")[0].strip()
        if text and not text.startswith(".") and not text.endswith(":"):
            yield text


def libm_symbols(assembly):
    """The math library's functions that the code refers to. The first word of a line is the instruction's own name."""
    words = {word for line in instructions(assembly) for word in _SYMBOL.findall(line)[1:]}
    return {word for word in words if word in LIBM or word.rpartition(".")[0] in INTRINSICS}


def uses_512_bits(assembly):
    """Whether an instruction names one of the 512-bit registers of AVX-512."""
    return any("%zmm" in line for line in instructions(assembly))


def inspect_kernels(*, cpu=None, timeout_s=900):
    """inspect_here in a fresh process; with `cpu` (a name LLVM knows) for that processor, without more features."""
    environment = os.environ | {"FASTXENT_CACHE_DIR": os.devnull}  # the code of a cached function cannot be read
    if cpu is not None:
        environment |= {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-W", "ignore", __file__]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _compile_the_rest():
    """Call the kernels that only large or old score cards need, or other libraries."""
    import numpy as np

    import fastxent
    from fastxent.adapters import sklearn
    from fastxent.fit import SoftmaxRegression, TemperatureScaling
    from fastxent.kernels import batch, columns, exactsum, groups

    slots, ones = np.zeros((4, exactsum.COMPACT_SIZE), np.int64), np.ones(4, np.int64)
    exactsum.exact_sum_new()
    exactsum.compact_sum_normalise(slots[0])
    groups.weigh_counts(slots, 0, ones)
    batch.first_bad_weight(np.ones(batch.MANY_WEIGHTS))
    columns.exact_sum_add_columns(np.zeros((3, exactsum.STATE_SIZE), np.int64), np.eye(3))
    for dtype in (np.float16, np.float32, np.float64):
        for n_classes in (4, 66):
            fastxent.cross_entropy(np.zeros((n_classes, 1 << 13), dtype).T, np.zeros(1 << 13, np.int64))
        fastxent.linear_cross_entropy_value_and_grad(np.ones((2, 3), dtype), np.ones((80, 3), dtype), [0, 1])
    parts = [fastxent.Scorer().update(np.eye(3), [0, 1, 2], by=[0, 1, 0], start=3 * k) for k in range(2)]
    parts[0].merge(parts[1]).result()
    halves = [fastxent.Comparer().update(np.eye(3), np.ones((3, 3)), [0, 1, 2], by=[0, 1, 0]) for _ in range(2)]
    halves[0].merge(halves[1]).result()
    fastxent.compare(np.full((2, 2), 0.5), np.full((2, 2), 0.5), [0, 1], kind="probs")
    for dtype in (np.float32, np.float64):
        for n_classes in (2, 66):
            sklearn.brier_score_loss([0, 1], np.full((2, n_classes), 1 / n_classes, dtype), labels=range(n_classes))
        for target in ([0, 0, 0, 1], np.eye(2)[[0, 0, 0, 1]]):
            TemperatureScaling().fit(np.array([[1, 0]] * 4, dtype), target)
    fastxent.score(np.eye(2), [0, 1], bootstrap=2)
    for dtype in (np.float32, np.float64):
        SoftmaxRegression().fit(np.array([[0], [1], [2], [3]], dtype), [0, 1, 0, 1])
    TemperatureScaling(kind="probs").fit(np.array([[0.7, 0.3]] * 4), [0, 0, 0, 1])
    fastxent.focal_loss(np.zeros((2, 2)), [0, 1])
    sklearn.log_loss(["a", "b"], np.full((2, 2), 0.5))
    sklearn.log_loss(np.eye(2), np.full((2, 2), 0.5))
    sklearn.d2_log_loss_score([0, 1], np.full((2, 2), 0.5), sample_weight=[1, 1])


def inspect_here(machine_code=True):
    """Compile every kernel in this process, where none may come from a cache, and read its code.

    Returns a dict from each kernel's name to {"signatures": int, "libm": [names]}, with "zmm": bool for machine code.
    """
    import fastxent
    from fastxent.kernels.jit import REGISTER

    fastxent.warmup()
    _compile_the_rest()
    found = {}
    for name, kernel in REGISTER.items():
        codes = list((kernel.inspect_asm() if machine_code else kernel.inspect_llvm()).values())
        found[name] = {
            "signatures": len(codes),
            "libm": sorted(set().union(*map(libm_symbols, codes))) if codes else [],
        }
        if machine_code:
            found[name]["zmm"] = any(map(uses_512_bits, codes))
    return found


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    print(json.dumps(inspect_here()))
