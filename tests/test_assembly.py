"""What compiled kernels may hold: no call of the math library, no 512-bit register where that was ruled out."""

import platform

import pytest
from assembly import inspect_kernels, libm_symbols, uses_512_bits


def test_the_reader_finds_what_it_looks_for():
    assert libm_symbols("\tmovabsq\t$log1pf, %rbp\n\tcallq\t*%rbp\n") == {"log1pf"}
    assert libm_symbols("\tjmp\texp@PLT\n") == {"exp"}
    assert libm_symbols("fma:\n\t.globl\tpow\n\tvfmadd213ps\t%ymm1, %ymm2, %ymm3 # fma\n") == set()
    assert uses_512_bits("\tvaddps\t%zmm0, %zmm1, %zmm2\n")
    assert not uses_512_bits("\tvaddps\t%ymm0, %ymm1, %ymm2\n")


def test_the_reader_finds_the_same_in_llvms_language():
    assert libm_symbols("declare double @log10(double)\n  %x = call double @expf(double %y)\n") == {"log10", "expf"}
    assert libm_symbols("  %0 = call <8 x double> @llvm.exp.v8f64(<8 x double> %x)\n") == {"llvm.exp.v8f64"}
    assert libm_symbols("  %floor = call <8 x double> @llvm.fma.v8f64(<8 x double> %exp, ...)\n") == set()


@pytest.mark.slow
def test_code_for_this_processor_names_no_libm_symbol():
    kernels = inspect_kernels()
    assert not [name for name, found in kernels.items() if found["signatures"] == 0]
    assert not {name: found["libm"] for name, found in kernels.items() if found["libm"]}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="an x86 instruction set")
def test_avx2_code_holds_no_zmm_and_no_libm_symbol():
    """test_hot_loops.py looks at the most important kernels every time."""
    kernels = inspect_kernels(cpu="haswell")
    assert not [name for name, found in kernels.items() if found["zmm"]]
    assert not {name: found["libm"] for name, found in kernels.items() if found["libm"]}
