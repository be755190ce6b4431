"""Mutation tests: every value that a program can reach from outside is changed, one at a time, between two calls.

A place is a path in source text, so that a change is a step of a Program: keep the old value, put another there, call,
put the old one back, call. Either a guard notices, or what is replayed still does what eager does."""

from __future__ import annotations

import collections
import types
from collections.abc import Iterator

import torch

from tests.fuzz.program import Program, execute_setup

CHANGES = 12  # in one program
SMALL = 40  # items of a container that are looked at

# By kind of value: what may stand there instead. {p} is the place.
MUTANTS = {
    bool: ["not {p}", "None", "int({p})"],
    int: ["{p} + 1", "float({p})", "-{p}", "'x'", "None"],
    float: ["{p} + 0.5", "-{p}", "int({p})", "float('nan')", "None"],
    str: ["{p} + 'x'", "''", "None"],
    type(None): ["1", "T(3)", "'x'"],
    tuple: ["{p} + {p}[-1:]", "{p}[:-1]", "list({p})", "tuple(reversed({p}))"],
    list: ["{p} + {p}[-1:]", "{p}[:-1]", "tuple({p})", "list(reversed({p}))", "list({p})"],
    dict: ["dict(reversed({p}.items()))", "dict(list({p}.items())[:-1])", "{{**{p}, 'added': 1}}", "dict({p})"],
    set: ["{p} | {{99}}", "set(list({p})[1:])", "frozenset({p})", "{{99, *list({p})[1:]}}"],
    collections.deque: ["collections.deque([*{p}, 5], {p}.maxlen)", "list({p})", "collections.deque({p}, 9)"],
    collections.OrderedDict: [
        "collections.OrderedDict(reversed({p}.items()))",
        "collections.OrderedDict(list({p}.items())[:-1])",
        "collections.OrderedDict({p})",
    ],
    torch.Tensor: [
        "{p} + 1",
        "{p}.detach().double()",
        "{p}.detach()[..., :1]",
        "torch.cat([{p}.detach(), {p}.detach()])[len({p}) :]",
        "{p}.detach().unsqueeze(0)",
        "{p}.detach().clone().requires_grad_(not {p}.requires_grad) if {p}.is_floating_point() else {p}.float()",
        "torch.stack([{p}, {p}], -1).detach()[..., 0]",
        "hooked({p}.detach().clone().requires_grad_()) if {p}.is_floating_point() else {p}.short()",
        "torch.nn.Parameter({p}.detach().clone(), {p}.requires_grad) if {p}.is_floating_point() else {p}.int()",
        "{p}.detach().to_sparse()",
    ],
    torch.nn.Parameter: [
        "torch.nn.Parameter({p}.detach() + 1)",
        "torch.nn.Parameter({p}.detach().double())",
        "torch.nn.Parameter({p}.detach().clone(), False)",
        "torch.nn.Parameter({p}.detach().t().contiguous().t() if {p}.dim() == 2 else {p}.detach()[:1])",
    ],
    torch.nn.Module: ["torch.nn.Identity()", "copy.deepcopy({p})", "torch.nn.Sequential({p})"],
    types.FunctionType: ["lambda *a, **k: T(3)", "lambda *a, **k: 4"],
    type: ["type('Other', ({p},), {{'kind': 'new', 'factor': 5}})"],
    property: ["property(lambda self: 17)"],
    staticmethod: ["staticmethod(lambda x: x - 9)"],
    object: ["copy.copy({p})", "types.SimpleNamespace(**getattr({p}, '__dict__', {{}}))", "3"],
}

# Not in the program's hands: torch's state.
STATES = [
    ("torch.set_grad_enabled(False)", "torch.set_grad_enabled(True)"),
    ("torch.set_default_dtype(torch.float64)", "torch.set_default_dtype(torch.float32)"),
    ("mode = torch.inference_mode(); mode.__enter__()", "mode.__exit__(None, None, None)"),
    ("mode = torch.autocast('cpu'); mode.__enter__()", "mode.__exit__(None, None, None)"),
    ("mode = torch.device('meta'); mode.__enter__()", "mode.__exit__(None, None, None)"),
]


def _mutants(value) -> list[str]:
    for kind in type(value).__mro__:
        if kind in MUTANTS and not (kind is object and isinstance(value, types.ModuleType)):
            return MUTANTS[kind]
    return []


def _names_of(code: types.CodeType, seen: set) -> Iterator[str]:
    """The globals that a function may look up, and those of the functions inside it."""
    if code in seen:
        return
    seen.add(code)
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_of(constant, seen)


class Places:
    """Every place that is reachable from `f` of a module, in source text."""

    def __init__(self, namespace: dict, roots: list[str], hidden: set[str]):
        self.namespace, self.hidden = namespace, hidden
        self.seen: set[int] = set()
        self.codes: set = set()
        self.found: list[tuple[str, object, bool]] = []  # place, value, whether it can be deleted
        self.functions(namespace["f"], "f")
        for root in roots:
            self.place(root, namespace[root], True)

    def place(self, path: str, value, deletable: bool) -> None:
        if path.count(".") + path.count("[") > 9:
            return
        self.found.append((path, value, deletable))
        if id(value) in self.seen:
            return
        self.seen.add(id(value))
        if isinstance(value, types.FunctionType):
            self.functions(value, path)
        elif isinstance(value, types.MethodType):
            self.place(f"{path}.__self__", value.__self__, False)
            self.found.pop()
        elif isinstance(value, type):
            self.klass(value, path)
        elif isinstance(value, dict):
            for key in list(value)[:SMALL]:
                if isinstance(key, str | int):
                    self.place(f"{path}[{key!r}]", value[key], True)
        elif isinstance(value, list | collections.deque):
            for index, item in enumerate(list(value)[:SMALL]):
                self.place(f"{path}[{index}]", item, False)
        elif not isinstance(value, torch.Tensor | types.ModuleType) or getattr(value, "__name__", "") == "user":
            self.instance(value, path)

    def instance(self, value, path: str) -> None:
        klass = type(value)
        if klass.__module__ == "fuzzed":
            self.place(klass.__name__, klass, False)
        for name, item in list(getattr(value, "__dict__", {}).items()):
            if not (isinstance(value, types.ModuleType) and name.startswith("__")):
                self.place(f"{path}.__dict__[{name!r}]", item, True)
        for name in getattr(klass, "__slots__", ()):
            if hasattr(value, name):
                self.place(f"{path}.{name}", getattr(value, name), True)

    def klass(self, value: type, path: str) -> None:
        if value.__module__ != "fuzzed":
            return
        for base in value.__mro__[1:]:
            if base.__module__ == "fuzzed" and self.namespace.get(base.__name__) is base:
                self.place(base.__name__, base, False)
        for name, item in list(value.__dict__.items()):
            if name.startswith("__") and name not in ("__call__", "__add__", "__len__", "__getattr__", "__getitem__"):
                continue
            self.place(f"{path}.{name}", item, True)

    def functions(self, function: types.FunctionType, path: str) -> None:
        if function.__module__ not in ("fuzzed", None) and function.__globals__ is not self.namespace:
            return
        for index, cell in enumerate(function.__closure__ or ()):
            self.place(f"{path}.__closure__[{index}].cell_contents", cell.cell_contents, False)
        if function.__defaults__:
            self.found.append((f"{path}.__defaults__", function.__defaults__, True))
        for name, item in (function.__kwdefaults__ or {}).items():
            self.place(f"{path}.__kwdefaults__[{name!r}]", item, True)
        for name in _names_of(function.__code__, self.codes):
            if name in self.namespace and name not in self.hidden:
                self.place(name, self.namespace[name], True)


def changes(setup: str, arguments: list[str]) -> list[tuple[str, str, str]]:
    """(what is kept first, the change, how it is undone), in source text, for a program and its arguments."""
    namespace = execute_setup(setup)
    hidden = set(execute_setup("")) - {"LOG"}
    for index, text in enumerate(arguments):
        exec(f"a{index} = {text}", namespace)
    places = Places(namespace, [f"a{index}" for index in range(len(arguments))], hidden)
    rows, seen = [], set()
    for path, value, deletable in places.found:
        if path in seen:
            continue
        seen.add(path)
        for mutant in _mutants(value):
            rows.append((f"old = {path}", f"{path} = {mutant.format(p=path)}", f"{path} = old"))
        if isinstance(value, types.FunctionType) and not value.__closure__:
            code = f"{path}.__code__"
            rows.append((f"old = {code}", f"{code} = (lambda *a, **k: T(3)).__code__", f"{code} = old"))
        if deletable:
            rows.append((f"old = {path}", f"del {path}", f"{path} = old"))
    # Arguments that have defaults.
    f = namespace["f"]
    given = ", ".join(f"a{index}" for index in range(len(arguments)))
    named = f.__code__.co_varnames[len(arguments) : f.__code__.co_argcount + f.__code__.co_kwonlyargcount]
    rows += [("", f"other = call({given}, {name}=5)", "assert True") for name in named]
    # One object in two places.
    for one in range(len(arguments)):
        for other in range(one + 1, len(arguments)):
            first, second = namespace[f"a{one}"], namespace[f"a{other}"]
            if type(first) is type(second) and not isinstance(first, int | str):
                rows.append((f"old = a{other}", f"a{other} = a{one}", f"a{other} = old"))
                if isinstance(first, torch.Tensor):
                    rows.append((f"old = a{other}", f"a{other} = a{one}[...]", f"a{other} = old"))
    return rows + [("", change, undo) for change, undo in STATES]


def programs(name: str, setup: str, arguments: list[str], every: int = 1, offset: int = 0, **options) -> list[Program]:
    """Programs that make all changes (or each `every`-th), some in each."""
    rows = changes(setup, arguments)[offset::every]
    first = [f"a{index} = {text}" for index, text in enumerate(arguments)]
    call = f"result = call({', '.join(f'a{index}' for index in range(len(arguments)))})"
    made = []
    for start in range(0, len(rows), CHANGES):
        steps = ["\n".join([*first, call])]
        for keep, change, undo in rows[start : start + CHANGES]:
            # What cannot be changed is no change: the call then is one more of the same.
            lines = [keep, "try:", f"    {change}", "except Exception: pass"]
            lines += ["seen = None", "try:", f"    {call.replace('result', 'seen', 1)}", "finally:"]
            lines += ["    try:", f"        {undo}", "    except Exception: pass", "    old = None", call]
            steps.append("\n".join(line for line in lines if line))
        made.append(Program(setup, steps, recompile_limit=100, name=f"{name} {start}", **options))
    return made
