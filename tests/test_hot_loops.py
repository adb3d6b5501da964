"""The hot loops of the kernels stay vectors of the processor's width: no call, no scalar arithmetic, no more work.

Where a kernel was changed on purpose, `python tests/hot_loops.py --record` writes what its loops hold now.
"""

import math
import platform

import numpy as np
import pytest
from hot_loops import (
    KERNELS,
    PROCESSORS,
    Loop,
    blocks,
    count,
    faults,
    found_now,
    functions,
    hot_loops,
    innermost,
    recorded,
)

from fastxent.kernels.jit import compiled, inline
from fastxent.kernels.memory import load, pointer, store
from fastxent.kernels.simd import fma

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 assembly")
CASES = [(processor, f"{name} {dtype}") for processor in PROCESSORS for _, name, dtype in KERNELS]


@pytest.fixture(scope="module")
def found():
    return found_now()


@pytest.mark.parametrize(("processor", "kernel"), CASES)
def test_hot_loops_are_as_recorded(found, processor, kernel):
    loops = recorded()[processor][kernel]
    assert loops
    assert max(loop.bits for loop in loops) == PROCESSORS[processor]
    assert not any(loop.calls for loop in loops)
    assert faults(loops, found[processor][kernel], PROCESSORS[processor]) == []


def test_the_record_is_of_these_kernels():
    assert {(processor, kernel) for processor, kernels in recorded().items() for kernel in kernels} == set(CASES)


# --- the guard itself: kernels that it has to refuse ------------------------------------------------------------------


@inline
def some_arithmetic(a, b):
    """What a loop has to do for each vector."""
    c = fma(a, b, b)
    for _ in range(6):
        c = fma(c, b, a)
    return c


@compiled
def in_vectors(x, y, out):
    """x·y³ + ..., in vectors."""
    p, q, r = pointer(x, 0), pointer(y, 0), pointer(out, 0)
    for i in range(0, x.size, 16):
        store(r, i, some_arithmetic(load(p, i), load(q, i)))


@compiled
def one_by_one(x, y, out):
    """The same dependence from element to element: nothing to vectorise."""
    c = x[0]
    for i in range(x.size):
        for _ in range(6):
            c = c * y[i] + x[i]
        out[i] = c


@compiled
def with_a_call(x, y, out):
    """In vectors, and a libm call for each of them."""
    p, q, r = pointer(x, 0), pointer(y, 0), pointer(out, 0)
    for i in range(0, x.size, 16):
        store(r, i, some_arithmetic(load(p, i), load(q, i)))
        out[i] = math.exp(out[i])


def loops_of(kernel):
    signature = tuple(np.zeros(0, np.float32) for _ in range(3))
    kernel(*signature)
    (assembly,) = kernel.inspect_asm().values()
    return hot_loops(assembly)


@pytest.fixture(scope="module")
def vectors():
    return loops_of(in_vectors)


def test_a_vector_loop_is_found(vectors):
    assert vectors
    assert vectors[0].vector >= 7
    assert vectors[0].bits >= 128
    assert (vectors[0].scalar, vectors[0].calls) == (0, 0)
    assert faults(vectors, vectors, vectors[0].bits) == []


def test_a_scalar_loop_is_refused(vectors):
    said = faults(vectors, loops_of(one_by_one), 512)
    assert any("loops are vectorised" in fault for fault in said)


def test_a_libm_call_is_refused(vectors):
    said = faults(vectors, loops_of(with_a_call), 512)
    assert any("calls" in fault for fault in said)


GOOD = Loop(instructions=100, vector=60, scalar=0, bits=512, calls=0, spills=1)


@pytest.mark.parametrize(
    ("worse", "word"),
    [
        ({"instructions": 111}, "instructions"),
        ({"scalar": 3}, "scalar"),
        ({"bits": 256}, "256 bits"),
        ({"calls": 1}, "calls"),
        ({"spills": 6}, "spills"),
        ({"vector": 47}, "packed"),
    ],
)
def test_worse_loops_are_refused(worse, word):
    (fault,) = faults([GOOD], [GOOD._replace(**worse)], 512)
    assert word in fault


def test_better_loops_are_not():
    better = GOOD._replace(instructions=80, vector=55, spills=0)
    assert faults([GOOD], [better, GOOD], 512) == []


LISTING = """
	.text
kernel:
	movq	%rdi, %rax
.LBB0_1:
	vmovaps	(%rax), %zmm0
.LBB0_2:
	vmovups	(%rsi,%rcx,4), %zmm1
	vfmadd213ps	64(%rsp){1to16}, %zmm0, %zmm1
	vmovaps	%zmm1, 128(%rsp)
	vmovaps	%zmm1, 128(%rsp,%rcx,4)
	vaddss	%xmm1, %xmm0, %xmm0
	vpaddd	%zmm1, %zmm1, %zmm2
	vmovss	%xmm0, (%rdi)
	addq	$16, %rcx
	je	.LBB0_4
	callq	*%rbx
	jmp	.LBB0_2
.LBB0_4:
	decq	%rax
	jne	.LBB0_1
	retq
other:
	retq
"""


def test_the_reader_finds_the_innermost_loop():
    lines = functions(LISTING)["kernel"]
    graph = blocks(lines)
    (body,) = innermost(graph)
    assert ".LBB0_2" in body
    assert not {"entry", ".LBB0_1", ".LBB0_4"} & body
    loop = count([line for name in body for line in graph[name].instructions])
    assert loop == Loop(instructions=11, vector=1, scalar=1, bits=512, calls=1, spills=1)
