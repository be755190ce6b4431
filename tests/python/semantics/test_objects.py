"""Classes: inheritance, metaclasses, attribute hooks, descriptors, slots, properties, operators, classes made inside
the function."""

import abc
import functools

import pytest
import torch
from framejit_testing import Cases, check, vector

case = Cases()
X, Y = vector(seed=1), vector(seed=2)


class Root:
    log = ()

    def __init__(self, x, **rest):
        super().__init__(**rest)
        self.x = x

    def run(self):
        return ["root"], self.x


class Left(Root):
    def run(self):
        names, value = super().run()
        return ["left", *names], value + 1


class Right(Root):
    def run(self):
        names, value = super().run()
        return ["right", *names], value * 2


class Diamond(Left, Right):
    def run(self):
        names, value = super().run()
        return ["diamond", *names], value - 3


@case(X)
def multiple_inheritance(x):
    d = Diamond(x)
    return d.run(), [c.__name__ for c in Diamond.__mro__], isinstance(d, Right), issubclass(Diamond, Left)


@case(X)
def explicit_super(x):
    d = Diamond(x)
    return super(Left, d).run(), super(Diamond, Diamond).run(d), Root.run(d)


class Meta(type):
    made = 0

    def __call__(cls, *args, **kwargs):
        self = super().__call__(*args, **kwargs)
        self.tag = cls.__name__.lower()
        return self

    def __getattr__(cls, name):
        if name.startswith("auto_"):
            return name[5:]
        raise AttributeError(name)

    def __len__(cls):
        return 4

    def __iter__(cls):
        return iter((1, 2))

    def __contains__(cls, item):
        return item == 3

    def __getitem__(cls, item):
        return (cls.__name__, item)

    def __instancecheck__(cls, instance):
        return hasattr(instance, "tag")

    @property
    def kind(cls):
        return "meta"


class Made(metaclass=Meta):
    def __init__(self, x):
        self.x = x


@case(X)
def metaclass(x):
    made = Made(x)
    return made.x * len(Made), made.tag, Made.auto_name, list(Made), 3 in Made, Made[5], Made.kind


@case(X)
def metaclass_instance_check(x):
    return x + int(isinstance(Made(x), Made)) - int(isinstance(3, Made))


class Registry:
    kinds = {}

    def __init_subclass__(cls, /, name=None, **rest):
        super().__init_subclass__(**rest)
        cls.kind = name

    def __class_getitem__(cls, item):
        return cls.kinds.get(item, item)


class Registered(Registry, name="registered"):
    pass


@case(X)
def init_subclass_and_class_getitem(x):
    return x, Registered.kind, Registered["a"], Registry[1]


class Hooks:
    def __init__(self, x):
        object.__setattr__(self, "store", {"x": x})
        object.__setattr__(self, "log", [])

    def __getattr__(self, name):
        if name.startswith("__") or name not in self.store:
            raise AttributeError(f"no {name}")
        self.log.append("get " + name)
        return self.store[name]

    def __setattr__(self, name, value):
        self.log.append("set " + name)
        self.store[name] = value

    def __delattr__(self, name):
        self.log.append("del " + name)
        del self.store[name]


@case(X)
def attribute_hooks(x):
    hooks = Hooks(x)
    hooks.y = hooks.x * 2
    hooks.z = 1
    hooks.y += hooks.z
    del hooks.z
    return hooks.y, hasattr(hooks, "z"), getattr(hooks, "q", 7), hooks.log


@case(Hooks(X))
def attribute_hooks_of_an_argument(hooks):
    hooks.y = hooks.x * 2
    del hooks.y
    return hooks.x + 1


class Everything:
    def __init__(self, x):
        self.x = x

    def __getattribute__(self, name):
        value = object.__getattribute__(self, name)
        return value * 2 if name == "x" else value

    def method(self):
        return self.x


@case(X)
def getattribute(x):
    e = Everything(x)
    return e.x, e.method(), e.__dict__["x"]


class Typed:
    """A data descriptor with __set_name__."""

    def __set_name__(self, owner, name):
        self.name = "_" + name

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        return getattr(instance, self.name)

    def __set__(self, instance, value):
        setattr(instance, self.name, value + 1)

    def __delete__(self, instance):
        delattr(instance, self.name)


class Lazy:
    """Not a data descriptor: stores its result in the instance."""

    def __init__(self, function):
        self.function = function
        self.name = function.__name__

    def __get__(self, instance, owner):
        if instance is None:
            return self
        value = instance.__dict__[self.name] = self.function(instance)
        return value


class Described:
    field = Typed()

    def __init__(self, x):
        self.field = x

    @Lazy
    def lazy(self):
        return self.field * 2

    @functools.cached_property
    def cached(self):
        return self.field * 3

    @property
    def prop(self):
        return self.field

    @prop.setter
    def prop(self, value):
        self.field = value * 2

    @prop.deleter
    def prop(self):
        del self.field


@case(X)
def descriptors(x):
    d = Described(x)
    first = d.field
    d.prop = x
    return first, d.field, d.lazy, d.lazy, d.cached, d.cached, sorted(d.__dict__), Described.field is not None


@case(Described(X))
def descriptors_of_an_argument(d):
    y = d.lazy + d.cached
    d.field = y
    return d.prop


@case(X)
def descriptor_delete(x):
    d = Described(x)
    y = d.field
    del d.prop
    return y, hasattr(d, "field")


class Slotted:
    __slots__ = ("a", "b", "__weakref__")

    def __init__(self, a):
        self.a = a


class MoreSlots(Slotted):
    __slots__ = ("c",)


@case(X)
def slots(x):
    s = MoreSlots(x)
    s.b = s.a + 1
    s.c = s.b * 2
    del s.a
    missing = hasattr(s, "a")
    try:
        s.d = 1
    except AttributeError:
        return s.c, missing, s


def slotted(x):
    s = Slotted(x)
    s.b = 2
    return s


@case(slotted(X))
def slots_of_an_argument(s):
    y = s.a * s.b
    s.b += 1
    s.a = y
    return y


@case(slotted(X))
def slot_deleted_of_an_argument(s):
    y = s.a * s.b
    del s.b
    return y, hasattr(s, "b")


@case(Slotted(X))
def empty_slot_of_an_argument(s):
    if not hasattr(s, "b"):
        s.b = 3
    return s.a * s.b


class Number:
    """All operators, in both directions and in place."""

    def __init__(self, x, log=None):
        self.x = x
        self.log = [] if log is None else log

    def _make(self, name, value):
        self.log.append(name)
        return Number(value, self.log)

    def __add__(self, o):
        return self._make("add", self.x + (o.x if isinstance(o, Number) else o))

    def __radd__(self, o):
        return self._make("radd", o + self.x)

    def __sub__(self, o):
        return NotImplemented

    def __rsub__(self, o):
        return self._make("rsub", o - self.x)

    def __mul__(self, o):
        return self._make("mul", self.x * o)

    def __imul__(self, o):
        self.log.append("imul")
        self.x = self.x * o
        return self

    def __truediv__(self, o):
        return self._make("truediv", self.x / o)

    def __floordiv__(self, o):
        return self._make("floordiv", self.x // o)

    def __mod__(self, o):
        return self._make("mod", self.x % o)

    def __divmod__(self, o):
        return self // o, self % o

    def __pow__(self, o, mod=None):
        return self._make("pow", self.x**o)

    def __rpow__(self, o):
        return self._make("rpow", o**self.x)

    def __matmul__(self, o):
        return self._make("matmul", self.x @ o)

    def __and__(self, o):
        return "and"

    def __rand__(self, o):
        return "rand"

    def __or__(self, o):
        return "or"

    def __xor__(self, o):
        return "xor"

    def __lshift__(self, o):
        return "lshift"

    def __rshift__(self, o):
        return "rshift"

    def __neg__(self):
        return self._make("neg", -self.x)

    def __pos__(self):
        return self._make("pos", +self.x)

    def __invert__(self):
        return "invert"

    def __abs__(self):
        return self._make("abs", abs(self.x))

    def __round__(self, digits=0):
        return ("round", digits)

    def __index__(self):
        return 2

    def __int__(self):
        return 5

    def __float__(self):
        return 2.5

    def __complex__(self):
        return 1j

    def __bool__(self):
        self.log.append("bool")
        return True

    def __len__(self):
        return 3

    def __hash__(self):
        return 11

    def __eq__(self, o):
        self.log.append("eq")
        return isinstance(o, Number)

    def __lt__(self, o):
        self.log.append("lt")
        return True

    def __le__(self, o):
        return False

    def __contains__(self, o):
        return o == 1

    def __getitem__(self, key):
        return ("item", key)

    def __setitem__(self, key, value):
        self.log.append(("set", key, value))

    def __delitem__(self, key):
        self.log.append(("del", key))

    def __repr__(self):
        return "Number()"

    def __format__(self, spec):
        return f"<{spec}>"

    def __missing__(self, key):
        return None


@case(X)
def arithmetic_operators(x):
    n = Number(x)
    m = 2 + (n + n + 1) * 3 / 2 // 1 % 5
    p = abs(-+(3 - m)) ** 2
    n *= 3
    q = n @ torch.ones(4)
    return m, p, q, n & 1, 1 & n, n | 1, n ^ 1, n << 1, n >> 1, ~n, (2**n).x, divmod(n, 2)


@case(X)
def subtraction_falls_back(x):
    try:
        return Number(x) - 1
    except TypeError as error:
        return x, str(error)


@case(X)
def conversions_and_comparisons(x):
    n = Number(x)
    values = [int(n), float(n), complex(n), [7, 8, 9][n], round(n), round(n, 2), len(n), hash(n), n < 1, n > Number(x)]
    truth = "yes" if n else "no"
    return x, values, truth, n == 1, n != n, n <= 1, 1 in n, 2 in n, not n, n.log


@case(X)
def item_protocol(x):
    n = Number(x)
    n[1:2] = 3
    n["a", ...] = 4
    del n[0]
    return x, n[1], n[1:2, None], n.log, f"{n:>5}{n!r}", str(n), repr([n])


@case(X)
def objects_as_keys(x):
    table = {Number(x): 1}
    table[Number(x + 1)] = 2
    return x, len(table), table[Number(x)], Number(x) in {Number(x)}


@functools.total_ordering
class Ordered:
    def __init__(self, n):
        self.n = n

    def __eq__(self, o):
        return self.n == o.n

    def __lt__(self, o):
        return self.n < o.n


@case(X)
def total_ordering_and_sort(x):
    items = [Ordered(n) for n in (3, 1, 2)]
    best = max(items)
    return x * best.n, [i.n for i in sorted(items)], [i.n for i in sorted(items, reverse=True)], items[0] >= items[1]


class Shape(abc.ABC):
    @property
    @abc.abstractmethod
    def name(self): ...

    @abc.abstractmethod
    def area(self, x): ...

    @classmethod
    def make(cls):
        return cls()

    @staticmethod
    def static(x):
        return x + 1


class Square(Shape):
    name = "square"

    def area(self, x):
        return x * x


@case(X)
def abstract_classes(x):
    s = Square.make()
    try:
        Shape()
    except TypeError:
        return s.area(x), s.name, isinstance(s, Shape), Square.static(x), s.static(x), s.__class__.__name__


class Singleton:
    instance = None

    def __new__(cls, *args):
        self = super().__new__(cls)
        self.new_args = len(args)
        return self

    def __init__(self, x):
        self.x = x


class NotInit:
    def __new__(cls, x):
        return [x]

    def __init__(self, x):
        raise AssertionError


@case(X)
def own_new(x):
    return Singleton(x).new_args, Singleton(x).x, NotInit(x)


class Int(int):
    def __new__(cls, value, extra=None):
        self = super().__new__(cls, value)
        self.extra = extra
        return self

    def double(self):
        return self * 2


class Text(str):
    def shout(self):
        return self.upper() + "!"


class Real(float):
    pass


class MyList(list):
    def total(self):
        return sum(self)


class MyDict(dict):
    def __missing__(self, key):
        self[key] = value = key * 2
        return value

    def __getattr__(self, name):
        return self[name]


class MyTuple(tuple):
    __slots__ = ()

    @property
    def first(self):
        return self[0]


@case(X)
def subclasses_of_builtins(x):
    i = Int(3, extra=x)
    d = MyDict(a=x)
    return (
        x * i + i.double(), i.extra, Text("ab").shout(), x * Real(2.5), MyList([x, x]).total(), d["bb"], d.a, len(d),
        MyTuple((x, 2)).first, MyList([1, 2]), d,
    )  # fmt: skip


@case(Int(3, 2.0), X)
def subclass_of_int_as_argument(i, x):
    return x * i + i.double()


@case(Text("ab"), X)
def subclass_of_str_as_argument(t, x):
    return x * len(t.shout())


@case(X)
def class_made_inside(x):
    class Local:
        scale = 3

        def __init__(self, v):
            self.v = v

        def apply(self):
            return self.v * self.scale

    class Derived(Local):
        scale = 4

        def apply(self):
            return super().apply() + 1

    return Local(x).apply(), Derived(x).apply(), Derived.__name__, Derived.__mro__[1].__qualname__


@case(X)
def class_made_by_type(x):
    local = type("Local", (Root,), {"twice": lambda self: self.x * 2})
    return local(x).twice(), local.__name__


@case(X)
def class_made_inside_with_metaclass_and_decorator(x):
    def mark(cls):
        cls.marked = True
        return cls

    @mark
    class Local(metaclass=Meta):
        field = Typed()

        def __init__(self, v):
            self.field = v

    local = Local(x)
    return local.field, local.tag, Local.marked


@case(X)
def exception_made_inside(x):
    class Stop(ValueError):
        def __init__(self, value):
            super().__init__("stop")
            self.value = value

    try:
        raise Stop(x + 1)
    except Stop as stop:
        return stop.value, str(stop)


@case(X)
def class_attributes_written(x):
    class Local:
        count = 0

        def __init__(self):
            Local.count += 1
            type(self).last = self

    Local(), Local()
    del Local.last
    return x * Local.count, hasattr(Local, "last")


@case(X)
def introspection(x):
    d = Described(x)
    return (
        x, type(d) is Described, d.__class__, type(d).__name__, d.__module__ == Described.__module__,
        vars(d).keys() == {"_field"},
        "prop" in dir(Described), Described.__bases__, Described.__doc__, type(Described),
        Described.__dict__["field"].name,
    )  # fmt: skip


@case(X)
def identity_and_equality_of_objects(x):
    a, b = Root(x), Root(x)
    return x, a is b, a == b, a != b, a == a, a in [b, a], [b, a].index(a), {a: 1}.get(b), hash(a) == hash(a)


@case(X)
def dynamic_methods(x):
    import types

    root = Root(x)
    root.extra = types.MethodType(lambda self, n: self.x * n, root)
    root.run = lambda: "own"
    return root.extra(2), root.run()


@case(X)
def object_with_class_changed(x):
    root = Root(x)
    root.__class__ = Left
    return root.run()


@case(X)
def attributes_by_name(x):
    root = Root(x)
    for i, name in enumerate("abc"):
        setattr(root, name, x + i)
    delattr(root, "b")
    root.__dict__["d"] = 5
    root.__dict__.update(e=6)
    return [getattr(root, name, None) for name in "abcde"], sorted(vars(root))


@pytest.mark.parametrize(*case.table)
def test_objects(function, args, expectations):
    check(function, *args, **expectations)
