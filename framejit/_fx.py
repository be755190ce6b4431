"""Builds torch.fx.GraphModules for graph/fx_export.cc, which drives a Builder node by node.

This file knows torch.fx; the C++ side knows framejit's graphs and decides what is exported in which order.
"""

from __future__ import annotations

import builtins
import functools
import linecache
import operator
from typing import Any

import torch
import torch.fx
import torch.utils._pytree
from torch.fx.node import _get_qualified_name, base_types
from torch.fx.passes.shape_prop import TensorMetadata

# What a pass that removes unused calls must leave: they set torch's state.
for _setter in (torch._C._set_default_dtype, torch.random.manual_seed):
    torch.fx.node.has_side_effect(_setter)

# (sizes, dtype, requires_grad, strides, device)
TensorMeta = tuple[tuple[int, ...], torch.dtype, bool, tuple[int, ...], torch.device]
Location = tuple[str, int, str]  # file, line, function


# What torch.fx prints wrongly where a constant comes first. operator.pow(-2, x) would be `-2 ** x`, which is -(2 ** x);
# Tensor.__rpow__ is torch.pow. operator.iadd(2, x) would be `2 += x`; numbers have no in-place operators.
_PRINTABLE = {getattr(operator, f"i{name.rstrip('_')}"): getattr(operator, name) for name in (
    "add", "and_", "floordiv", "lshift", "matmul", "mod", "mul", "or_", "rshift", "sub", "truediv", "xor",
)} | {operator.pow: torch.pow, operator.ipow: torch.pow}  # fmt: skip


class Builder:
    def __init__(self, values: bool) -> None:
        self.graph = torch.fx.Graph()
        self._root = torch.nn.Module()
        self._constants: dict[int, torch.fx.Node] = {}
        self._overloads: dict[tuple[str, str], Any] = {}
        self._stack_traces: dict[Location, str] = {}
        self._symbols: dict[int, Any] = {}
        self._size_nodes: list[torch.fx.Node] = []
        self._fake_mode = None
        if values:
            from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # takes seconds to import

            self._fake_mode = FakeTensorMode()
            self._fake_tensor = FakeTensor

    # --- nodes --------------------------------------------------------------------------------------------------------
    def placeholder(self, name: str, meta: TensorMeta) -> torch.fx.Node:
        node = self.graph.placeholder(name)
        self.set_meta(node, meta)
        return node

    def tensor_constant(self, tensor: torch.Tensor, meta: TensorMeta) -> torch.fx.Node:
        name = f"_tensor_constant{len(list(self._root.buffers()))}"
        self._root.register_buffer(name, tensor, persistent=False)
        node = self.graph.get_attr(name)
        self.set_meta(node, meta)
        return node

    def function(self, target: Any, args: list, kwargs: dict, location: Location | None) -> torch.fx.Node:
        target = _named_function(target)
        if args and not isinstance(args[0], torch.fx.Node):
            target = _PRINTABLE.get(target, target)
        return self._locate(self.graph.call_function(target, tuple(args), kwargs), location)

    def method(self, target: str, args: list, kwargs: dict, location: Location | None) -> torch.fx.Node:
        return self._locate(self.graph.call_method(target, tuple(args), kwargs), location)

    def attribute(self, target: str, args: list, kwargs: dict, location: Location | None) -> torch.fx.Node:
        return self._locate(self.graph.call_function(getattr, (args[0], target)), location)

    def aten(self, name: str, overload: str, args: Any, kwargs: dict, location: Location | None) -> torch.fx.Node:
        key = (name, overload)
        namespace, _, op = name.partition("::")
        if key not in self._overloads:
            packet = getattr(getattr(torch.ops, namespace), op)
            self._overloads[key] = getattr(packet, overload or "default")
        node = self.graph.create_node("call_function", self._overloads[key], tuple(args), kwargs, name=op)
        return self._locate(node, location)

    def item(self, node: torch.fx.Node, key: Any, location: Location | None) -> torch.fx.Node:
        return self._locate(self.graph.call_function(operator.getitem, (node, key)), location)

    def finish(self, outputs: list) -> torch.fx.GraphModule:
        self.graph.output(tuple(outputs))
        self._erase_unused_sizes()
        module = torch.fx.GraphModule(self._root, self.graph, "FramejitGraph")
        module.graph.lint()
        return module

    # --- sizes --------------------------------------------------------------------------------------------------------
    # Of recordings that hold for many sizes (graph/symbolic/program.h). A symbol is a number that is others at others.

    def symbol(self, symbol: int) -> Any:
        """The node that gives it, or the number, where it is the same at all sizes that the module is for."""
        return self._symbols[symbol]

    def ask(self, kind: str, target: Any, args: list, kwargs: dict, pattern: Any, location: Location | None) -> None:
        """A question to a tensor, or a computation on numbers. `pattern`: which symbols the parts of its result are."""
        target = power if target in (operator.pow, operator.ipow) else target
        for symbol, function, operands in _size_calls(kind, target, args, kwargs, pattern):
            self._symbols[symbol] = self._size(function, operands, location)
        known = (None, *self._symbols)
        if any(symbol not in known for symbol in torch.utils._pytree.tree_leaves(pattern)):
            self._take_parts(self._size_node(getattr(self, kind)(target, args, kwargs, location)), pattern, location)

    def equal(self, symbol: int, value: Any) -> None:
        """The recording holds where the symbol is worth `value`."""

    def demand(self, target: Any, args: list, answer: bool) -> None:
        """The recording holds where target(*args) is `answer`."""

    # What else a recording has whose sizes come of data (framejit/_fx_sizes.py): read, check, same, same_length and
    # give_numbers.

    def _erase_unused_sizes(self) -> None:
        for node in reversed(self._size_nodes):
            if not node.users:
                self.graph.erase_node(node)

    def _size(self, function: Any, operands: tuple, location: Location | None) -> Any:
        return self._size_node(self.function(function, operands, {}, location))

    def _size_node(self, node: torch.fx.Node) -> torch.fx.Node:
        self._size_nodes.append(node)
        return node

    def _take_parts(self, node: Any, pattern: Any, location: Location | None) -> None:
        if isinstance(pattern, int):
            self._symbols[pattern] = node
        for index, part in enumerate(pattern if isinstance(pattern, list) else ()):
            if part is not None:
                self._take_parts(self._size_node(self.item(node, index, location)), part, location)

    # --- arguments ----------------------------------------------------------------------------------------------------
    def constant(self, value: Any) -> Any:
        """`value` where FX can print it as Python, else a reference to an attribute of the module that holds it."""
        if _is_plain(value):
            return value
        if id(value) not in self._constants:
            # Before the first use is early enough for every other one: calls are exported in program order.
            self._constants[id(value)] = self._attach(f"_constant{len(self._constants)}", value)
        return self._constants[id(value)]

    def _attach(self, name: str, value: Any) -> torch.fx.Node:
        setattr(self._root, name, value)
        return self.graph.get_attr(name)

    def tuple(self, cls: type | None, items: list) -> Any:
        if cls is None or cls is tuple or cls is torch.Size:  # torch takes a tuple wherever it takes a Size
            return builtins.tuple(items)
        if hasattr(cls, "_make"):
            return cls._make(items)
        return cls(items)

    def slice(self, items: list) -> builtins.slice:
        return builtins.slice(*items)

    # --- metadata -----------------------------------------------------------------------------------------------------
    def set_meta(self, node: torch.fx.Node, meta: TensorMeta) -> None:
        if "tensor_meta" in node.meta:
            return
        sizes, dtype, requires_grad, strides, device = meta
        shape = torch.Size(sizes)
        node.meta["tensor_meta"] = TensorMetadata(
            shape, dtype, requires_grad, strides, _memory_format(shape, strides), False, {}
        )
        value = torch.empty_strided(sizes, strides, dtype=dtype, device="meta", requires_grad=requires_grad)
        if self._fake_mode is not None:
            value = self._fake_tensor(self._fake_mode, value, device)
        # The first name is that of ATen graphs, the second that of TorchDynamo's.
        node.meta["val"] = node.meta["example_value"] = value

    def _locate(self, node: torch.fx.Node, location: Location | None) -> torch.fx.Node:
        if location is not None:
            trace = self._stack_traces.get(location)
            if trace is None:
                file, line, function = location
                source = linecache.getline(file, line).strip()
                trace = f'  File "{file}", line {line}, in {function}\n    {source}\n'
                self._stack_traces[location] = trace
            node.stack_trace = trace
        return node


def power(base: float, exponent: float) -> float:
    """Of numbers. FX prints operator.pow(-2, n) as `-2 ** n`."""
    return base**exponent


_TENSOR_SIZES = {
    "shape": torch.ops.aten.sym_size.int,
    "size": torch.ops.aten.sym_size.int,
    "stride": torch.ops.aten.sym_stride.int,
}


def _size_calls(
    kind: str, target: Any, args: list, kwargs: dict, pattern: Any
) -> list[tuple[int, Any, builtins.tuple]]:
    """What gives a question's symbols one by one, (symbol, function, arguments), in the forms that exporters of torch
    use for sizes; empty where the question has none of them."""
    if kwargs:
        return []
    if kind == "function":
        if target is len and isinstance(args[0], torch.fx.Node):
            return [(pattern, torch.ops.aten.sym_size.int, (args[0], 0))]
        if target is divmod:
            return [(symbol, function, builtins.tuple(args)) for symbol, function in
                    zip(pattern, (operator.floordiv, operator.mod), strict=True)]  # fmt: skip
        return []
    if target in ("numel", "nelement"):
        return [(pattern, torch.ops.aten.sym_numel.default, (args[0],))]
    function = _TENSOR_SIZES.get(target)
    if function is None or len(args) > 2:
        return []
    if len(args) == 2:
        return [(pattern, function, builtins.tuple(args))] if type(args[1]) is int else []
    return [(symbol, function, (args[0], dim)) for dim, symbol in enumerate(pattern) if symbol is not None]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return type(value) in (tuple, list) and all(_is_plain(item) for item in value)
    if isinstance(value, slice):
        return all(_is_plain(item) for item in (value.start, value.stop, value.step))
    if value is None or value is Ellipsis:
        return True
    return type(value) in base_types and type(value) is not torch.Tensor


def _named_function(target: Any) -> Any:
    """`target`, if FX can print its name. FX prints names in `torch`; some of torch's C functions are hidden there by
    Python functions around them that take other arguments (torch.broadcast_tensors, torch.cdist)."""
    if getattr(target, "__module__", None) == "framejit._C":  # exchange_autograd_modes
        torch.fx.node.has_side_effect(target)
    if target is torch.manual_seed:  # another one once torch._dynamo is imported, which wraps it
        return torch.random.manual_seed
    name = getattr(target, "__name__", "")
    if getattr(torch._C._VariableFunctions, name, None) is target and getattr(torch, name, None) is not target:
        return _hidden_function(name)
    try:
        _get_qualified_name(target)
    except Exception as error:
        raise TypeError(f"{target!r} has no name that an FX graph could print") from error
    return target


@functools.cache
def _hidden_function(name: str) -> Any:
    target = getattr(torch._C._VariableFunctions, name)

    def function(*args: Any, **kwargs: Any) -> Any:
        for value in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(value, torch.fx.Proxy):  # a module that is unpickled is traced again
                return value.tracer.create_proxy("call_function", function, args, kwargs)
        return target(*args, **kwargs)

    function.__name__ = function.__qualname__ = name
    return function


def __getattr__(name: str) -> Any:
    """So that a graph that calls one of them can be unpickled."""
    if name.startswith("__") or not hasattr(torch._C._VariableFunctions, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _hidden_function(name)


def _memory_format(shape: torch.Size, strides: tuple[int, ...]) -> torch.memory_format | None:
    """What torch.fx.passes.shape_prop finds by asking a tensor."""
    if strides == _dense_strides(shape, range(len(shape))):
        return torch.contiguous_format
    if len(shape) == 4 and strides == _dense_strides(shape, (0, 2, 3, 1)):
        return torch.channels_last
    if len(shape) == 5 and strides == _dense_strides(shape, (0, 2, 3, 4, 1)):
        return torch.channels_last_3d
    return None


def _dense_strides(shape: torch.Size, order: Any) -> builtins.tuple[int, ...]:
    """Strides of a dense tensor whose dimensions lie in memory in `order`, outermost first."""
    strides = [0] * len(shape)
    expected = 1
    for dim in reversed(list(order)):
        strides[dim] = expected
        expected *= max(shape[dim], 1)
    return tuple(strides)
