"""The compiler of functions that exist only inside other kernels.

Numba optimises every jitted function as a whole and makes it into machine code, with two wrappers, even when all its
callers inline it and do the same work again. Here such a function stops after its own simplification (SSA form, dead
code) and waits to be linked. On a kernel of sixty small functions this halves the time to compile.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

__all__ = ["IngredientCompiler"]


class _Ingredient(JITCodeLibrary):
    """A library that is linked into others and never run by itself."""

    def _optimize_final_module(self) -> None:
        """Leave it to the library that this one is linked into: inlining comes first there."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True  # without a place in the execution engine


class _Callee:
    """Stands where Numba keeps the address of a function: callers look its definition up by it."""


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
        callee = _Callee()
        state.targetctx.insert_user_function(callee, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=callee)
        return True


class IngredientCompiler(CompilerBase):
    """Numba's default compiler but for the lowering."""

    def define_pipelines(self) -> list[Any]:
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state, name="ingredient")
        pipeline.passes = [
            (_IngredientLowering, text) if step is NativeLowering else (step, text) for step, text in pipeline.passes
        ]
        pipeline.finalize()
        return [pipeline]
