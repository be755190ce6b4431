"""Classes that libraries make for the function: named tuples, dataclasses, enumerations, protocols, generic classes,
parameters and modules; code made from text."""

import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import typing
from collections import namedtuple
from dataclasses import dataclass, field

import pytest
import torch
from framejit_testing import Cases, check, vector
from torch import nn

case = Cases()
X, Y = vector(seed=1), vector(seed=2)


@case(X)
def named_tuple(x):
    Point = namedtuple("Point", "a b")
    p = Point(x, 2)
    a, b = p
    return a * b, p.a, p._fields, p._replace(b=3).b, p._asdict()["b"], p[1], Point._make([1, 2]).b, isinstance(p, tuple)


@case(X)
def named_tuple_with_options(x):
    Point = collections.namedtuple("Point", ["a", "class", "c"], defaults=[5], rename=True)
    p = Point(x, 2)
    return p.a * p.c, Point._fields, Point._field_defaults, p == (p.a, 2, 5), repr(Point(1, 2))


@case(X)
def typed_named_tuple(x):
    class Point(typing.NamedTuple):
        a: torch.Tensor
        b: int = 3

        def scaled(self):
            return self.a * self.b

    return Point(x).scaled(), Point._fields, list(Point.__annotations__), Point(1) == (1, 3)


@case(X)
def dataclass_plain(x):
    @dataclass
    class Data:
        a: torch.Tensor
        b: int = 2

    d = Data(x)
    d.b += 1
    try:
        Data()
    except TypeError as error:
        message = str(error)
    return d.a * d.b, dataclasses.is_dataclass(d), [f.name for f in dataclasses.fields(d)], message


@case(X)
def dataclass_frozen(x):
    @dataclass(frozen=True)
    class Data:
        a: int
        b: int = 2

    d = Data(1)
    try:
        d.a = 3
    except dataclasses.FrozenInstanceError as error:
        message = str(error)
    return x * d.b, message, hash(d) == hash(Data(1)), d == Data(1), {d: 1}[Data(1)]


@case(X)
def dataclass_with_slots(x):
    @dataclass(slots=True)
    class Data:
        a: torch.Tensor
        b: int = 2

    d = Data(x)
    d.b = 5
    return d.a * d.b, hasattr(d, "__dict__"), Data.__slots__


@case(X)
def dataclass_with_keywords_only(x):
    @dataclass(kw_only=True)
    class Data:
        a: torch.Tensor
        b: int = 2

    try:
        Data(x)
    except TypeError as error:
        message = str(error)
    return Data(a=x).a * Data(a=x).b, message


@case(X)
def dataclass_with_fields(x):
    @dataclass
    class Data:
        a: torch.Tensor
        b: list = field(default_factory=list)
        c: dataclasses.InitVar[int] = 3
        e: typing.ClassVar[int] = 7
        g: torch.Tensor = field(init=False, repr=False, compare=False)

        def __post_init__(self, c):
            self.g = self.a * c
            self.b.append(c)

    d = Data(x)
    return d.g, d.b, Data(x, [1]).b, Data.e


@case(X)
def dataclass_with_order(x):
    @dataclass(order=True)
    class Data:
        a: int
        b: int = 2

    return x * max(Data(1), Data(3)).a, Data(1) < Data(2), sorted([Data(3), Data(1)])[0].a, repr(Data(1))


@case(X)
def dataclass_functions(x):
    @dataclass
    class Data:
        a: torch.Tensor
        b: int = 2

    changed = dataclasses.replace(Data(x), b=7)
    return (
        changed.a * changed.b,
        dataclasses.astuple(Data(1)),
        dataclasses.asdict(Data(1, 3)),
        dataclasses.asdict(Data(x)),
    )


@case(X)
def dataclass_inherited_and_matched(x):
    @dataclass
    class Base:
        a: torch.Tensor

    @dataclass
    class Derived(Base):
        b: int = 2

    match Derived(x, 3):
        case Derived(a, 3):
            return a * 2, Derived.__match_args__
    return x


@case(X)
def dataclass_by_name(x):
    return x * dataclasses.make_dataclass("Data", [("a", int), ("b", int, 3)])(1).b


@case(X)
def cached_property(x):
    class Holder:
        def __init__(self, x):
            self.x = x

        @functools.cached_property
        def twice(self):
            return self.x * 2

    h = Holder(x)
    return h.twice + h.twice, "twice" in h.__dict__


@case(X)
def total_ordering(x):
    @functools.total_ordering
    class Ordered:
        def __init__(self, n):
            self.n = n

        def __eq__(self, other):
            return self.n == other.n

        def __lt__(self, other):
            return self.n < other.n

    return x * max(Ordered(1), Ordered(4)).n, Ordered(1) >= Ordered(0), Ordered(1) <= Ordered(2)


@case(X)
def single_dispatch(x):
    @functools.singledispatch
    def kind(value):
        return value

    @kind.register
    def _(value: int):
        return value + 1

    @kind.register(list)
    def _(value):
        return len(value)

    @kind.register(torch.Tensor)
    def _(value):
        return value * 2

    return kind(x), kind(2), kind([1, 2, 3]), kind("a")


@case(X)
def single_dispatch_method(x):
    class Kinds:
        @functools.singledispatchmethod
        def kind(self, value):
            return value

        @kind.register
        def _(self, value: int):
            return value + 1

        @kind.register(torch.Tensor)
        def _(self, value):
            return value * 2

    k = Kinds()
    return k.kind(x), k.kind(2), k.kind("a")


@case(X)
def enumeration(x):
    class Kind(enum.Enum):
        A = 1
        B = 2
        ALSO_B = 2

        def doubled(self):
            return self.value * 2

    try:
        Kind(7)
    except ValueError as error:
        message = str(error)
    return (
        x * Kind.B.doubled(), Kind["A"].name, Kind(2) is Kind.B, [k.name for k in Kind], len(Kind), Kind.A in Kind,
        repr(Kind.A), Kind.ALSO_B.name, list(Kind.__members__), message.split(".")[0],
    )  # fmt: skip


@case(X)
def enumerations_of_numbers_and_texts(x):
    class Number(enum.IntEnum):
        A = enum.auto()
        B = enum.auto()

    class Text(str, enum.Enum):
        A = "a"
        B = "b"

        @classmethod
        def default(cls):
            return cls.A

    return (
        x * Number.B,
        Number.A + 1,
        Number.B > Number.A,
        [1, 2, 3][Number.A],
        Text("b") == "b",
        Text.default().upper(),
    )


@case(X)
def flags(x):
    class Access(enum.Flag):
        R = enum.auto()
        W = enum.auto()
        RW = R | W

    f = Access.R | Access.W
    return x * (f & Access.R).value, Access.W in Access.RW, bool(Access.R & Access.W), (~Access.R).value, f is Access.RW


@case(X)
def enumeration_by_name(x):
    Kind = enum.Enum("Kind", "A B C")

    def run(kind):
        match kind:
            case Kind.A:
                return x
            case Kind.C:
                return x * kind.value

    return run(Kind.C)


@case(X)
def protocols(x):
    @typing.runtime_checkable
    class Runs(typing.Protocol):
        def run(self, x): ...

    class Explicit(Runs):
        def run(self, x):
            return x * 2

    class Implicit:
        def run(self, x):
            return x * 3

    i = Implicit()
    return Explicit().run(x), i.run(x) if isinstance(i, Runs) else x, isinstance(3, Runs)


@case(X)
def subclass_hooks(x):
    made = {}

    class Base:
        def __init_subclass__(cls, key=None, **rest):
            super().__init_subclass__(**rest)
            made[key] = cls

    class Derived(Base, key="a"):
        def run(self, x):
            return x * 2

    return made["a"]().run(x), list(made)


@case(X)
def code_from_text(x):
    names = {}
    exec("def scaled(a, b=2):\n    return a * b\nz = 3", {}, names)
    return names["scaled"](x), names["z"], eval("a + b", {"a": x, "b": 1}), sorted(names)


@case(X)
def code_from_text_with_globals(x):
    names = {"k": 4}
    exec("def scaled(v):\n    return v * k\nk2 = k + 1\ndef set_k(n):\n    global k\n    k = n", names)
    names["set_k"](7)
    return names["scaled"](x), names["k"], names["k2"], "__builtins__" in names


@case(X)
def code_from_text_that_fails(x):
    try:
        eval("1 +", {})
    except SyntaxError as error:
        first = type(error).__name__
    try:
        eval("nope", {})
    except NameError as error:
        return x, first, str(error), error.name


@case(X)
def code_object_from_text(x):
    return eval(compile("a * 3", "<text>", "eval"), {"a": x})


# What leaves has a dict that is made anew each time as its globals.
@case(X, graphs=0, breaks=1)
def function_from_text_returned(x):
    names = {}
    exec("def plus(a):\n    return a + 1", names)
    return names["plus"], x


@case(X)
def layers_made_inside(x):
    linear = nn.Linear(4, 3)
    names = [name for name, _ in linear.named_parameters()]
    return linear(x), linear.weight.shape, linear.bias.requires_grad, names, nn.LayerNorm(4)(x), nn.GELU()(x)


@case(X, grad=True)
def layers_made_inside_with_gradients(x):
    return nn.Linear(4, 3)(x)


@case(X)
def module_class_made_inside(x):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.full((4,), 2.0))
            self.register_buffer("b", torch.ones(4))

        def forward(self, x):
            return x * self.w + self.b

    return Scale()(x)


@case(X)
def module_made_inside_returned(x):
    layer = nn.Linear(4, 4)
    return layer, layer(x)


@case(X)
def parameter_returned(x):
    p = nn.Parameter(x)
    return p, p + 1


@case(X, grad=True)
def parameter_returned_with_gradients(x):
    p = nn.Parameter(x)
    return p, p * 2


@case(X)
def parameter_without_gradient(x):
    p = nn.Parameter(x.clone(), requires_grad=False)
    p.add_(1)
    return p, p * 2, isinstance(p, nn.Parameter), p.grad_fn, p.is_leaf, p.grad


@case(X)
def parameters_initialised_inside(x):
    layer = nn.Linear(4, 4, bias=False)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        layer.weight.mul_(2)
    return layer(x)


@case(X, nn.Linear(4, 4))
def module_deep_copied(x, layer):
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.zero_()
    return other(x), layer(x)


@case(X)
def tensors_deep_copied(x):
    d = {"a": x, "b": [x, 1]}
    e = copy.deepcopy(d)
    e["a"] += 1
    return d, e, e["b"][0] is e["a"], copy.copy(x)


# The copies share memory as the tensors do.
@case(X, graphs=2, breaks=1)
def tensors_that_share_memory_deep_copied(x):
    first, second = copy.deepcopy([x, x[1:]])
    first.zero_()
    return second, second.storage_offset()


@case(vector(8)[2:6], graphs=1, breaks=1)
def part_of_memory_deep_copied(x):
    copied = copy.deepcopy(x)
    return copied.add_(1), copied.storage_offset()


def test_tensors_that_share_memory_on_a_later_call():
    def copied(a, b):
        first, second = copy.deepcopy([a, b])
        first.zero_()
        return second + 1

    import framejit

    compiled = framejit.compile(copied)
    memory = torch.arange(4.0)
    for a, b in [(X, Y), (memory, memory.view(2, 2)), (X, Y)]:
        assert torch.equal(compiled(a, b), copied(a, b))


@case(X)
def exception_groups(x):
    seen = []
    try:
        raise ExceptionGroup("all", [ValueError("a"), TypeError("b"), KeyError("c")])
    except* ValueError as group:
        seen.append(len(group.exceptions))
        x = x + 1
    except* (TypeError, KeyError) as group:
        seen.append([str(e) for e in group.exceptions])
        x = x * 2
    return x, seen


@case(X)
def exception_groups_of_one(x):
    try:
        raise ValueError("q")
    except* ValueError as group:
        y = x + len(group.exceptions)
    finally:
        x = x * 2
    return y, x


@case(X)
def exception_groups_that_go_on(x):
    try:
        try:
            raise ExceptionGroup("all", [ValueError("a"), TypeError("b")])
        except* ValueError:
            x = x + 1
    except ExceptionGroup as group:
        return x, [type(e).__name__ for e in group.exceptions], group.message


@case(X)
def exception_groups_with_a_new_exception(x):
    try:
        try:
            raise ExceptionGroup("all", [ValueError("a"), TypeError("b")])
        except* ValueError:
            raise KeyError("new")
    except ExceptionGroup as group:
        return x, [type(e).__name__ for e in group.exceptions], repr(group.exceptions[0].__context__)


@case(X)
def iteration_up_to_a_sentinel(x):
    items = iter([1, 2, 3, 0, 4])
    for value in iter(items.__next__, 0):
        x = x * value
    return x, list(items)


@case(X)
def stacks_of_contexts(x):
    log = []

    @contextlib.contextmanager
    def logged(n):
        log.append(("in", n))
        try:
            yield n
        finally:
            log.append(("out", n))

    with contextlib.ExitStack() as stack, contextlib.suppress(KeyError):
        values = [stack.enter_context(logged(i)) for i in range(3)]
        stack.callback(log.append, "callback")
        x = x * sum(values)
        raise KeyError("a")
    with contextlib.nullcontext(3) as n, contextlib.closing(iter_closing(log)):
        return x * n, log


def iter_closing(log):
    class Closing:
        def close(self):
            log.append("closed")

    return Closing()


@pytest.mark.parametrize(*case.table)
def test_made_inside(function, args, expectations):
    check(function, *args, **expectations)
