"""Objects: attributes, properties, descriptors, inheritance, super(), slots, dataclasses, special methods, and classes
made inside the function. Objects that the function makes and returns are rebuilt on every call."""

import dataclasses
import enum
from collections import OrderedDict, defaultdict, deque, namedtuple
from types import SimpleNamespace

import pytest
import torch
from framejit_testing import Cases, check, counting, vector
from transformers.modeling_outputs import BaseModelOutput

case = Cases()
X, Y = vector(seed=1), vector(seed=2)
Point = namedtuple("Point", "a b")


class Kind(enum.Enum):
    SUM = 1
    PRODUCT = 2


@dataclasses.dataclass
class Pair:
    first: torch.Tensor
    second: int = 3

    def total(self):
        return self.first * self.second


@dataclasses.dataclass(frozen=True)
class FrozenPair:
    first: torch.Tensor
    second: int = 3


class Base:
    factor = 2
    table = {"a": 5}

    def __init__(self, x):
        self.x = x

    def scaled(self):
        return self.x * self.factor

    @property
    def doubled(self):
        return self.x * 2

    @classmethod
    def make(cls, x):
        return cls(x + 1)

    @staticmethod
    def shifted(x):
        return x - 1


class Derived(Base):
    factor = 3

    def __init__(self, x, extra):
        super().__init__(x)
        self.extra = extra

    def scaled(self):
        return super().scaled() + self.extra


class Slotted:
    __slots__ = ("x", "n")

    def __init__(self, x, n):
        self.x = x
        self.n = n


class Callable:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x * self.n

    def __getitem__(self, i):
        return self.n + i

    def __len__(self):
        return self.n

    def __contains__(self, i):
        return i == self.n

    def __add__(self, other):
        return Callable(self.n + other.n)

    def __eq__(self, other):
        return self.n == other.n

    def __iter__(self):
        return iter(range(self.n))

    def __bool__(self):
        return self.n > 1


class Fallback:
    def __getattr__(self, name):
        return len(name)


class Descriptor:
    def __get__(self, instance, owner):
        return instance.x * 10

    def __set__(self, instance, value):
        instance.x = value


class WithDescriptor:
    value = Descriptor()

    def __init__(self, x):
        self.x = x


OUTSIDE = Derived(Y, 4)
OUTSIDE_SLOTTED = Slotted(Y, 6)
OUTSIDE_CALLABLE = Callable(3)
CONFIG = SimpleNamespace(scale=2.5, name="linear", nested=SimpleNamespace(depth=2))


@case(X)
def makes_object(x):
    return Derived(x, 4).scaled()


@case(X)
def reads_outside_object(x):
    return x + OUTSIDE.scaled() + OUTSIDE.doubled


@case(X)
def class_and_static_methods(x):
    return Base.make(x).x + Base.shifted(x) + OUTSIDE.shifted(x)


@case(X)
def class_attributes(x):
    return x * Base.factor + Derived.factor + Base.table["a"]


@case(X)
def slots(x):
    made = Slotted(x, 2)
    return made.x * made.n + OUTSIDE_SLOTTED.x * OUTSIDE_SLOTTED.n


@case(X)
def special_methods(x):
    c = OUTSIDE_CALLABLE
    total = c + Callable(1)
    return c(x), x * c[2], x + len(c), 3 in c, total == Callable(4), [x * i for i in c], bool(c)


@case(X)
def getattr_fallback(x):
    return x * Fallback().anything


@case(X)
def descriptor(x):
    w = WithDescriptor(x)
    w.value = x + 1
    return w.value


@case(X)
def getattr_hasattr_setattr(x):
    o = SimpleNamespace()
    setattr(o, "y", x * 2)
    return getattr(o, "y") + getattr(o, "missing", 1), hasattr(o, "y"), hasattr(o, "z"), vars(o)


@case(X)
def config_object(x):
    if CONFIG.name == "linear" and CONFIG.nested.depth > 1:
        return x * CONFIG.scale
    return x


@case(X)
def enum_members(x):
    kind = Kind.PRODUCT
    return (x * 2 if kind is Kind.PRODUCT else x + 2), kind == Kind.SUM


@case(X)
def returns_dataclass(x):
    return Pair(x + 1)


@case(X)
def dataclass_method_and_replace(x):
    return dataclasses.replace(Pair(x), second=5).total()


@case(X)
def returns_frozen_dataclass(x):
    return FrozenPair(x * 2, 7)


@case(Pair(X, 2))
def takes_dataclass(pair):
    return pair.total() + pair.first


@case(X)
def returns_model_output(x):
    out = BaseModelOutput(last_hidden_state=x * 2, hidden_states=(x, x + 1))
    return out


@case(X)
def indexes_model_output(x):
    out = BaseModelOutput(last_hidden_state=x * 2)
    return out[0] + out.last_hidden_state + out["last_hidden_state"], len(out.to_tuple())


@case(X)
def returns_namedtuple(x):
    return Point(x, b=x + 1)


@case(Point(X, 3))
def takes_namedtuple(point):
    return point.a * point.b + point[0]


@case(X)
def returns_object(x):
    return Derived(x * 2, {"deep": [x]})


@case(X)
def returns_slotted(x):
    s = Slotted(x + 1, 2)
    return s.x, s.n


@case(X)
def returns_containers(x):
    y = x + 1
    return [y, (y, {"k": y}), {1, 2}, OrderedDict(a=y), deque([y, 1]), frozenset([3])]


@case(X)
def returns_defaultdict(x):
    d = defaultdict(list)
    d["a"].append(x * 2)
    return d


@case(X)
def returns_same_object_twice(x):
    y = [x + 1]
    return y, y, y[0]


@case(X)
def returns_input(x):
    return x, x + 1


@case(X)
def returns_view_of_input(x):
    return x[1:], x.view(2, 2), x + 1


@case(X)
def returns_views_of_result(x):
    y = x * 2
    return y, y[1:], y.view(2, 2)


@case(X)
def returns_torch_size(x):
    return x.shape, x.stride(), x.dtype, x.device, x + 1


@case(vector(3, 4))
def returns_structseq(x):
    result = x.max(dim=1)
    return result.values * 2, result.indices, type(result).__name__


@case(vector(3, 4))
def returns_whole_structseq(x):
    return torch.sort(x, dim=1)


@case(X)
def dict_operations(x):
    d = {"a": x, "b": 2}
    d["c"] = d.pop("b")
    d.update(e=x * 2)
    d.setdefault("f", []).append(x)
    return {**d, "g": d.get("missing", 7)}, list(d.items())[0][0], "a" in d, len(d)


@case(X)
def list_operations(x):
    items = [x]
    items.append(x + 1)
    items.extend([x + 2, x + 3])
    items.insert(0, x * 5)
    last = items.pop()
    items.reverse()
    items[0] = x * 9
    del items[1]
    return items, last, len(items), items[-1], items[:2], items + [1], [1] * 2


@case(X)
def set_operations(x):
    s = {1, 2} | {3}
    s.add(5)
    s.discard(1)
    return x * len(s & {2, 3}), sorted(s), 2 in s


@case(X)
def tuple_operations(x):
    t = (1, 2) + (3,)
    return x * t.index(2) + t.count(3), t[::-1], t * 2, t < (2,)


@case(X)
def class_defined_inside(x):
    class Local:
        scale = 3

        def apply(self, y):
            return y * self.scale

    return Local().apply(x)


@pytest.mark.parametrize(*case.table)
def test_classes(function, args, expectations):
    check(function, *args, **expectations)


def test_results_are_new_objects_on_every_call():
    def make(x):
        return [x + 1, {"a": x}]

    compiled, backend = counting(make)
    first, second = compiled(X), compiled(X)
    assert first is not second and first[1] is not second[1] and first[0] is not second[0]
    first.append(1)
    assert len(compiled(X)) == 2
    assert backend.count == 1


def test_frozen_dataclass_stays_frozen():
    compiled, _ = counting(returns_frozen_dataclass)
    for _ in range(2):
        with pytest.raises(dataclasses.FrozenInstanceError):
            compiled(X).second = 1
