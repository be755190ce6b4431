"""Library code: collections, dataclasses, enum, copy, math, random, typing, weakref, inspect, warnings, re, and others
that programs use beside torch."""

import collections
import copy
import dataclasses
import enum
import inspect
import math
import random
import re
import string
import sys
import textwrap
import types
import typing
import warnings
import weakref
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque, namedtuple

import pytest
import torch
from framejit_testing import Cases, check, vector

case = Cases()
X, Y = vector(seed=1), vector(seed=2)


@case(X)
def deques(x):
    d = deque([1, 2, x], maxlen=4)
    d.append(3)
    d.appendleft(0)
    d.rotate(1)
    last, first = d.pop(), d.popleft()
    d.extend([7, 8])
    d.extendleft([9])
    d.reverse()
    return (
        d,
        last,
        first,
        len(d),
        d[0],
        d.maxlen,
        list(d),
        7 in d,
        d.copy(),
        deque("abc").index("b"),
        deque([1, 1]).count(1),
    )


@case(deque([1, 2], maxlen=3), X)
def deque_as_argument(d, x):
    d.append(x)
    d.appendleft(5)
    d[1] = 4
    return d[0] * x, d.pop(), len(d)


@case(X)
def ordered_dicts(x):
    d = OrderedDict(a=1, b=x)
    d["c"] = 3
    d.move_to_end("a")
    first = d.popitem(last=False)
    return first, list(d), d == OrderedDict(c=3, a=1), d == {"a": 1, "c": 3}, list(reversed(d)), d | {"z": 1}


@case(OrderedDict(a=1, b=2), X)
def ordered_dict_as_argument(d, x):
    d["c"] = x
    d.move_to_end("a")
    return d.popitem(last=False), list(d)


@case(X)
def default_dicts(x):
    d = defaultdict(list)
    d["a"].append(x)
    d["b"].append(2)
    counts = defaultdict(int, k=1)
    for letter in "hello":
        counts[letter] += 1
    nested = defaultdict(lambda: defaultdict(int))
    nested["x"]["y"] += 1
    return d, counts, nested["x"]["y"], d.default_factory, "z" in d, d.get("z"), counts | {"q": 2}


@case(defaultdict(list, a=[1]), X)
def default_dict_as_argument(d, x):
    d["a"].append(2)
    d["b"].append(x)
    return len(d["c"]), x


@case(X)
def counters(x):
    c = Counter("hello")
    c.update("ll")
    c["z"] += 2
    c.subtract(["h"])
    total = c.total()
    other = Counter(a=1, l=2)
    return (
        x * total, c["l"], c["missing"], c.most_common(1), sorted(c.elements()), c + other, c - other, c & other,
        c | other,
        -Counter(a=-1), c == Counter(c), list(Counter([3, 1, 3])), Counter({"a": 2}), dict(c), +c,
    )  # fmt: skip


@case(Counter("abca"), X)
def counter_as_argument(c, x):
    c["a"] += 1
    c["d"] += 1
    return x * c["a"], c["nothing"], c.most_common(1)


# From 3.12 on, iterating over a ChainMap is map(dict.fromkeys, ...), in C.
@case(X, **({"graphs": 0, "breaks": 1} if sys.version_info >= (3, 12) else {}))
def chain_maps_and_user_containers(x):
    class_default = {"a": 1, "b": 2}
    chained = ChainMap({"a": x}, class_default)
    chained["c"] = 3
    user = UserDict(k=1)
    user["j"] = x
    items = UserList([1, 2])
    items.append(3)
    return (
        chained["a"],
        chained["b"],
        sorted(chained),
        chained.new_child({"a": 0})["a"],
        user["j"],
        user["k"],
        items[-1],
        len(items),
    )


Point = namedtuple("Point", "a b c", defaults=[3])


class Typed(typing.NamedTuple):
    x: torch.Tensor
    n: int = 2

    def scaled(self):
        return self.x * self.n


@case(X)
def named_tuples(x):
    p = Point(x, 2)
    a, b, c = p
    t = Typed(x)
    return (
        p,
        p._replace(b=5),
        p._asdict(),
        Point._fields,
        Point._make([1, 2, 3]),
        p.a,
        p[1],
        a + b + c,
        t.scaled(),
        t,
        p == Point(x, 2),
        Point._field_defaults,
        len(p),
    )


@case(X)
def named_tuple_made_inside(x):
    local = namedtuple("Local", ["left", "right"])
    value = local(x, right=2)
    return value.left * value.right, value._fields


@dataclasses.dataclass
class Base:
    a: int
    b: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(order=True)
class Derived(Base):
    c: float = 1.5
    d: int = dataclasses.field(default=0, repr=False, compare=False)
    total: int = dataclasses.field(init=False)
    scale: dataclasses.InitVar[int] = 2

    def __post_init__(self, scale):
        self.total = self.a * scale


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: object
    n: int = 1


@dataclasses.dataclass(kw_only=True)
class Keyword:
    name: str
    size: int = 3


@case(X)
def data_classes(x):
    d = Derived(2, scale=5)
    d.b.append(1)
    e = dataclasses.replace(d, a=3, scale=2)
    try:
        Frozen(x).n = 2
    except dataclasses.FrozenInstanceError:
        frozen = True
    return (
        x * d.total, e.total, d == Derived(2, [1], scale=5), d < e, repr(d), dataclasses.asdict(d),
        dataclasses.astuple(e), frozen,
        [f.name for f in dataclasses.fields(d)], Frozen(x, 2), Frozen(1) == Frozen(1),
        hash(Frozen(1)) == hash(Frozen(1)), Keyword(name="k"),
        dataclasses.is_dataclass(d), Derived.__match_args__,
    )  # fmt: skip


@case(Derived(2, [X]))
def data_class_as_argument(d):
    d.a += 1
    d.b.append(d.b[0] * d.a)
    return dataclasses.replace(d, c=2.0, scale=1).b[1]


@case(X)
def data_class_made_inside(x):
    @dataclasses.dataclass
    class Local:
        v: torch.Tensor
        n: int = 2

    return Local(x).v * Local(x, 3).n


class Color(enum.Enum):
    RED = 1
    GREEN = 2
    CRIMSON = 1

    @property
    def lower(self):
        return self.name.lower()

    @classmethod
    def default(cls):
        return cls.GREEN


class Flag(enum.Flag):
    A = enum.auto()
    B = enum.auto()
    C = A | B


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 5


class Name(str, enum.Enum):
    ONE = "one"
    TWO = "two"


@case(X)
def enums(x):
    return (
        x * Color.RED.value, Color(2), Color["RED"], Color.CRIMSON is Color.RED, list(Color), Color.RED.lower,
        Color.default().name, Color.RED == Color.GREEN,
        Color.RED in Color, len(Color), repr(Color.RED), str(Color.GREEN), f"{Color.RED}", Flag.A | Flag.B,
        Flag.A & Flag.C, Flag.A in Flag.C, ~Flag.A, bool(Flag.A & Flag.B),
        x * Level.HIGH, Level.LOW < 3, Level(5), sorted([Level.HIGH, Level.LOW]), Name("one"), Name.ONE == "one",
        Name.TWO.upper(), {Color.RED: 1}[Color.RED],
        [c.name for c in Color], Color.__members__.keys() == {"RED", "GREEN", "CRIMSON"},
        isinstance(Color.RED, Color), hash(Color.RED) == hash(Color.CRIMSON), Level.HIGH + 1,
    )  # fmt: skip


@case(Color.GREEN, Flag.C, X)
def enums_as_arguments(color, flag, x):
    if color is Color.GREEN and Flag.A in flag:
        return x * color.value
    return x


@case(X)
def enum_errors(x):
    try:
        Color(7)
    except ValueError as error:
        return x, str(error)


class Copied:
    def __init__(self, x):
        self.x, self.items = x, [1, [2]]

    def __copy__(self):
        new = type(self)(self.x)
        new.copied = True
        return new


class Plain:
    def __init__(self, **fields):
        self.__dict__.update(fields)


@case(X)
def copies(x):
    plain = Plain(n=1, items=[1, [2]], table={"a": (1, [3])})
    shallow, deep = copy.copy(plain), copy.deepcopy(plain)
    shallow.items[1].append(3)
    deep.items[1].append(4)
    items = [x, [1]]
    again = copy.copy(items)
    again.append(2)
    return (
        x,
        plain.items,
        shallow.items is plain.items,
        deep.items,
        deep.table,
        again[0] is x,
        copy.copy(Copied(x)).copied,
        copy.copy({"a": 1}),
        copy.deepcopy((1, [2])),
        copy.copy({1, 2}) == {1, 2},
        copy.deepcopy({"a": [1]}),
    )


@case(Plain(n=1, items=[1, [2]]), X)
def copies_of_an_argument(plain, x):
    deep = copy.deepcopy(plain)
    deep.items.append(5)
    shallow = copy.copy(plain)
    shallow.n = 7
    return x * plain.n, deep.items, shallow.n


@case(X)
def deep_copy_with_cycle(x):
    a = Plain(n=2)
    a.self = a
    b = copy.deepcopy(a)
    return x * b.n, b.self is b, b is a


@case(X, 0.5)
def math_functions(x, v):
    m = math
    return (
        x * m.sqrt(2), m.pi, m.e, m.inf > 1, m.isnan(m.nan), m.floor(2.5), m.ceil(2.1), m.trunc(-2.5), m.sin(v),
        m.cos(v), m.exp(v), m.log(v), m.log(8, 2), m.log2(8),
        m.gcd(12, 18), m.lcm(4, 6), m.factorial(5), m.comb(5, 2), m.prod([1, 2, 3]), m.fsum([0.1] * 10),
        m.hypot(3, 4), m.dist([0, 0], [3, 4]), m.copysign(1, -0.0), m.isclose(v, 0.5),
        m.modf(2.5), m.frexp(8.0), m.degrees(m.pi), m.isqrt(17), m.erf(v), m.gamma(5), m.atan2(1, 1), m.fmod(7, 3),
        m.remainder(7, 4), m.tau,
    )  # fmt: skip


@case(X)
def math_errors(x):
    found = []
    for call in (lambda: math.sqrt(-1), lambda: math.log(0), lambda: math.factorial(-1), lambda: math.floor(math.inf)):
        try:
            call()
        except (ValueError, OverflowError) as error:
            found.append(str(error))
    return x, found


@case(X)
def complex_math(x):
    import cmath

    return x, cmath.sqrt(-1), cmath.phase(1j), abs(3 + 4j), cmath.exp(0)


@case(X)
def fractions_and_decimals(x):
    from fractions import Fraction

    return x * float(Fraction(1, 2) + Fraction(1, 3)), Fraction(6, 4).numerator


def seed():
    random.seed(3)


# The state of the module's generator changes with each draw: it breaks.
@case(X, graphs=2, breaks=1, setup=seed)
def random_of_the_module(x):
    y = x + 1
    n = random.random()
    return y * 2, n


@case(X, graphs=1, setup=seed)
def random_with_its_own_state(x):
    generator = random.Random(5)
    return x * generator.random(), generator.randint(0, 9), generator.choice([1, 2, 3])


T = typing.TypeVar("T")


class Box(typing.Generic[T]):
    def __init__(self, value: T):
        self.value = value

    def get(self) -> T:
        return self.value


@typing.runtime_checkable
class HasGet(typing.Protocol):
    def get(self): ...


class Options(typing.TypedDict, total=False):
    a: int
    b: float


@case(X)
def typing_tools(x):
    box = Box[int](x)
    value: typing.Optional[int] = 3  # noqa: UP007
    options: Options = {"a": 1}
    made = Options(a=1, b=2.0)
    return (
        typing.cast(torch.Tensor, box.get()) * value, isinstance(box, HasGet), isinstance(3, HasGet), options["a"],
        made, typing.TYPE_CHECKING,
        isinstance(3, int | str), isinstance([], list), list[int], typing.get_origin(list[int]),  # noqa: UP007
        typing.get_args(dict[str, int]), typing.Union[int, str] == int | str,  # noqa: UP007
    )  # fmt: skip


@case(X)
def type_hints(x):
    hints = typing.get_type_hints(Box.get)
    return x, list(hints)


class Target:
    def __init__(self, x):
        self.x = x


UNION, ALIAS = int | Target, dict[str, "Target"]


@case(X)
def aliases_from_outside(x):
    args = typing.get_args(UNION)
    y = x * 2 if args[0] is int and args[1] is Target else x
    return (
        y, args[0], UNION.__args__[1], typing.get_origin(UNION), typing.get_args(ALIAS), ALIAS.__origin__,
        ALIAS.__parameters__, ALIAS.fromkeys([1], 2), ALIAS.__name__,
    )  # fmt: skip


@case(X)
def weak_references(x):
    target = Target(x)
    ref = weakref.ref(target)
    first = ref() is target
    y = ref().x * 2
    del target
    return y, first, ref() is None


@case(X)
def weak_containers(x):
    keys = weakref.WeakKeyDictionary()
    values = weakref.WeakValueDictionary()
    members = weakref.WeakSet()
    target = Target(x)
    keys[target] = x + 1
    values["a"] = target
    members.add(target)
    return keys[target], values["a"].x, target in members, len(members), list(values)


@case(X)
def weak_proxy_and_method(x):
    target = Target(x)
    proxy = weakref.proxy(target)
    return proxy.x * 2


KEPT = Target(X)
REF = weakref.ref(KEPT)


@case(X)
def weak_reference_from_outside(x):
    return x + REF().x


# finalize() keeps all of them in a table of the process.
@case(X, graphs=0, breaks=2)
def finalizers(x):
    log = []
    target = Target(x)
    weakref.finalize(target, log.append, "done")
    del target
    return x, log


def signed(a, b: int = 2, *rest, c, d=4, **others) -> int:
    """Doc of signed."""


@case(X)
def signatures(x):
    s = inspect.signature(signed)
    bound = s.bind(1, c=3)
    bound.apply_defaults()
    p = s.parameters["b"]
    return (
        x * len(s.parameters), list(s.parameters), p.default, p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD,
        p.annotation, bound.arguments, bound.args, bound.kwargs,
        "c" in s.parameters, s.return_annotation,
    )  # fmt: skip


@case(X)
def inspection(x):
    return (
        x, inspect.isfunction(signed), inspect.isclass(Target), inspect.ismethod(Target(x).__init__),
        inspect.isgeneratorfunction(signed), inspect.getdoc(signed),
        inspect.unwrap(signed) is signed, inspect.ismodule(math), inspect.isabstract(Target),
        inspect.iscoroutinefunction(signed), inspect.isbuiltin(len),
    )  # fmt: skip


@case(X)
def warns_once(x):
    warnings.warn("careful", UserWarning, stacklevel=1)
    return x + 1


@case(X)
def warns_deprecated(x):
    warnings.warn("old", DeprecationWarning, stacklevel=2)
    return x + 1


# What is shown under filters of the function's own is up to C code that reads the real ones.
@case(X, breaks=1)
def catches_warnings(x):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("inside", stacklevel=1)
    return x + 1, len(caught)


@case(X)
def ignores_warnings(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.warn("inside", stacklevel=1)
    return x + 1


PATTERN = re.compile(r"layer\.(?P<n>\d+)\.(\w+)")


@case(X, "layer.12.weight")
def regular_expressions(x, text):
    m = PATTERN.match(text)
    return (
        x * int(m.group("n")), m.groups(), m.groupdict(), m.start(1), m.span(), m[2], PATTERN.search("no"),
        re.sub(r"\d", "#", text), re.split(r"\.", text), re.findall(r"\w", "a.b"),
        re.match("l", text) is not None, re.fullmatch("a", "ab"), PATTERN.sub(lambda k: k.group(2), text),
        [k.group() for k in re.finditer("a|e", text)], PATTERN.pattern, re.escape("a.b"),
        bool(re.search("WEIGHT", text, re.IGNORECASE)), m.end(), m.string, PATTERN.groups, re.compile("x").flags,
    )  # fmt: skip


@case(X)
def strings_library(x):
    return (
        x,
        string.ascii_lowercase[:3],
        textwrap.dedent("  a\n  b"),
        string.Template("$a").substitute(a=1),
        textwrap.indent("a", " "),
    )


@case(X)
def simple_namespaces(x):
    n = types.SimpleNamespace(a=x, b=2)
    n.c = n.a * n.b
    del n.b
    return (
        n.c,
        n,
        hasattr(n, "b"),
        types.SimpleNamespace(a=1) == types.SimpleNamespace(a=1),
        vars(n).keys() == {"a", "c"},
    )


@case({"a": 1, "b": [2]}, X)
def dict_of_an_argument(d, x):
    view = d.keys()
    d["c"] = x
    d.setdefault("b", []).append(3)
    d.update(z=1, a=5)
    popped = d.pop("z")
    del d["a"]
    return list(view), popped, list(d.items())[0], d.get("q", 7), d == {"b": 1}, len(d), "a" in d, [*reversed(d)]


@case(X)
def dict_methods(x):
    d = dict(a=1, b=x)
    e = dict.fromkeys("xy", 0)
    both = {**d, **e}
    d |= {"c": 3}
    last = d.popitem()
    return (
        both, last, list(d.items()), d.keys() & {"a"}, d.keys() | e.keys() == {"a", "b", "x", "y"}, d.keys() - {"a"},
        sorted(e.items()), d.copy() is d, {v: k for k, v in e.items()},
        list(e.values()), min(e), e | {"q": 1}, dict([("a", 1)]), dict({"z": 2}, y=3), e.clear(), e,
        len({1: "a"}), d.items() >= {("a", 1)} if len(d) == 1 else None,
    )  # fmt: skip


@case(X)
def set_methods(x):
    s = {1, 2, 3}
    s.add(4)
    s.discard(9)
    s.update([5], {6})
    s -= {1}
    s &= {2, 3, 4}
    s |= {7}
    s ^= {2}
    f = frozenset(s)
    return (
        x * len(s),
        s,
        f,
        s | {1},
        s & {3},
        s - {3},
        s ^ {3},
        s <= f,
        s.isdisjoint({0}),
        s == f,
        f.union([8]),
        3 in s,
        sorted(s),
        hash(f) == hash(frozenset(s)),
        {frozenset({1}): 2},
    )


@case({1, 2}, frozenset({3}), X)
def sets_as_arguments(s, f, x):
    s.add(5)
    s.discard(1)
    return x * len(s), s | f, 3 in f


@case([3, 1, 2], X)
def list_of_an_argument(items, x):
    items.sort()
    items.extend([4, 5])
    items.remove(4)
    items.insert(1, x)
    items.reverse()
    last = items.pop()
    items[-1] = 9
    del items[1]
    return last, items[0], items[1:], len(items), items * 2, items + [0], [1] < items[1:], items.copy()


@case(X)
def bytes_and_arrays(x):
    b = bytearray(b"abc")
    b.append(100)
    b[0] = 65
    return x * len(b), bytes(b), b.decode(), b"a" + b"b", memoryview(b"abc")[1], b"abc".hex(), list(b"ab")


@case(X)
def heaps_and_bisection(x):
    import bisect
    import heapq

    heap = [5, 1, 3]
    heapq.heapify(heap)
    heapq.heappush(heap, 0)
    items = [1, 3, 5]
    bisect.insort(items, 4)
    return (
        x * heapq.heappop(heap),
        heap,
        items,
        bisect.bisect_left(items, 3),
        heapq.nlargest(2, [1, 5, 2]),
        heapq.merge([1], [2]).__class__.__name__,
    )


@case(X)
def struct_json_and_hashes(x):
    import json

    return x * 2, json.dumps({"a": [1, None]}), json.dumps([1.5, "b"], indent=1)


# The decoder is an object of C from outside.
@case(X, breaks=1)
def json_decoding(x):
    import json

    return x * 2, json.loads('{"b": 2.5}')["b"]


@case(X)
def pprint_and_numbers(x):
    import numbers

    return x, isinstance(3, numbers.Number), isinstance(2.5, numbers.Integral), isinstance(True, numbers.Real)


@case(X)
def collections_abc(x):
    from collections import abc

    class_checks = [
        isinstance(v, k)
        for v in ([], {}, (), "a", 3, iter([]))
        for k in (abc.Sequence, abc.Mapping, abc.Iterable, abc.Hashable, abc.Iterator, abc.Callable)
    ]
    return x, class_checks, issubclass(dict, abc.MutableMapping)


class Mapped(collections.abc.MutableMapping):
    def __init__(self, **items):
        self.items_ = items

    def __getitem__(self, key):
        return self.items_[key]

    def __setitem__(self, key, value):
        self.items_[key] = value

    def __delitem__(self, key):
        del self.items_[key]

    def __iter__(self):
        return iter(self.items_)

    def __len__(self):
        return len(self.items_)


@case(X)
def mapping_of_ones_own(x):
    m = Mapped(a=x, b=2)
    m["c"] = 3
    m.update(d=4)
    m.setdefault("e", 5)
    return (
        m["a"],
        m.get("q", 1),
        list(m.keys()),
        list(m.values())[1:],
        dict(**m).keys() == {"a", "b", "c", "d", "e"},
        m.pop("b"),
        "b" in m,
        len(m),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(*case.table)
def test_library(function, args, expectations):
    check(function, *args, **expectations)
