"""The compiler of functions that exist only inside other kernels.

Numba optimises every jitted function as a whole and makes it into machine code, with two wrappers, even when all its
callers inline it and do the same work again. Here such a function stops after its own simplification (SSA form, dead
code) and waits to be linked. On a kernel of sixty small functions this halves the time to compile.

The rest of that time is Numba's Python. What it does again and again to the same end is left out here.
"""

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

from numba.core.codegen import CPUCodeLibrary, JITCodeLibrary
from numba.core.compiler import CompilerBase, Flags
from numba.core.compiler_machinery import FunctionPass, PassManager, register_pass
from numba.core.ir_utils import build_definitions
from numba.core.registry import cpu_target
from numba.core.rewrites.static_getitem import RewriteConstGetitems
from numba.core.ssa import reconstruct_ssa
from numba.core.transforms import canonicalize_cfg
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.types.functions import BaseFunction
from numba.core.untyped_passes import FixupArgs, TranslateByteCode

__all__ = ["IngredientCompiler", "without_repetition"]


@contextlib.contextmanager
def without_repetition() -> Iterator[None]:
    """Compile without what Numba does for every function and intrinsic, though once is enough.

    That is to look for new entries in some twenty registries (here: in the one where it puts intrinsics, the first); to
    find the types of an operation that is known on the same types of operands; and to collect garbage: what a
    compilation allocates it mostly keeps.
    """
    typing, target = cpu_target.typing_context, cpu_target.target_context
    if "refresh" in vars(target):  # a compilation within another
        yield
        return
    target.refresh()
    operation: Any = BaseFunction
    collecting, types_of_call = gc.isenabled(), operation.get_call_type
    gc.disable()
    try:
        vars(typing)["refresh"] = lambda: None
        vars(target)["refresh"] = lambda: target.install_registry(next(iter(target._registries)))
        operation.get_call_type = _once_each(types_of_call)
        yield
    finally:
        operation.get_call_type = types_of_call
        for context in typing, target:
            vars(context).pop("refresh", None)
        if collecting:
            if not gc.get_freeze_count():  # what is new is old now, without a look at each object
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _once_each(types_of_call: Callable[..., Any]) -> Callable[..., Any]:
    """The same method, run once for each function and types of arguments. Failures are not kept."""
    found: dict[Any, Any] = {}

    def types_once(function: Any, context: Any, args: Any, kws: Any) -> Any:
        if kws:
            return types_of_call(function, context, args, kws)
        key = function, tuple(args)
        if key not in found:
            found[key] = types_of_call(function, context, args, kws)
        return found[key]

    return types_once


class _Flags(Flags):
    """Flags that are quick to compare, and equal if they differ only in what callers need not know of.

    Numba keeps the implementations that it found for a call by the flags of the function around it.
    """

    def __eq__(self, other: object) -> bool:
        return _decisive(self) == _decisive(other) if isinstance(other, Flags) else NotImplemented

    def __hash__(self) -> int:
        return _HASH


_HASH = hash(Flags())


def _decisive(flags: Any) -> dict[str, Any]:
    return {name: value for name, value in flags._values.items() if name not in _INDIFFERENT}


_INDIFFERENT = {"forceinline", "no_cpython_wrapper", "no_compile"}


@functools.cache
def _function_passes(codegen: Any) -> Any:
    return codegen._function_pass_manager()


class _Ingredient(JITCodeLibrary):
    """A library that is linked into others and never run by itself. What it calls is linked when it is itself."""

    def finalize(self) -> None:
        """Leave optimising to the library that this one is linked into: inlining comes first there."""
        self._raise_if_finalized()
        for library in self._linking_libraries:
            self._reload_init.update(library._reload_init)
        self._finalize_dynamic_globals()
        self._finalized = True  # without a place in the execution engine

    def _optimize_functions(self, ll_module: Any) -> None:
        """Numba's passes over functions, built once, and not run over what is only declared."""
        ll_module.data_layout = self._codegen._data_layout
        passes, builder = _function_passes(self._codegen)
        for function in ll_module.functions:
            if not function.is_declaration:
                passes.run(function, builder)

    def _get_module_for_linking(self) -> Any:
        """The module with those of all that it calls, each once; Numba would copy them at every level of calls."""
        if self._linked is None:
            module = super()._get_module_for_linking().clone()
            seen, waiting = {self}, list(self._linking_libraries)
            while waiting:
                library = waiting.pop()
                if library not in seen:
                    seen.add(library)
                    alone = CPUCodeLibrary._get_module_for_linking(library)
                    module.link_in(alone, preserve=True)
                    waiting += library._linking_libraries if isinstance(library, _Ingredient) else []
            self._linked = module
        return self._linked

    _linked: Any = None


@register_pass(mutates_CFG=True, analysis_only=False)
class _IngredientLowering(NativeLowering):
    _name = "ingredient_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _Ingredient(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        state.flags.no_compile = True
        super().run_pass(state)
        state.reload_init.extend(state.library._reload_init)
        lowered = state["cr"]
        # What stands where Numba keeps the function for Python: callers look the definition up by it. It must be a
        # builtin, each time another one; nobody calls it.
        callee = object().__sizeof__
        state.targetctx.insert_user_function(callee, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=callee)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class _Prepare(FunctionPass):
    """Before types are known: elements at constant places (a tuple's have types of their own), then SSA form."""

    _name = "ingredient_prepare"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        blocks = state.func_ir.blocks = canonicalize_cfg(state.func_ir.blocks)
        rewrite = RewriteConstGetitems(state)
        for key, block in blocks.items():
            if rewrite.match(state.func_ir, block, None, None):
                blocks[key] = rewrite.apply()
        state.func_ir = reconstruct_ssa(state.func_ir)
        state.func_ir._definitions = build_definitions(state.func_ir.blocks)
        return True


@register_pass(mutates_CFG=False, analysis_only=False)
class _StripPhis(PreLowerStripPhis):
    """Without the lifetimes of variables, which the next step finds out anyway."""

    _name = "ingredient_strip_phis"

    def run_pass(self, state: Any) -> bool:
        state.func_ir = self._strip_phi_nodes(state.func_ir)
        state.func_ir._definitions = build_definitions(state.func_ir.blocks)
        return True


class _Passes(PassManager):
    """Passes without clocks and events, and without a check of the whole function after each."""

    def _runPass(self, index: int, step: Any, state: Any) -> None:
        step.analysis = self._analysis
        step.run_pass(state)


# What else Numba does finds nothing to do in a kernel: it has no closures or with blocks, raises nothing, has nothing
# that Numba would inline before LLVM does, and no expressions of whole arrays.
_STEPS = (
    TranslateByteCode,
    FixupArgs,
    _Prepare,
    NopythonTypeInference,
    _StripPhis,
    IRLegalization,
    _IngredientLowering,
    NoPythonBackend,
)


class IngredientCompiler(CompilerBase):
    """Numba's compiler in its essential steps, with another lowering."""

    def __init__(self, typing: Any, target: Any, library: Any, args: Any, return_type: Any, flags: Any, *rest: Any):
        super().__init__(typing, target, library, args, return_type, _Flags(flags), *rest)

    def define_pipelines(self) -> list[Any]:
        passes = _Passes("ingredient")
        passes.passes = [(step, step.__name__) for step in _STEPS]
        passes.finalize()
        return [passes]
