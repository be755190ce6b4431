"""framejit.trace: the whole of a program as one torch.fx.GraphModule, in the form that torch.fx.symbolic_trace gives.

The C++ side records the call (frame_eval/export_program.cc) and drives a ProgramBuilder, which is told of everything
that came from outside where it came from. Rows, as C++ makes them:
  step: (kind of sources.def, key or None, index);  input, source: ([steps, from the root], object);
  recipe: (kind of recipes.def, object or None, index of a source or -1, index, [recipes], {attribute: recipe});
  effect: (kind of effects.def, what it changes, callable or None, arguments or None, recipes of target, key, value).
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
import operator
import warnings
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.fx
from torch import nn

from framejit import _fx

_Leaves = Iterable[type[nn.Module] | nn.Module] | None


def program(target: Any) -> tuple[nn.Module | None, FunctionType, tuple]:
    """(the module whose attributes the graph refers to, the function to record, its first arguments)"""
    function = target.forward if isinstance(target, nn.Module) else target
    bound: tuple = ()
    if isinstance(function, MethodType):
        function, bound = function.__func__, (function.__self__,)
    if not isinstance(function, FunctionType):
        raise TypeError(
            f"framejit.trace: target: expected an nn.Module, a Python function or a method, got {type(target).__name__}"
        )
    root = target if isinstance(target, nn.Module) else bound[0] if bound else None
    return root if isinstance(root, nn.Module) else None, function, bound


def leaves(root: nn.Module | None, chosen: _Leaves) -> dict[Any, str]:
    """The modules that are one call each, with the names under which the graph calls them."""
    if chosen is None:
        return {m: name for name, m in root.named_modules() if name and _is_layer(m)} if root is not None else {}
    chosen = tuple(chosen) if isinstance(chosen, Iterable) and not isinstance(chosen, str | nn.Module) else (chosen,)
    for one in chosen:
        if not isinstance(one, nn.Module) and not (isinstance(one, type) and issubclass(one, nn.Module)):
            raise TypeError(f"framejit.trace: leaf_modules: expected classes of modules, or modules, got {one!r}")
    types = tuple(one for one in chosen if isinstance(one, type))
    instances = [one for one in chosen if isinstance(one, nn.Module)]
    names = {m: name for name, m in root.named_modules() if name} if root is not None else {}
    found = {m: name for m, name in names.items() if isinstance(m, types) or any(m is one for one in instances)}
    others = [one for one in instances if one not in found and one is not root]
    return {**found, **{m: f"_leaf{i}_{type(m).__name__.lower()}" for i, m in enumerate(others)}}


def _is_layer(module: nn.Module) -> bool:
    """As torch.fx.Tracer.is_leaf_module has it."""
    return type(module).__module__.startswith(("torch.nn", "torch.ao.nn")) and not isinstance(module, nn.Sequential)


def leaf_functions() -> dict[Any, str | None]:
    """Python functions that torch.fx knows as one call: torch's own and those that torch.fx.wrap names. Methods of
    torch.Tensor with their names."""
    from torch.fx._symbolic_trace import _wrapped_fns_to_patch

    found: dict[Any, str | None] = {}
    overridable = torch.overrides.get_testing_overrides()
    for space in (nn.functional, torch.functional):
        for function in vars(space).values():
            if isinstance(function, FunctionType) and function in overridable:
                found[function] = None
    for name, method in vars(torch.Tensor).items():
        if isinstance(method, FunctionType) and method in overridable and not name.startswith("__"):
            found[method] = name
    for (_, name), space in _wrapped_fns_to_patch.items():
        function = space.get(name)
        if isinstance(function, FunctionType):
            found[function] = None
    return found


class Arguments:
    """The parameters that a call passes, each of which is a placeholder, and where the function that is recorded finds
    them: they are those of the function that it wraps, if any (functools.wraps)."""

    def __init__(self, function: FunctionType, args: tuple, kwargs: dict) -> None:
        outer = inspect.signature(function)
        self.values = outer.bind(*args, **kwargs).arguments
        self.kinds = {name: outer.parameters[name].kind for name in self.values}
        given: list[Any] = [*range(len(args)), *kwargs]
        inner = [_place(inspect.signature(function, follow_wrapped=False), one) for one in given]
        slots = {name: i for i, name in enumerate(function.__code__.co_varnames)}
        # (slot, position or name in *args or **kwargs, or None) -> the same of the placeholder
        self.places = {
            (slots[name], part): _place(outer, one) for one, (name, part) in zip(given, inner, strict=True)
        }  # fmt: skip


def _place(signature: inspect.Signature, given: int | str) -> tuple[str, int | str | None]:
    """(parameter, its item) that takes an argument, which goes by position or by name."""
    positional, stars = [], {}
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            positional.append(parameter.name)
        elif parameter.kind != parameter.KEYWORD_ONLY:
            stars[parameter.kind] = parameter.name
    if isinstance(given, str):
        named = given in signature.parameters and given not in stars.values()
        return (given, None) if named else (stars[inspect.Parameter.VAR_KEYWORD], given)
    if given < len(positional):
        return positional[given], None
    return stars[inspect.Parameter.VAR_POSITIONAL], given - len(positional)


class ProgramBuilder(_fx.Builder):
    """Placeholders are the parameters that the call passed; tensors of `root` are its attributes."""

    def __init__(
        self, root: nn.Module | None, name: str, arguments: Arguments, modules: dict[Any, str],
        inputs: list, sources: list, recipes: list, result: int,
    ) -> None:  # fmt: skip
        super().__init__(False)
        self._program_root = root
        self._name = name
        self._attributes: dict[str, Any] = {}
        self._modules = modules
        self._inputs = iter(inputs)
        self._sources = sources
        self._recipes = recipes
        self._result = result
        self._names_of_tensors = _tensors_of(root)
        self._steps: dict[Any, torch.fx.Node] = {}
        self._constant_tensors: dict[int, torch.fx.Node] = {}
        self._made: dict[int, Any] = {}
        self._arguments = arguments.places
        self._placeholders = self._make_placeholders(arguments)

    def _make_placeholders(self, arguments: Arguments) -> dict[str, torch.fx.Node]:
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        nodes = {}
        for name, value in arguments.values.items():
            if value is not self._program_root or value is None:
                nodes[name] = self.graph.create_node("placeholder", stars.get(arguments.kinds[name], "") + name)
        for name, value in arguments.values.items():
            if value is None or type(value) in (bool, int, float, complex, str):
                self._assert_equal(nodes[name], name, value)
        return nodes

    def _assert_equal(self, node: torch.fx.Node, name: str, value: Any) -> None:
        """What is no tensor is part of the program; another value must not go unnoticed."""
        same = self.graph.call_function(operator.is_ if value is None else operator.eq, (node, value))
        text = f"{name} was {value!r} when the program was traced, and the graph holds for that value alone"
        self.graph.call_function(torch._assert, (same, text))

    # --- what comes from outside --------------------------------------------------------------------------------------
    def placeholder(self, name: str, meta: _fx.TensorMeta) -> torch.fx.Node:
        node = self._node_of(*next(self._inputs))
        self.set_meta(node, meta)
        return node

    def _node_of(self, steps: list, value: Any) -> torch.fx.Node:
        node, first = self._argument(steps)
        for i, step in enumerate(steps[first:], start=first):
            node = self._part_of(node, step, of_dict=steps[i - 1][0] == "InstanceDict") if node is not None else None
        if node is not None:
            return node
        if not isinstance(value, torch.Tensor):
            return self.constant(value)
        if id(value) not in self._constant_tensors:
            name = self._names_of_tensors.get(id(value), f"_tensor_constant{len(self._constant_tensors)}")
            self._constant_tensors[id(value)] = self._attach(name, value)
        return self._constant_tensors[id(value)]

    def _argument(self, steps: list) -> tuple[torch.fx.Node | None, int]:
        """The argument at the root of the steps, if it is one, and how many steps that is."""
        kind, _, slot = steps[0]
        if kind != "Argument":
            return None, 1
        place, length = self._arguments.get((slot, None)), 1
        if place is None and len(steps) > 1:
            kind, key, index = steps[1]
            place, length = self._arguments.get((slot, key if kind == "DictItem" else index)), 2
        if place is None or place[0] not in self._placeholders:
            return None, length
        node = self._placeholders[place[0]]
        return (node if place[1] is None else self._step(node, operator.getitem, place[1])), length

    def _step(self, node: torch.fx.Node, function: Callable, part: Any) -> torch.fx.Node:
        known = (node, function, part)
        if known not in self._steps:
            self._steps[known] = self.graph.call_function(function, (node, part))
        return self._steps[known]

    def _part_of(self, node: torch.fx.Node, step: tuple, of_dict: bool) -> torch.fx.Node | None:
        kind, key, index = step
        if kind == "InstanceDict":
            return node
        if kind in ("Attribute", "TensorGrad") or of_dict:
            function, part = getattr, "grad" if kind == "TensorGrad" else key
        elif kind in ("ListItem", "TupleItem", "DequeItem", "DictItem"):
            function, part = operator.getitem, key if kind == "DictItem" else index
        else:
            return None
        return self._step(node, function, part)

    def tensor_constant(self, tensor: torch.Tensor, meta: _fx.TensorMeta) -> torch.fx.Node:
        node = self._node_of([("Pinned", None, -1)], tensor)
        self.set_meta(node, meta)
        return node

    def _attach(self, name: str, value: Any) -> torch.fx.Node:
        self._attributes[name] = value
        return self.graph.get_attr(name)

    # --- calls --------------------------------------------------------------------------------------------------------
    def function(self, target: Any, args: list, kwargs: dict, location: _fx.Location | None) -> torch.fx.Node:
        if not isinstance(target, nn.Module):
            return super().function(target, args, kwargs, location)
        name = self._modules[target]
        self._attributes[name] = target
        return self._locate(self.graph.call_module(name, tuple(args), kwargs), location)

    # --- the result ---------------------------------------------------------------------------------------------------
    def finish(self, outputs: list) -> torch.fx.GraphModule:
        self.graph.output(self._built(self._result, outputs))
        self._place_reads()
        module = torch.fx.GraphModule(self._attributes, self.graph, self._name)
        if self._program_root is not None:
            module.training = self._program_root.training
        module.graph.lint()
        return module

    def _place_reads(self) -> None:
        """Puts what reads attributes and items in front of what uses them first. What only a leaf reads is no node."""
        position = {node: (i, 0) for i, node in enumerate(self.graph.nodes)}
        steps = set(self._steps.values())
        front: dict[torch.fx.Node, torch.fx.Node] = {}  # the first of those that stand in front of a node already
        reads = [node for node in self.graph.nodes if node.op == "get_attr" or node in steps]
        for moved, node in enumerate(reversed(reads), start=1):
            if not node.users:
                self.graph.erase_node(node)
                continue
            user = min(node.users, key=lambda user: position[user])
            front.get(user, user).prepend(node)
            front[user] = node
            position[node] = (position[user][0], -moved)

    def _built(self, recipe: int, outputs: list) -> Any:
        kind, cls, source, index, children, attributes = self._recipes[recipe]
        if kind == "GraphOutput":
            return outputs[index]
        if kind == "Constant":
            return self.constant(cls)
        if kind == "Source":
            return self._node_of(*self._sources[source])
        if recipe not in self._made:
            self._made[recipe] = self._container(self._recipes[recipe], outputs)
        return self._made[recipe]

    def _container(self, row: tuple, outputs: list) -> Any:
        kind, cls, _, index, children, attributes = row
        if kind == "Instance" or attributes:
            parts = {name: self._built(child, outputs) for name, child in attributes.items()}
            if _is_built_of_fields(cls, attributes):
                return self.graph.call_function(cls, (), {k: v for k, v in parts.items() if v is not None})
            return self.graph.call_function(instance, (self.constant(cls), parts))
        parts = [self._built(child, outputs) for child in children]
        if kind == "Slice":
            return slice(*parts)
        if kind == "Dict":
            pairs = list(zip(parts[::2], parts[1::2], strict=True))
            return dict(pairs) if cls in (None, dict) else self.graph.call_function(cls, (pairs,))
        if kind == "Deque":
            return self.graph.call_function(cls or collections.deque, (parts, index if index >= 0 else None))
        if cls is None or cls in (tuple, list):
            return tuple(parts) if kind == "Tuple" else parts
        return self.graph.call_function(cls, tuple(parts) if hasattr(cls, "_fields") else (parts,))


def instance(cls: type, attributes: dict[str, Any]) -> Any:
    """An object of a class whose __init__ is not called, as copy.copy makes them."""
    made = cls.__new__(cls)
    for name, value in attributes.items():
        object.__setattr__(made, name, value)
    return made


def _is_built_of_fields(cls: type, attributes: dict) -> bool:
    if not dataclasses.is_dataclass(cls):
        return False
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    required = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    return required <= attributes.keys() <= fields.keys()


def refusal(name: str, recipes: list, recipe: int, above: tuple = ()) -> str | None:
    """What keeps the result of a program from being that of a graph."""
    kind, cls, _, _, children, attributes = recipes[recipe]
    plain = kind in ("GraphOutput", "Constant", "Source", "Tuple", "List", "Dict", "Set", "Deque", "Slice", "Instance")
    if attributes and kind not in ("Instance", "Dict"):
        plain = False
    if attributes and kind == "Dict":  # transformers' ModelOutput: its attributes are its items
        plain, children = _is_built_of_fields(cls, attributes), []
    if not plain or recipe in above:
        what = cls.__name__ if isinstance(cls, type) else kind
        return f"framejit.trace: the result of {name} holds a {what}, which has no form in a graph"
    below = (refusal(name, recipes, child, (*above, recipe)) for child in [*children, *attributes.values()])
    return next((text for text in below if text is not None), None)


def unseen_changes(recipes: list, sources: list, effects: list) -> list[str]:
    """What the program changes that is no tensor. A context variable that is set and set back is not changed."""
    texts = []
    for kind, text, _, _, target, key, value in effects:
        if kind == "SetAttribute" and recipes[target][0] == "Source" and recipes[value][0] == "Constant":
            attributes = getattr(sources[recipes[target][2]][1], "__dict__", {})
            if attributes.get(recipes[key][1], recipes) is recipes[value][1]:
                continue
        if kind != "Call":
            texts.append(text)
    return texts


def _tensors_of(root: nn.Module | None) -> dict[int, str]:
    names: dict[int, str] = {}
    for prefix, module in root.named_modules() if root is not None else ():
        for values in (module._parameters, module._buffers, vars(module)):
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    names.setdefault(id(value), f"{prefix}.{name}" if prefix else name)
    return names


def trace(
    extension: Any, break_error: type, target: Any, args: tuple, kwargs: dict, chosen: _Leaves
) -> torch.fx.GraphModule:
    """framejit.trace; `chosen` are its leaf_modules."""
    root, function, bound = program(target)
    arguments = Arguments(function, (*bound, *args), kwargs)
    modules = leaves(root, chosen)

    def make_builder(inputs: list, sources: list, recipes: list, result: int, effects: list) -> ProgramBuilder | str:
        name = function.__qualname__
        refused = refusal(name, recipes, result)
        if refused is not None:
            return refused
        for kind, _, call, arguments_of_call, *_ in effects:
            if kind == "Call" and call.__module__ != "torch._C":  # a warning: said now, as eager would
                call(*arguments_of_call)
        changes = unseen_changes(recipes, sources, effects)
        if changes:
            text = f"framejit.trace: {name} also changes {'; '.join(changes)}, which its graph does not do"
            warnings.warn(text, stacklevel=4)
        title = type(root).__name__ if root is not None else function.__name__
        return ProgramBuilder(root, title, arguments, modules, inputs, sources, recipes, result)

    called = {**leaf_functions(), **dict.fromkeys(modules)}
    return extension.trace_program(function, (*bound, *args), kwargs, called, make_builder, break_error)
