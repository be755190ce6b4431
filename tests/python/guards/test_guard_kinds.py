"""For each guard kind: a change of just that thing is seen (a new recording with eager's result), and a change of
something unrelated is not (the cache is hit)."""

import builtins
import copy
from types import SimpleNamespace

import pytest
import torch
from framejit_testing import assert_same, counting, vector
from torch import nn

import framejit

X = vector(4, 6, seed=1)
GLOBAL_NUMBER = 3
GLOBAL_UNRELATED = 1
GLOBAL_TENSOR = vector(6, seed=2)


class Scenario:
    """A function with the world it reads. `relevant` and `unrelated` change the world; `call(f)` calls it."""

    def __init__(self, function, arguments=lambda: (X,), relevant=None, unrelated=None, undo=None, kwargs=None):
        self.function = function
        self.arguments = arguments
        self.kwargs = kwargs or (lambda: {})
        self.relevant = relevant
        self.unrelated = unrelated or (lambda: None)
        self.undo = undo or (lambda: None)

    def call(self, function):
        return function(*self.arguments(), **self.kwargs())


SCENARIOS = {}


def scenario(make):
    SCENARIOS[make.__name__] = make
    return make


def of_argument(function, before, after, unrelated):
    """A scenario in which another argument is passed."""
    state = {"args": before}
    return Scenario(
        function,
        lambda: state["args"],
        relevant=lambda: state.update(args=after),
        unrelated=lambda: state.update(args=unrelated),
    )


@scenario
def class_of_super():
    """super() reads the class out of its method's closure."""

    class First:
        def scale(self, x):
            return x * 2

    class Second(First):
        def scale(self, x):
            return x * 3

    class Third(Second):
        def scale(self, x):
            bound = super()
            return bound.scale(x) + super().scale(x)

    cell = Third.scale.__closure__[0]

    def change():
        cell.cell_contents = Second

    return Scenario(lambda x, o: o.scale(x), lambda third=Third(): (X, third), relevant=change)


@scenario
def argument_type():
    return of_argument(lambda x, n: x * n, (X, 2), (X, 2.0), (X + 1, 2))


@scenario
def argument_bool_is_not_int():
    return of_argument(lambda x, n: x * 2 if n is True else x * 3, (X, 1), (X, True), (X + 1, 1))


@scenario
def argument_value():
    return of_argument(lambda x, n: x * n, (X, 2), (X, 5), (X + 1, 2))


@scenario
def argument_none():
    return of_argument(lambda x, m: x if m is None else x * m, (X, None), (X, X), (X + 1, None))


@scenario
def argument_string():
    return of_argument(lambda x, name: getattr(torch, name)(x), (X, "sin"), (X, "cos"), (X + 1, "".join(["s", "in"])))


@scenario
def tensor_or_parameter():
    return of_argument(lambda x: (x.detach() + 1, isinstance(x, nn.Parameter)), (X,), (nn.Parameter(X),), (X + 1,))


@scenario
def dtype():
    return of_argument(lambda x: x * 2, (X,), (X.double(),), (X + 1,))


@scenario
def shape():
    return of_argument(lambda x: x * x.shape[0], (X,), (X[:3].clone(),), (X + 1,))


@scenario
def rank():
    return of_argument(lambda x: x.sum(-1), (X,), (X[None],), (X + 1,))


@scenario
def stride():
    square = vector(4, 4, seed=3)
    return of_argument(lambda x: (x.is_contiguous(), x * 2), (square,), (square.t(),), (square + 1,))


@scenario
def requires_grad():
    return of_argument(lambda x: x * 2, (X,), (X.clone().requires_grad_(),), (X + 1,))


@scenario
def same_tensor_twice():
    return of_argument(lambda x, y: (x + y, x is y), (X, X), (X, X.clone()), (lambda t: (t, t))(X + 1))


@scenario
def different_tensors_become_one():
    return of_argument(lambda x, y: (x + y, x is y), (X, X.clone()), (X, X), (X + 1, X + 2))


@scenario
def overlapping_arguments():
    base = vector(10, seed=4)

    def f(x, y):
        x.mul_(2)
        return y + 1

    state = {"overlap": False}

    def arguments():
        memory = base.clone()
        return (memory[:5], memory[3:8]) if state["overlap"] else (memory[:5].clone(), memory[3:8].clone())

    return Scenario(f, arguments, relevant=lambda: state.update(overlap=True))


@scenario
def keyword_passed():
    state = {}
    return Scenario(lambda x, n=2: x * n, kwargs=lambda: dict(state), relevant=lambda: state.update(n=7))


@scenario
def more_star_arguments():
    return of_argument(lambda *t: sum(t), (X, X + 1), (X, X + 1, X + 2), (X + 3, X + 4))


@scenario
def global_value():
    def change():
        global GLOBAL_NUMBER
        GLOBAL_NUMBER = 11

    def unrelated():
        global GLOBAL_UNRELATED
        GLOBAL_UNRELATED += 1

    def undo():
        global GLOBAL_NUMBER
        GLOBAL_NUMBER = 3

    return Scenario(lambda x: x * GLOBAL_NUMBER, relevant=change, unrelated=unrelated, undo=undo)


@scenario
def global_tensor_of_other_shape():
    original = GLOBAL_TENSOR

    def put(value):
        global GLOBAL_TENSOR
        GLOBAL_TENSOR = value

    return Scenario(
        lambda x: x * GLOBAL_TENSOR,
        relevant=lambda: put(vector(4, 1, seed=9)),
        unrelated=lambda: put(vector(6, seed=8)),
        undo=lambda: put(original),
    )


def helper(x):
    return x + 1


def other_helper(x):
    return x - 1


@scenario
def global_function():
    original = helper

    def put(value):
        global helper
        helper = value

    return Scenario(lambda x: helper(x) * 2, relevant=lambda: put(other_helper), undo=lambda: put(original))


@scenario
def code_of_function():
    original = helper.__code__
    return Scenario(
        lambda x: helper(x) * 2,
        relevant=lambda: setattr(helper, "__code__", other_helper.__code__),
        unrelated=lambda: setattr(helper, "note", 1),
        undo=lambda: setattr(helper, "__code__", original),
    )


@scenario
def builtin_shadowed_by_global():
    namespace = globals()
    return Scenario(
        lambda x: x * len([1, 2]),
        relevant=lambda: namespace.update(len=lambda items: 9),
        undo=lambda: namespace.pop("len", None),
    )


@scenario
def builtin_replaced():
    original = builtins.abs
    return Scenario(
        lambda x: x * abs(-2),
        relevant=lambda: setattr(builtins, "abs", lambda n: 5),
        undo=lambda: setattr(builtins, "abs", original),
    )


@scenario
def closure_cell():
    scale = 2
    other = 1

    def f(x):
        return x * scale

    def change():
        nonlocal scale
        scale = 6

    def unrelated():
        nonlocal other
        other += 1

    return Scenario(f, relevant=change, unrelated=unrelated)


@scenario
def module_attribute():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = 2
            self.note = "a"

        def forward(self, x):
            return x * self.scale

    model = Model()
    return Scenario(
        model.forward,
        relevant=lambda: setattr(model, "scale", 5),
        unrelated=lambda: setattr(model, "note", "b"),
    )


@scenario
def submodule_replaced():
    model = nn.Sequential(nn.ReLU(), nn.Identity())
    return Scenario(lambda x: model(x), relevant=lambda: model.__setitem__(1, nn.Tanh()))


@scenario
def parameter_replaced_by_none():
    linear = nn.Linear(6, 3)
    return Scenario(
        lambda x: linear(x),
        relevant=lambda: setattr(linear, "bias", None),
        unrelated=lambda: linear.bias.data.add_(1),
    )


@scenario
def training():
    model = nn.Sequential(nn.Dropout(0.0), nn.BatchNorm1d(6)).eval()
    return Scenario(lambda x: model(x), relevant=lambda: model.train())


@scenario
def hook_registered():
    model = nn.Linear(6, 6)
    return Scenario(lambda x: model(x), relevant=lambda: model.register_forward_hook(lambda m, args, out: out * 2))


@scenario
def object_attribute():
    thing = SimpleNamespace(a=1, b=2)
    return Scenario(
        lambda x: x * thing.a, relevant=lambda: setattr(thing, "a", 4), unrelated=lambda: setattr(thing, "b", 9)
    )


@scenario
def attribute_appears():
    thing = SimpleNamespace(a=1)
    return Scenario(
        lambda x: x * getattr(thing, "extra", 2),
        relevant=lambda: setattr(thing, "extra", 4),
        unrelated=lambda: setattr(thing, "another", 9),
    )


@scenario
def class_attribute():
    class Thing:
        scale = 2
        unrelated = 1

    thing = Thing()
    return Scenario(
        lambda x: x * thing.scale,
        relevant=lambda: setattr(Thing, "scale", 8),
        unrelated=lambda: setattr(thing, "own", 3),
    )


@scenario
def method_replaced_on_class():
    class Thing:
        def apply(self, x):
            return x * 2

    thing = Thing()
    return Scenario(lambda x: thing.apply(x), relevant=lambda: setattr(Thing, "apply", lambda self, x: x * 7))


@scenario
def method_shadowed_on_instance():
    class Thing:
        def apply(self, x):
            return x * 2

    thing = Thing()
    return Scenario(lambda x: thing.apply(x), relevant=lambda: setattr(thing, "apply", lambda x: x * 7))


@scenario
def class_of_object():
    class First:
        def apply(self, x):
            return x + 1

    class Second:
        def apply(self, x):
            return x - 1

    thing = First()
    return Scenario(lambda x: thing.apply(x), relevant=lambda: setattr(thing, "__class__", Second))


@scenario
def list_length():
    items = [1, 2]
    return Scenario(lambda x: x * len(items), relevant=lambda: items.append(3))


@scenario
def list_element():
    items = [1, 2]
    return Scenario(lambda x: x * items[0], relevant=lambda: items.__setitem__(0, 7))


@scenario
def list_iterated():
    items = [1, 2]
    return Scenario(lambda x: [x * i for i in items], relevant=lambda: items.append(5))


@scenario
def list_of_tensors():
    items = [X, X + 1]
    return Scenario(
        lambda x: x + items[1],
        relevant=lambda: items.__setitem__(1, X.double()),
        unrelated=lambda: items.__setitem__(1, X + 5),
    )


@scenario
def dict_value():
    table = {"a": 1, "b": 2}
    return Scenario(lambda x: x * table["a"], relevant=lambda: table.update(a=5), unrelated=lambda: table.update(b=9))


@scenario
def dict_key_appears():
    table = {"a": 1}
    return Scenario(lambda x: x * table.get("b", 2), relevant=lambda: table.update(b=5))


@scenario
def dict_key_removed():
    table = {"a": 1, "b": 2}
    return Scenario(lambda x: x * 2 if "b" in table else x, relevant=lambda: table.pop("b"))


@scenario
def dict_order():
    table = {"a": 1, "b": 2}
    return Scenario(
        lambda x: {k: x * v for k, v in table.items()},
        relevant=lambda: table.update(a=table.pop("a")),
    )


@scenario
def set_content():
    names = {1, 2}
    return Scenario(lambda x: x * 2 if 3 in names else x, relevant=lambda: names.add(3))


@scenario
def tuple_attribute():
    thing = SimpleNamespace(sizes=(2, 3))
    return Scenario(lambda x: x * thing.sizes[1], relevant=lambda: setattr(thing, "sizes", (2, 9)))


@scenario
def default_argument():
    def f(x, n=2):
        return x * n

    return Scenario(f, relevant=lambda: setattr(f, "__defaults__", (6,)))


@scenario
def keyword_default_argument():
    def f(x, *, n=2):
        return x * n

    return Scenario(f, relevant=lambda: f.__kwdefaults__.update(n=6))


@scenario
def default_argument_of_callee():
    def callee(x, n=2):
        return x * n

    return Scenario(lambda x: callee(x), relevant=lambda: setattr(callee, "__defaults__", (6,)))


@scenario
def bound_method_of_another_object():
    class Thing:
        def __init__(self, n):
            self.n = n

        def apply(self, x):
            return x * self.n

    return of_argument(lambda f, x: f(x), (Thing(2).apply, X), (Thing(3).apply, X), (Thing(2).apply, X + 1))


@pytest.mark.parametrize("name", SCENARIOS)
def test_guard(name):
    s = SCENARIOS[name]()
    try:
        compiled, backend = counting(s.function)
        with torch.no_grad():
            before = copy.deepcopy(s.call(s.function))
            assert_same(s.call(compiled), before)
            assert backend.count == 1
            s.unrelated()
            assert_same(s.call(compiled), s.call(s.function), "after an unrelated change")
            assert backend.count == 1, "an unrelated change recorded again"
            s.relevant()
            expected = s.call(s.function)
            assert_same(s.call(compiled), expected, "after the change")
            assert backend.count == 2, "the change was not seen"
            assert_same(s.call(compiled), expected, "on the next call")
            assert backend.count == 2, "the new recording is not used again"
    finally:
        s.undo()


def test_device():
    """The only other device of every machine is meta, whose tensors are not captured: the new recording breaks."""
    compiled, backend = counting(lambda x: x * 2)
    with torch.no_grad():
        compiled(X)
        assert compiled(X + 1) is not None and len(framejit._C.traces(compiled)) == 1
        result = compiled(X.to("meta"))
    assert result.device.type == "meta" and result.shape == X.shape
    assert backend.count == 1 and len(framejit._C.traces(compiled)) == 2
    with torch.no_grad():
        assert_same(compiled(X), X * 2)
    assert backend.count == 1 and len(framejit._C.traces(compiled)) == 2


def test_requires_grad_with_grad_enabled():
    compiled, backend = counting(lambda x: x * 2)
    assert compiled(X).requires_grad is False
    out = compiled(X.clone().requires_grad_())
    assert out.requires_grad and backend.count == 2
    assert compiled(X + 1).requires_grad is False and backend.count == 2


STATES = {
    "grad_mode": (lambda: torch.no_grad(), lambda x: (x * 2, torch.is_grad_enabled())),
    "inference_mode": (lambda: torch.inference_mode(), lambda x: (x * 2, torch.is_inference_mode_enabled())),
    "autocast": (lambda: torch.autocast("cpu", torch.bfloat16), lambda x: x @ x.t()),
}


@pytest.mark.parametrize("name", STATES)
def test_torch_state(name):
    context, function = STATES[name]
    compiled, backend = counting(function)
    for _ in range(2):
        assert_same(compiled(X), function(X))
        assert backend.count == 1
    for _ in range(2):
        with context():
            assert_same(compiled(X), function(X))
        assert backend.count == 2, f"{name} was not guarded"
    assert_same(compiled(X), function(X))
    assert backend.count == 2


def test_default_dtype():
    compiled, backend = counting(lambda x: x + torch.ones(6))
    assert compiled(X).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    assert compiled(X).dtype == torch.float64
    assert backend.count == 2


def test_recording_limit_then_interpreter_with_one_warning(caplog):
    """After 8 recordings the frame runs in the interpreter, still right, and one warning says so. (Numbers that differ
    each time are left to the interpreter alone: entry/test_recompiles.py.)"""
    compiled, backend = counting(lambda x, items: x * len(items))
    with caplog.at_level("WARNING", logger="framejit"):
        for n in range(12):
            assert torch.equal(compiled(X, [0] * n), X * n)
    assert backend.count == 8
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1
    assert torch.equal(compiled(X, [0] * 3), X * 3), "recordings made before the limit stay in use"
    assert backend.count == 8


def test_closures_of_one_code_object_do_not_share_results():
    def make(n):
        return lambda x: x * n

    pairs = [(make(n), n) for n in (2, 3)]
    compiled = [(counting(f)[0], n) for f, n in pairs]
    for _ in range(2):
        for f, n in compiled:
            assert torch.equal(f(X), X * n)


def test_class_of_a_tensor():
    """Two tensors that are alike in all but their classes: what isinstance says, and __torch_function__."""
    seen = []

    class Tagged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(function.__name__)
            return super().__torch_function__(function, types, args, kwargs or {})

    def f(x):
        return x + 1, isinstance(x, torch.nn.Parameter)

    compiled = framejit.compile(f)
    for tensor in (X, torch.nn.Parameter(X, requires_grad=False), X, X.as_subclass(Tagged), X):
        seen.clear()
        expected, in_eager = f(tensor), list(seen)
        seen.clear()
        actual = compiled(tensor)
        assert type(actual[0]) is type(expected[0]) and actual[1] == expected[1] and seen == in_eager


def test_tensors_that_cannot_be_recorded_do_not_stand_for_others():
    """What breaks for a sparse tensor breaks for that alone: the recording of the others is used again."""
    compiled, backend = counting(lambda x: x * 2)
    for tensor in (X.to_sparse(), X, X.to("meta"), X):
        compiled(tensor)
    captured = [trace for trace in framejit._C.traces(compiled) if trace["captured"]]
    assert backend.count == 1 and [trace["hits"] for trace in captured] == [2]


class Registry:
    """Has methods that are called by the class's name, and counts."""

    calls = 0

    @staticmethod
    def scale(x):
        return x * 2

    @classmethod
    def shift(cls, x):
        return x + 1

    def plain(x):
        return x - 3


class Inheriting(Registry):
    pass


REPLACEMENTS = {
    "scale": staticmethod(lambda x: x * 5),
    "shift": classmethod(lambda cls, x: x + 7),
    "plain": lambda x: x - 9,
}


@pytest.mark.parametrize("owner", [Registry, Inheriting])
@pytest.mark.parametrize("name", list(REPLACEMENTS))
def test_a_method_read_off_a_class_does_not_guard_its_counters(name, owner, monkeypatch):
    """Replacing the method is seen, in the class or in what inherits from it; counting the class's calls is nothing."""
    compiled, backend = counting(lambda x: getattr(owner, name)(x))
    for calls in range(3):
        Registry.calls = calls
        owner.latest = calls
        assert torch.equal(compiled(X), getattr(owner, name)(X))
    assert backend.count == 1
    monkeypatch.setattr(Registry, name, REPLACEMENTS[name])
    assert torch.equal(compiled(X), getattr(owner, name)(X))
    monkeypatch.setattr(Inheriting, name, staticmethod(lambda x: x / 8), raising=False)
    assert torch.equal(compiled(X), getattr(owner, name)(X))
    assert backend.count == (2 if owner is Registry else 3)


def test_a_method_that_is_taken_away_is_seen(monkeypatch):
    compiled, _ = counting(lambda x: Inheriting.scale(x) if hasattr(Registry, "calls") else x)
    assert torch.equal(compiled(X), X * 2)
    monkeypatch.delattr(Registry, "scale")
    with pytest.raises(AttributeError, match="scale"):
        compiled(X)


def test_modules_are_made_beside_torch_compile():
    """torch.compile counts its calls in a class that each module's construction is then noted in."""
    layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def f(x):
        for layer in layers[:2]:
            x = layer(x)
        return x

    other = torch.compile(nn.Linear(6, 6), backend="eager")
    other(X)
    compiled, backend = counting(f)
    for _ in range(3):
        torch.testing.assert_close(compiled(X), f(X))
        other(X)
    assert backend.count == 1
