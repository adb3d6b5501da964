"""What compiled kernels may hold: no call of the math library, no 512-bit register where that was ruled out."""

import platform

import pytest
from assembly import inspect_kernels, libm_symbols, uses_512_bits


@pytest.fixture(scope="module")
def native():
    return inspect_kernels()


def test_the_reader_finds_what_it_looks_for():
    assert libm_symbols("\tmovabsq\t$log1pf, %rbp\n\tcallq\t*%rbp\n") == {"log1pf"}
    assert libm_symbols("\tjmp\texp@PLT\n") == {"exp"}
    assert libm_symbols("fma:\n\t.globl\tpow\n\tvfmadd213ps\t%ymm1, %ymm2, %ymm3 # fma\n") == set()
    assert uses_512_bits("\tvaddps\t%zmm0, %zmm1, %zmm2\n")
    assert not uses_512_bits("\tvaddps\t%ymm0, %ymm1, %ymm2\n")


def test_every_kernel_is_inspected(native):
    assert native
    assert not [name for name, found in native.items() if found["signatures"] == 0]


def test_kernels_name_no_libm_symbol(native):
    assert not {name: found["libm"] for name, found in native.items() if found["libm"]}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="an x86 instruction set")
def test_avx2_code_holds_no_zmm_and_no_libm_symbol():
    kernels = inspect_kernels(cpu="haswell")
    assert not [name for name, found in kernels.items() if found["zmm"]]
    assert not {name: found["libm"] for name, found in kernels.items() if found["libm"]}
