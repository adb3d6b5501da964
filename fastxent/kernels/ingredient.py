"""The compiler of functions that exist only inside other kernels.

Numba optimises every jitted function as a whole and makes it into machine code, with two wrappers, even when all its
callers inline it and do the same work again. Here such a function stops after its own simplification (SSA form, dead
code) and waits to be linked. On a kernel of sixty small functions this halves the time to compile.
"""

from typing import Any

from numba.core.codegen import CPUCodeLibrary, JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import InlineOverloads, NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes, InlineInlinables

__all__ = ["IngredientCompiler"]


class _Ingredient(JITCodeLibrary):
    """A library that is linked into others and never run by itself. What it calls is linked when it is itself."""

    def finalize(self) -> None:
        """Leave optimising to the library that this one is linked into: inlining comes first there."""
        self._raise_if_finalized()
        for library in self._linking_libraries:
            self._reload_init.update(library._reload_init)
        self._finalize_dynamic_globals()
        self._finalized = True  # without a place in the execution engine

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


# Closures, functions and overloads that Numba inlines before LLVM does, and expressions of whole arrays.
_NOT_NEEDED = InlineClosureLikes, InlineInlinables, InlineOverloads, NopythonRewrites


class IngredientCompiler(CompilerBase):
    """Numba's default compiler but for the lowering, and for passes that find nothing to do in a kernel."""

    def define_pipelines(self) -> list[Any]:
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state, name="ingredient")
        pipeline.passes = [
            (_IngredientLowering, text) if step is NativeLowering else (step, text)
            for step, text in pipeline.passes
            if step not in _NOT_NEEDED
        ]
        pipeline.finalize()
        return [pipeline]
