"""The machine that a measurement is of: the processor, what is used of it, and the versions that take part."""

import os
import platform
from importlib import metadata
from typing import Any

import fastxent
from fastxent.kernels import batch

_PACKAGES = ("numpy", "numba", "llvmlite", "torch", "jax", "optax", "scipy", "scikit-learn", "torchmetrics")


def machine() -> dict[str, Any]:
    """As plain Python objects; starts the threads, which settles their layer."""
    import numba
    from numba.core.registry import cpu_target

    with batch.team():
        pass
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    vectors = 512 if "+avx512f" in features else 256 if "+avx2" in features else 128
    versions = {"python": platform.python_version(), "fastxent": fastxent.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": _processor(),
        "code_for": name,
        "vector_bits": vectors,
        "cores": os.cpu_count(),
        "threads": fastxent.get_threads(),
        "threading_layer": numba.threading_layer() if fastxent.get_threads() > 1 else "none",
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe(facts: dict[str, Any]) -> str:
    """The machine in two lines."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['processor']} (code for {facts['code_for']}, vectors of {facts['vector_bits']} bits), "
        f"{facts['cores']} cores, {facts['threads']} threads ({facts['threading_layer']}), {facts['system']}\n"
        f"{versions}"
    )
