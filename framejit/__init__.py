"""framejit compiles the PyTorch work inside ordinary Python functions. See framejit.compile."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

import torch

from framejit import _armed, _build, _checks, _config, _cuda, _explain, _logging, _marks, _optimizers, _trace
from framejit._module import CompiledModule

_C = _build.load()
from framejit import _state  # noqa: E402, F401  (needs the extension)

__version__ = "0.1.0"
__all__ = [
    "CheckError",
    "CompiledModule",
    "DynamicShapeError",
    "GraphBreakError",
    "allow_in_graph",
    "compile",
    "disable",
    "enable",
    "explain",
    "graph_break",
    "is_compiling",
    "list_backends",
    "log_artifacts",
    "mark_dynamic",
    "mark_static",
    "mark_unbacked",
    "register_backend",
    "reset",
    "set_checks",
    "set_logs",
    "trace",
]

mark_dynamic = _marks.mark_dynamic
mark_static = _marks.mark_static
mark_unbacked = _marks.mark_unbacked

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = {"recompile_limit": 8}
# What a mode asks of the backend: to launch whole graphs, to measure its choices.
_MODES = {
    "default": (False, False),
    "reduce-overhead": (True, False),
    "max-autotune": (True, True),
    "max-autotune-no-cudagraphs": (False, True),
}


class GraphBreakError(RuntimeError):
    """Raised under fullgraph=True where a function cannot be captured as one graph; says where and why."""


class DynamicShapeError(RuntimeError):
    """Raised where a size that mark_dynamic or mark_unbacked was called for had to be fixed; says where and by what."""


class CheckError(RuntimeError):
    """Raised where a check (set_checks) finds that framejit does something else than eager would: our bug."""


_C.set_graph_break_error(GraphBreakError)
_C.set_check_error(CheckError)
_C.set_dynamic_shape_error(DynamicShapeError)
_C.set_enabled(not _config.flag("FRAMEJIT_DISABLE"))
_C.set_path_rules(_armed.path_rules())
_C.set_optimizer_methods(_optimizers.methods(), _optimizers.hooks())
_C.set_cuda_toolchain(_cuda.nvrtc_libraries(), _cuda.cache_folder())
_logging.install(_C, _config.read("FRAMEJIT_LOG"))
_logging.trace_symbols(_C, _config.read("FRAMEJIT_TRACE_SYMBOL"))
_checks.set_checks(_C, _config.read("FRAMEJIT_CHECK"))


# What runs ATen's operators or kernels of ours; of other backends nobody can say what they compute.
_STRICT_BACKENDS = ("auto", "cpu", "cuda", "interp", "eager")


def _check_common(caller: str, backend: Any, options: Any, strict: Any) -> dict[str, Any]:
    """The options with their defaults, the backend's name or callable, and whether it is strict."""
    if backend is not None and not isinstance(backend, str) and not callable(backend):
        raise TypeError(f"{caller}: backend: expected a name or a callable, got {type(backend).__name__}")
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"{caller}: options: expected a mapping or None, got {type(options).__name__}")
    chosen = dict(_OPTIONS)
    for name, value in (options or {}).items():
        if name not in _OPTIONS:
            raise ValueError(f"{caller}: options: unknown option {name!r}; known: {', '.join(_OPTIONS)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise TypeError(f"{caller}: options[{name!r}]: expected a non-negative int, got {value!r}")
        chosen[name] = value
    chosen["backend"] = _config.read("FRAMEJIT_BACKEND") if backend is None else backend
    if not isinstance(strict, bool):
        raise TypeError(f"{caller}: strict: expected a bool, got {type(strict).__name__}")
    if strict and chosen["backend"] not in _STRICT_BACKENDS:
        known = ", ".join(_STRICT_BACKENDS)
        raise ValueError(
            f"{caller}: strict: backend {chosen['backend']!r} cannot promise eager's bits; those can: {known}"
        )
    return {**chosen, "strict": strict}


def _check_options(
    backend: Any, fullgraph: Any, dynamic: Any, data_dependent: Any, strict: Any, freeze: Any, mode: Any, options: Any
) -> dict[str, Any]:
    chosen = _check_common("framejit.compile", backend, options, strict)
    if not isinstance(fullgraph, bool):
        raise TypeError(f"framejit.compile: fullgraph: expected a bool, got {type(fullgraph).__name__}")
    if dynamic is not None and not isinstance(dynamic, bool):
        raise TypeError(f"framejit.compile: dynamic: expected a bool or None, got {type(dynamic).__name__}")
    if not isinstance(data_dependent, bool):
        raise TypeError(f"framejit.compile: data_dependent: expected a bool, got {type(data_dependent).__name__}")
    if not isinstance(freeze, bool):
        raise TypeError(f"framejit.compile: freeze: expected a bool, got {type(freeze).__name__}")
    if freeze and strict:
        raise ValueError(
            "framejit.compile: freeze: folded weights round differently from eager mode, which strict excludes"
        )
    if mode is not None and mode not in _MODES:
        raise ValueError(f"framejit.compile: mode: expected None or one of {', '.join(_MODES)}, got {mode!r}")
    return chosen


@overload
def compile(target: F, **arguments: Any) -> F: ...
@overload
def compile(target: None = None, **arguments: Any) -> Callable[[F], F]: ...
def compile(
    target: Any = None,
    *,
    backend: str | Callable[..., Any] | None = None,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    data_dependent: bool = False,
    strict: bool = False,
    freeze: bool = False,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Compiles a function, method, nn.Module or other callable; also a decorator, with or without arguments.

    backend: a name of list_backends(), "auto" (the native backend), or a callable backend(gm, example_inputs) that
        returns a callable. None: FRAMEJIT_BACKEND, or "auto".
    fullgraph: raise GraphBreakError where the function cannot be captured as one graph, instead of running it in the
        interpreter.
    dynamic: None: the first recording holds for the sizes, ints and floats it meets; tensors whose sizes then differ,
        and numbers that do, are recorded with open sizes and values, which one recording serves. True: all tensors but
        parameters have open sizes from the first recording on. False: each set of sizes and numbers is recorded.
    data_dependent: numbers and sizes that come of data (`item`, `tolist`, `nonzero`, boolean masks, `unique`,
        `repeat_interleave`) are expected to be others in each call, and are part of the graph: one recording serves all
        of them. The graph breaks where the program asks what one is worth, by a branch for example, and what follows
        is recorded with all sizes, ints and floats that it takes over open. Functions that call torch._check or
        torch.sym_constrain_range have such graphs in any case. With dynamic=False without effect. Python backends are
        given modules with unbacked SymInts.
    strict: results have the very bits of eager mode (on the CPU): only operators that are exact in IEEE arithmetic, and
        moves, fuse; ATen's kernels compute everything else (reductions, norms, softmax, exp, tanh, gelu, sqrt, ...:
        docs/numerics.md). Without it, errors are as small as eager's, but results may differ in their last bits. For
        the backends of framejit itself; ValueError with others.
    freeze: parameters and buffers of modules are constants of graphs that need no gradients (under torch.no_grad or
        inference_mode): what is computed of them alone is computed once, batch norms are folded into the convolution or
        linear layer in front of them, weights are packed. Weights are not supposed to change; where a tensor was
        replaced or its version moved (optimizers, load_state_dict, in-place operators), the graph is compiled for what
        it is now. Writes through `.data` or through NumPy's view of the memory are not seen. Results may differ from
        eager's in rounding. Graphs that need gradients, and Python backends, are compiled as without it.
    mode: None or "default": a graph on a GPU is launched as one CUDA graph where its kernels are launched more slowly
        than they run, and that turns out faster. "reduce-overhead": wherever a CUDA graph gives the same results, from
        the third call with the same shapes on; its memory stays reserved. FRAMEJIT_LOG=cudagraphs says which graphs,
        and why others are not. Results are never overwritten by a later call.
        "max-autotune-no-cudagraphs": a kernel for a GPU is compiled for several launch shapes, each is measured on the
        GPU as the graph is compiled, and the fastest is kept; first calls take longer, and wait for the GPU.
        FRAMEJIT_LOG=cuda says what was measured. "max-autotune": both. On the CPU without effect.
    options: {"recompile_limit": n}: how often a function is recorded before further misses run in the interpreter.
    """
    chosen = _check_options(backend, fullgraph, dynamic, data_dependent, strict, freeze, mode, options)
    arguments = {
        "backend": backend,
        "fullgraph": fullgraph,
        "dynamic": dynamic,
        "data_dependent": data_dependent,
        "strict": strict,
        "freeze": freeze,
        "mode": mode,
        "options": options,
    }
    if target is None:
        return lambda function: compile(function, **arguments)
    return _wrap(target, arguments, chosen)


def _wrap(target: Any, arguments: dict[str, Any], options: dict[str, Any]) -> Any:
    if isinstance(target, _C.Entry | CompiledModule):
        return target
    if isinstance(target, staticmethod | classmethod):
        return type(target)(_wrap(target.__func__, arguments, options))
    if isinstance(target, types.FunctionType):
        return _entry(target, arguments, options)
    if isinstance(target, types.MethodType):
        return types.MethodType(_wrap(target.__func__, arguments, options), target.__self__)
    if isinstance(target, torch.nn.Module):
        return CompiledModule.wrap(target, _entry(_call_of(target), arguments, options))
    if isinstance(target, functools.partial):
        return functools.partial(_wrap(target.func, arguments, options), *target.args, **target.keywords)
    call = inspect.getattr_static(type(target), "__call__", None)
    if isinstance(target, type) or not isinstance(call, types.FunctionType):
        raise TypeError(
            "framejit.compile: target: expected a Python function, a method, an nn.Module or an object whose class "
            f"defines __call__ in Python, got {target!r}"
        )
    return types.MethodType(_entry(call, arguments, options), target)


def _call_of(module: torch.nn.Module) -> types.FunctionType:
    call = type(module).__call__
    if not isinstance(call, types.FunctionType):
        raise TypeError(f"framejit.compile: target: {type(module).__name__}.__call__ is not a Python function")
    return call


def _entry(function: types.FunctionType, arguments: dict[str, Any], options: dict[str, Any]) -> Any:
    entry = _C.make_entry(
        function,
        options["backend"],
        arguments["fullgraph"],
        options["recompile_limit"],
        arguments["dynamic"],
        arguments["data_dependent"],
        options["strict"],
        arguments["freeze"],
        *_MODES[arguments["mode"] or "default"],
    )
    functools.update_wrapper(entry, function)
    entry._framejit_options = arguments
    return entry


class enable(_armed.Enable):  # noqa: N801  (used like a function, as torch.no_grad is)
    __doc__ = _armed.Enable.__doc__
    _extension = _C
    _check = staticmethod(_check_common)


class _DisableScope:
    """`with framejit.disable():` runs compiled functions in the interpreter, in this thread."""

    def __enter__(self) -> None:
        _C.add_disable_depth(1)

    def __exit__(self, *error: object) -> None:
        _C.add_disable_depth(-1)


def disable(function: Any = None) -> Any:
    """A function that is never captured, nor anything it calls; without an argument, a context manager."""
    if function is None:
        return _DisableScope()
    if not callable(function):
        raise TypeError(f"framejit.disable: function: expected a callable, got {type(function).__name__}")

    @functools.wraps(function)
    def run_disabled(*args: Any, **kwargs: Any) -> Any:
        with _DisableScope():
            return function(*args, **kwargs)

    run_disabled._framejit_disable = True  # type: ignore[attr-defined]
    return run_disabled


def allow_in_graph(function: F) -> F:
    """Declares that a function reads and writes nothing but its arguments' tensors, so that it may be recorded."""
    if not callable(function):
        raise TypeError(f"framejit.allow_in_graph: function: expected a callable, got {type(function).__name__}")
    function._framejit_allow_in_graph = True  # type: ignore[attr-defined]
    return function


def graph_break() -> None:
    """Keeps the function that calls it from being captured; does nothing otherwise."""


graph_break._framejit_graph_break = True  # type: ignore[attr-defined]


def explain(target: Any, **compile_arguments: Any) -> Callable[..., _explain.Explanation]:
    """explain(f)(*args) calls f, freshly compiled, and returns what became of it: print it, or read its fields.

    To say where the time of a warm call goes, guards and the steps of the compiled graph then run some more times, for
    a tenth of a second, or once where that takes longer; nothing of it shows in tensors, objects or random numbers.
    """
    fresh = compile(_original(target), **compile_arguments)
    entry = _entry_of(fresh)

    def call(*args: Any, **kwargs: Any) -> _explain.Explanation:
        result = fresh(*args, **kwargs)
        name = type(target).__name__ if isinstance(target, torch.nn.Module) else entry.__qualname__
        budgets = _C.budgets(entry, *_arguments_of(fresh, args, kwargs))
        return _explain.Explanation(name, result, _explain.reports(_C, entry, budgets))

    return call


def _original(target: Any) -> Any:
    if isinstance(target, CompiledModule):
        return target._original
    if isinstance(target, types.MethodType):
        return types.MethodType(_original(target.__func__), target.__self__)
    return _C.entry_function(target) if isinstance(target, _C.Entry) else target


def _arguments_of(compiled: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
    """What the entry is called with where `compiled` is called with these."""
    if isinstance(compiled, CompiledModule):
        return (compiled._original, *args), kwargs
    if isinstance(compiled, functools.partial):
        return _arguments_of(compiled.func, (*compiled.args, *args), {**compiled.keywords, **kwargs})
    return ((compiled.__self__, *args) if isinstance(compiled, types.MethodType) else args), kwargs


def _entry_of(compiled: Any) -> Any:
    if isinstance(compiled, CompiledModule):
        return compiled._entry
    if isinstance(compiled, functools.partial):
        return _entry_of(compiled.func)
    return compiled.__func__ if isinstance(compiled, types.MethodType) else compiled


def reset() -> None:
    """Forgets everything compiled so far; the next call of each function records again."""
    _C.reset()


def list_backends() -> list[str]:
    """The names that `backend` accepts."""
    return _C.list_backends()


def register_backend(name: str, backend: Callable[..., Any]) -> None:
    """Makes backend(gm, example_inputs) -> callable known under a name."""
    if not isinstance(name, str):
        raise TypeError(f"framejit.register_backend: name: expected a str, got {type(name).__name__}")
    if not callable(backend):
        raise TypeError(f"framejit.register_backend: backend: expected a callable, got {type(backend).__name__}")
    _C.register_backend(name, backend)


def trace(
    target: Any,
    *args: Any,
    leaf_modules: Iterable[type[torch.nn.Module] | torch.nn.Module] | None = None,
    **kwargs: Any,
) -> torch.fx.GraphModule:
    """The program that target(*args, **kwargs) runs, as one torch.fx.GraphModule; nothing is run.

    The graph has the form that torch.fx.symbolic_trace gives it: a placeholder for each parameter that the call passes,
    get_attr for the tensors of the module, call_module for leaf modules, call_function and call_method for torch's
    functions, methods and operators and for what torch.fx.wrap names, and an output of the same structure. Passes,
    torch.fx.replace_pattern, Interpreter and Transformer work on it. The program may be any that framejit captures:
    control flow on Python values, containers, *args, data classes. Shapes and values that are no tensors are those of
    this call; other numbers, texts and None for a parameter fail an assertion of the graph.

    target: an nn.Module (whose forward is traced, without its hooks), a Python function or a method.
    leaf_modules: classes of modules, or modules, that are one call each. None: the layers of torch.nn but Sequential,
        as in symbolic_trace. (): none. What a leaf does is recorded too, to know its results' shapes.
    Raises GraphBreakError, with the line, where the program is not one graph. What it changes that is no tensor
    (attributes, lists) is no part of the graph, and there is a warning that says so.
    """
    return _trace.trace(_C, GraphBreakError, _original(target), args, kwargs, leaf_modules)


def is_compiling() -> bool:
    """True while framejit records the calling code."""
    return _C.is_compiling()


def log_artifacts() -> dict[str, str]:
    """What FRAMEJIT_LOG and set_logs accept, with a description of each."""
    return dict(_C.log_artifacts())


def set_logs(names: str) -> None:
    """Turns on the comma-separated log artifacts and no others, as FRAMEJIT_LOG does; unknown names are ValueErrors."""
    _logging.set_logs(_C, names)


def set_checks(names: str) -> None:
    """Turns on the comma-separated checks of framejit itself and no others, as FRAMEJIT_CHECK does.

    "replay": before a recording is replayed, the call is recorded again, and a difference raises CheckError.
    It holds for what is recorded from now on. Unknown names are ValueErrors.
    """
    _checks.set_checks(_C, names)
