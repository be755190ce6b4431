"""GraphModules whose sizes are torch.SymInts: what a Python backend is called with once for all sizes that a recording
and the backend's own assumptions hold for.

The module has the form of TorchDynamo's: placeholders for the sizes (and strides) that differ from call to call come
before those of the tensors, and `meta["val"]` of each node is what the node makes of them, FakeTensors over one
ShapeEnv. What anybody decides by such a size, while values are made or while the backend compiles, is a guard there.
framejit's own recordings have no such expressions: they are replayed at each set of sizes (graph/symbolic/replay.h).
backends/plugin/plugin.cc drives a SizedBuilder.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import LocalSource
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatefulSymbolicContext
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import TensorMetadata
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from framejit import _fx

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool)
# What gives the same for numbers, and an expression for symbolic ones. For ints alone: the larger of an int and a
# float is another one to torch.
_SYMBOLIC = {int: torch.sym_int, float: torch.sym_float, math.sqrt: torch._sym_sqrt}
_SYMBOLIC_OF_INTS = {min: torch.sym_min, max: torch.sym_max}


class SizedBuilder(_fx.Builder):
    """inputs: the tensors of one call, which give the hints. varies: which of them have sizes that are left open."""

    def __init__(self, inputs: list[torch.Tensor], varies: list[bool]) -> None:
        super().__init__(False)
        self._inputs = inputs
        self._varies = varies
        self._shape_env = ShapeEnv()
        self._mode = FakeTensorMode(shape_env=self._shape_env)
        self._values: dict[torch.fx.Node, Any] = {}
        self._sizes = [
            self._open(index, tensor) if varies[index] else None for index, tensor in enumerate(inputs)
        ]  # (sizes, strides) of those that vary
        self._fakes = iter([self._fake(self._mode, index) for index in range(len(inputs))])
        # symbol -> (its placeholder, the SymInt, how a tensor tells it)
        self._placeholders: dict[Any, tuple[torch.fx.Node, torch.SymInt, Callable]] = {}
        for index, sizes in enumerate(self._sizes):
            for tells, numbers in zip((torch.Tensor.size, torch.Tensor.stride), sizes or (), strict=False):
                for dim, number in enumerate(numbers):
                    self._place(number, index, tells, dim)

    def _open(self, index: int, tensor: torch.Tensor) -> tuple[tuple, tuple]:
        if is_traceable_wrapper_subclass(tensor):
            raise NotImplementedError(f"an input is a {type(tensor).__name__}")
        if tensor.is_conj() or tensor.is_neg():
            raise NotImplementedError("an input is a lazily conjugated or negated view")
        source = LocalSource(f"t{index}")
        context = StatefulSymbolicContext(
            dynamic_sizes=[DimDynamic.DYNAMIC] * tensor.dim(),
            constraint_sizes=[None] * tensor.dim(),
            tensor_source=source,
        )
        # Without the memory: where the tensor begins in it is no matter of the recording's.
        example = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
        sizes, strides, _ = self._shape_env.create_symbolic_sizes_strides_storage_offset(
            example, source, symbolic_context=context
        )
        return sizes, strides

    def _fake(self, mode: FakeTensorMode, index: int) -> torch.Tensor:
        tensor = self._inputs[index]
        if self._sizes[index] is None:
            return mode.from_tensor(tensor, static_shapes=True)
        with mode:
            fake = torch.empty_strided(*self._sizes[index], dtype=tensor.dtype, device=tensor.device)
            return fake.requires_grad_(tensor.requires_grad)

    def _place(self, number: Any, index: int, tells: Callable, dim: int) -> None:
        if not isinstance(number, torch.SymInt) or not number.node.expr.is_Symbol:
            return
        symbol = number.node.expr
        if symbol in self._placeholders:
            return
        node = self.graph.placeholder(str(symbol))
        node.meta["val"] = node.meta["example_value"] = number
        self._values[node] = number
        self._placeholders[symbol] = (node, number, lambda tensors: tells(tensors[index], dim))

    # --- nodes, with what they make of the values of others -----------------------------------------------------------
    def placeholder(self, name: str, meta: _fx.TensorMeta) -> torch.fx.Node:
        node = self.graph.placeholder(name)
        self._values[node] = next(self._fakes)
        self.set_meta(node, meta)
        return node

    def _attach(self, name: str, value: Any) -> torch.fx.Node:
        node = super()._attach(name, value)
        self._values[node] = value
        return node

    # Each call that is made a node comes by here.
    def _locate(self, node: torch.fx.Node, location: _fx.Location | None) -> torch.fx.Node:
        args, kwargs = map_arg((node.args, node.kwargs), self._values.__getitem__)
        with self._mode, enable_python_dispatcher():  # without that, composites in C++ ask what sizes are
            if node.op == "call_method":
                value = getattr(args[0], node.target)(*args[1:], **kwargs)
            else:
                value = node.target(*args, **kwargs)
        self._values[node] = value
        if isinstance(value, _NUMBERS):
            node.meta["val"] = node.meta["example_value"] = value
        return super()._locate(node, location)

    def set_meta(self, node: torch.fx.Node, meta: _fx.TensorMeta) -> None:
        if "tensor_meta" in node.meta:
            return
        sizes, dtype, requires_grad, strides, device = meta
        if node not in self._values:  # a constant
            self._values[node] = self._mode.from_tensor(self._root.get_buffer(node.target), static_shapes=True)
        value = self._values[node]
        hints = tuple(_hint(size) for size in value.size())
        is_new = all(self._values[operand] is not value for operand in node.all_input_nodes)
        if is_new and (hints, value.dtype, value.requires_grad, value.device) != (sizes, dtype, requires_grad, device):
            raise RuntimeError(
                f"{node.name} is {value.dtype}{list(hints)} on {value.device} where it was recorded as "
                f"{dtype}{list(sizes)} on {device}"
            )
        memory_format = _fx._memory_format(torch.Size(sizes), strides)
        node.meta["tensor_meta"] = TensorMetadata(
            value.size(), dtype, requires_grad, value.stride(), memory_format, False, {}
        )
        node.meta["val"] = node.meta["example_value"] = value

    # --- sizes --------------------------------------------------------------------------------------------------------
    def equal(self, symbol: int, value: float) -> None:
        self.demand(operator.eq, [self.symbol(symbol), value], True)

    def demand(self, target: Any, args: list, answer: bool) -> None:
        operands = [self._number(arg) for arg in args]
        if any(isinstance(operand, _NUMBERS) for operand in operands) and bool(target(*operands)) is not answer:
            raise RuntimeError(f"{target.__name__}{tuple(operands)} is not {answer} as it was recorded")

    def symbol(self, symbol: int) -> Any:
        return self._settled(self._symbols[symbol])

    def _number(self, operand: Any) -> Any:
        return self._values[operand] if isinstance(operand, torch.fx.Node) else operand

    def _settled(self, node: Any) -> Any:
        """The number in place of its node where it is the same for all sizes; the placeholder, where it is that."""
        value = self._number(node)
        if not isinstance(value, _NUMBERS):
            return value if isinstance(value, int | float) else node
        if value.node.expr.is_number:
            return int(value.node.expr) if isinstance(value, torch.SymInt) else node
        placeholder = self._placeholders.get(value.node.expr)
        return node if placeholder is None else placeholder[0]

    def ask(
        self, kind: str, target: Any, args: list, kwargs: dict, pattern: Any, location: _fx.Location | None
    ) -> None:
        if kind == "function":
            operands = [self._number(arg) for arg in args]
            if not any(isinstance(leaf, torch.fx.Node) for leaf in tree_leaves(args)):
                return self._take_numbers(target(*operands, **kwargs), pattern)
            target = _SYMBOLIC.get(target, target)
            if all(isinstance(operand, int | torch.SymInt) for operand in operands) and len(operands) == 2:
                target = _SYMBOLIC_OF_INTS.get(target, target)
        open_before = self._open_among(args)
        super().ask(kind, target, args, kwargs, pattern, location)
        if self._open_among(args) != open_before:
            raise NotImplementedError(f"{getattr(target, '__name__', target)} has no expression")

    def _take_numbers(self, result: Any, pattern: Any) -> None:
        if isinstance(pattern, int):
            self._symbols[pattern] = result
        for part, symbol in zip(result, pattern, strict=True) if isinstance(pattern, list) else ():
            self._take_numbers(part, symbol)

    def _open_among(self, args: list) -> list[bool]:
        values = tree_leaves(map_arg(tuple(args), self._values.__getitem__))
        return [isinstance(value, _NUMBERS) and not value.node.expr.is_number for value in values]

    # --- the whole ----------------------------------------------------------------------------------------------------
    def _erase_unused_sizes(self) -> None:
        super()._erase_unused_sizes()
        for symbol, (node, number, _) in list(self._placeholders.items()):
            if number.node.expr != symbol and not node.users:
                self.graph.erase_node(node)
                del self._placeholders[symbol]

    def compile(self, module: torch.fx.GraphModule, backend: Callable) -> tuple[Callable, Callable[..., bool], str]:
        """Calls the backend as torch.compile would. What comes back takes the recording's tensors; the second says
        whether it is right for them, and the third is that for readers."""
        # Values that the backend makes by itself begin with the inputs as they are before anything writes to them.
        mode = FakeTensorMode(shape_env=self._shape_env)
        fakes = [self._fake(mode, index) for index in range(len(self._inputs))]
        for tensor, fake in zip(self._inputs, fakes, strict=True):
            mode.fake_tensor_converter.set_tensor_memo(tensor, fake)
        numbers = [number for _, number, _ in self._placeholders.values()]
        with tracing(TracingContext(mode)):
            compiled = backend(module, [*numbers, *self._inputs])
        if not callable(compiled):
            raise TypeError(f"it returned a {type(compiled).__name__}, not a callable")
        self._shape_env.freeze()  # what is compiled later, as torch's backwards may be, may not assume more
        tells = [tell for _, _, tell in self._placeholders.values()]

        def run(*tensors: torch.Tensor) -> Any:
            return compiled(*[tell(tensors) for tell in tells], *tensors)

        return run, *self._holds(fakes)

    def _holds(self, fakes: list[torch.Tensor]) -> tuple[Callable[..., bool], str]:
        opened = [index for index, varies in enumerate(self._varies) if varies]
        fixed = [
            (index, tells, dim, _hint(number))
            for index in opened
            for tells in (torch.Tensor.size, torch.Tensor.stride)
            for dim, number in enumerate(tells(fakes[index]))
            if not isinstance(number, torch.SymInt) or number.node.expr.is_number
        ]
        env = self._shape_env
        names = [LocalSource(f"t{index}") for index in opened]
        guards = env.produce_guards([fakes[index] for index in opened], names, ignore_static=True)
        code = " and ".join(f"({guard})" for guard in guards)

        def holds(*tensors: torch.Tensor) -> bool:
            if any(tells(tensors[index], dim) != number for index, tells, dim, number in fixed):
                return False
            return not code or bool(env.evaluate_guards_expression(code, tensors))

        shapes = ", ".join(f"{names[i].name} of sizes {list(fakes[index].size())}" for i, index in enumerate(opened))
        return holds, " where ".join(part for part in (shapes, code) if part)


def _hint(number: Any) -> Any:
    return number if isinstance(number, int) else number.node.hint
