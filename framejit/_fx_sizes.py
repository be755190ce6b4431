"""GraphModules whose sizes are torch.SymInts: what a Python backend is called with once for all sizes that a recording
and the backend's own assumptions hold for.

Where sizes or numbers come of data, the nodes that read it (`item`, `nonzero`, masks) make unbacked symbols, of which
nobody may decide anything: what asks for one makes no module. The module gives such numbers behind its tensors, and
the tensors that tell what torch takes for granted of them: (u0,) + (8,) fit where u0 is 8. It is checked in each call.

The module has the form of TorchDynamo's: placeholders for the sizes (and strides) that differ from call to call come
before those of the tensors, and `meta["val"]` of each node is what the node makes of them, FakeTensors over one
ShapeEnv. What anybody decides by such a size, while values are made or while the backend compiles, is a guard there.
framejit's own recordings have no such expressions: they are replayed at each set of sizes (graph/symbolic/replay.h),
but for those of data, of which the module itself is what says that they hold.
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
from torch.fx.experimental.symbolic_shapes import (
    SYMPY_INTERP,
    CallMethodKey,
    DimDynamic,
    ShapeEnv,
    StatefulSymbolicContext,
    compute_unbacked_bindings,
    constrain_range,
)
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import TensorMetadata
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import SequenceKey, tree_leaves
from torch.utils._sympy.printers import PythonPrinter

from framejit import _fx

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool)
# What gives the same for numbers, and an expression for symbolic ones. For ints alone: the larger of an int and a
# float is another one to torch.
_SYMBOLIC = {int: torch.sym_int, float: torch.sym_float, math.sqrt: torch._sym_sqrt}
_LIMITS = {torch.bool: (0, 1)} | {
    dtype: (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32)
}
_SYMBOLIC_OF_INTS = {min: torch.sym_min, max: torch.sym_max}


class SizedBuilder(_fx.Builder):
    """inputs: the tensors of one call, which give the hints. varies: which of them have sizes that are left open.
    of_data: sizes come of data, so that those of the recording are not those of other calls."""

    def __init__(self, inputs: list[torch.Tensor], varies: list[bool], of_data: bool) -> None:
        super().__init__(False)
        self._of_data = of_data
        self._numbers: list[Any] = []  # nodes, or numbers that are the same in all calls
        self._tensor_count = 0
        self._unbacked: dict[Any, tuple[torch.fx.Node, tuple]] = {}  # symbol -> (its node, the way to it in the value)
        self._witnesses: list[tuple[str, Callable]] = []  # (symbol, what tells it of a tensor behind the numbers)
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
            kind = "method" if node.op == "call_method" else "function"
            value = _call(kind, node.target, args, kwargs)
        self._values[node] = value
        if bindings := compute_unbacked_bindings(self._shape_env, value):
            node.meta["unbacked_bindings"] = bindings
            self._unbacked.update((symbol, (node, path)) for symbol, path in bindings.items())
        if isinstance(value, (*_NUMBERS, tuple, list)):
            node.meta["val"] = node.meta["example_value"] = value
        return super()._locate(node, location)

    def set_meta(self, node: torch.fx.Node, meta: _fx.TensorMeta) -> None:
        if "tensor_meta" in node.meta:
            return
        sizes, dtype, requires_grad, strides, device = meta
        if node not in self._values:  # a constant
            self._values[node] = self._mode.from_tensor(self._root.get_buffer(node.target), static_shapes=True)
        value = self._values[node]
        hints = sizes if self._of_data else tuple(_hint(size) for size in value.size())
        is_new = all(self._values[operand] is not value for operand in node.all_input_nodes)
        if is_new and (hints, value.dtype, value.requires_grad, value.device) != (sizes, dtype, requires_grad, device):
            raise RuntimeError(
                f"{node.name} is {value.dtype}{list(hints)} on {value.device} where it was recorded as "
                f"{dtype}{list(sizes)} on {device}"
            )
        memory_format = None if self._of_data else _fx._memory_format(torch.Size(sizes), strides)
        node.meta["tensor_meta"] = TensorMetadata(
            value.size(), dtype, requires_grad, value.stride(), memory_format, False, {}
        )
        node.meta["val"] = node.meta["example_value"] = value

    # --- sizes --------------------------------------------------------------------------------------------------------
    def equal(self, symbol: int, value: float) -> None:
        self.demand(operator.eq, [self.symbol(symbol), value], True)

    def demand(self, target: Any, args: list, answer: bool) -> None:
        operands = [self._number(arg) for arg in args]
        # Numbers are what they were in the recording where that was replayed for them.
        is_open = self._of_data or any(isinstance(operand, _NUMBERS) for operand in operands)
        if is_open and bool(target(*operands)) is not answer:
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

    # --- data ---------------------------------------------------------------------------------------------------------
    def read(self, target: Any, args: list, pattern: Any, location: _fx.Location | None) -> None:
        """Numbers of a tensor: `item`, `tolist`, int(x), float(x)."""
        name = target if isinstance(target, str) else target.__name__
        self._read(name.strip("_"), args[0], pattern, location)

    def _read(self, name: str, node: torch.fx.Node, pattern: Any, location: _fx.Location | None) -> None:
        value = self._values[node]
        if isinstance(pattern, list):
            self.same_length(node, len(pattern))
            for index, part in enumerate(pattern):
                self._read(name, self._tell(self.item(node, index, location)), part, location)
            return
        if value.dtype is torch.bool:  # int(x) and float(x)
            node = self._tell(self.method("to", [node, torch.int64], {}, location))
        number = self.method("item", [node], {}, location)
        if value.dtype in _LIMITS:
            least, greatest = _LIMITS[value.dtype]
            constrain_range(self._values[number], min=least, max=greatest)
        convert = {"int": torch.sym_int, "float": torch.sym_float}.get(name)
        if convert is not None and value.dtype.is_floating_point is not (name == "float"):
            number = self._size(convert, (number,), location)
        self._symbols[pattern] = number

    def _tell(self, node: torch.fx.Node) -> torch.fx.Node:
        node.meta["val"] = node.meta["example_value"] = self._values[node]
        return node

    def check(self, target: Any, args: list, kwargs: dict, answer: bool | None, location: _fx.Location | None) -> None:
        """torch._check: where target(*args) is not `answer`, the program raises. None: target itself does."""
        if not any(isinstance(operand, torch.fx.Node) for operand in tree_leaves((args, kwargs))):
            told = target(*args, **kwargs)
            if told is not answer:
                raise RuntimeError(f"{target.__name__}{tuple(args)} is {told}")
            return
        if answer is None:
            least = kwargs.get("min", None if target is torch.sym_constrain_range else 0)
            for compare, limit in ((operator.ge, least), (operator.le, kwargs.get("max"))):
                if limit is not None:
                    self._check(self.function(compare, [args[0], limit], {}, location), location)
        node = self.function(target, args, kwargs, location)
        if answer is False:
            node = self.function(torch.sym_not, [node], {}, location)
        if answer is not None:
            self._check(node, location)

    def _check(self, node: torch.fx.Node, location: _fx.Location | None) -> None:
        self.function(torch._check, [node], {}, location)

    def same(self, kind: str, target: Any, args: list, kwargs: dict, answer: Any) -> None:
        """What a tensor says that is no size has to be what it was."""
        args, kwargs = map_arg((tuple(args), kwargs), self._values.__getitem__)
        with self._mode, enable_python_dispatcher():
            told = _call(kind, target, args, kwargs)
            if type(told) is not type(answer) or told != answer:
                name = getattr(target, "__name__", target)
                raise RuntimeError(f"{name} is {told} where it was recorded as {answer}")

    def same_length(self, node: torch.fx.Node, length: int) -> None:
        if len(self._values[node]) != length:
            raise RuntimeError(f"{node.name} has {len(self._values[node])} parts where it was recorded with {length}")

    def give_numbers(self, numbers: list) -> None:
        self._numbers = numbers

    def finish(self, outputs: list) -> torch.fx.GraphModule:
        self._tensor_count = len(outputs)
        numbers = [number for number in self._numbers if isinstance(number, torch.fx.Node)]
        assumed = {symbol for expression in self._assumptions() for symbol in expression.free_symbols}
        witnesses = [self._witness(symbol, *place) for symbol, place in self._unbacked.items() if symbol in assumed]
        return super().finish(outputs + numbers + witnesses)

    def _assumptions(self) -> list:
        deferred = self._shape_env.deferred_runtime_asserts
        return [assumption.expr for of_symbol in deferred.values() for assumption in of_symbol]

    def _witness(self, symbol: Any, node: torch.fx.Node, path: tuple) -> torch.fx.Node:
        """The tensor that tells it. A number that is asked of the backend's graph may be what is assumed of it."""
        if not path:
            self._witnesses.append((str(symbol), torch.Tensor.item))
            with self.graph.inserting_before(node):  # it may be written later
                return self._tell(self.method("clone", [node.args[0]], {}, None))
        *parts, method, dimension = path
        if method != CallMethodKey("size") or not all(isinstance(key, SequenceKey) for key in (*parts, dimension)):
            raise NotImplementedError(f"{symbol} is told by {path}")
        self._witnesses.append((str(symbol), lambda tensor: tensor.size(dimension.idx)))
        for key in parts:
            node = self._tell(self.item(node, key.idx, None))
        return node

    def _conditions(self) -> list:
        """What is assumed of unbacked symbols, as code."""
        known = {*(name for name, _ in self._witnesses), *map(str, self._placeholders)}
        conditions = []
        for expression in self._assumptions():
            names = {str(symbol) for symbol in expression.free_symbols}
            if names <= known:
                conditions.append(compile(PythonPrinter().doprint(expression), "<assumption>", "eval"))
            elif names & set(map(str, self._unbacked)):
                raise NotImplementedError(f"the backend assumes {expression}")
        return conditions

    def _with_numbers(self, results: Any, sizes: list[int], conditions: list) -> tuple:
        """The tensors and the numbers; raises where an assumption does not hold."""
        results = (results,) if isinstance(results, torch.Tensor) else tuple(results)
        told = results[len(results) - len(self._witnesses) :]
        names = dict(zip(map(str, self._placeholders), sizes, strict=True))
        for (name, tells), tensor in zip(self._witnesses, told, strict=True):
            names[name] = tells(tensor)
        for condition in conditions:
            if not eval(condition, SYMPY_INTERP, names):
                raise RuntimeError("a size that comes of data is not what the module takes for granted")
        made = iter(results[self._tensor_count :])
        numbers = (next(made) if isinstance(number, torch.fx.Node) else number for number in self._numbers)
        return (*results[: self._tensor_count], *numbers)

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
        conditions = self._conditions()
        self._shape_env.freeze()  # what is compiled later, as torch's backwards may be, may not assume more
        tells = [tell for _, _, tell in self._placeholders.values()]

        def run(*tensors: torch.Tensor) -> Any:
            sizes = [tell(tensors) for tell in tells]
            results = compiled(*sizes, *tensors)
            return self._with_numbers(results, sizes, conditions) if self._numbers or self._witnesses else results

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


def _call(kind: str, target: Any, args: tuple, kwargs: dict) -> Any:
    if kind == "function":
        return target(*args, **kwargs)
    return getattr(args[0], target)(*args[1:], **kwargs) if kind == "method" else getattr(args[0], target)


def _hint(number: Any) -> Any:
    return number if isinstance(number, int) else number.node.hint
