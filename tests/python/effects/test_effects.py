"""Side effects: writes that the function makes to objects that were there before happen once per call, in order, on the
user's own objects; a recording that is thrown away leaves no trace."""

import collections
from types import SimpleNamespace

import pytest
import torch
from framejit_testing import assert_same, counting, vector
from torch import nn

import framejit

X = vector(seed=1)
COUNTER = 0
LOG = []
LATEST = None


class Watched:
    """Remembers each attribute write, in order."""

    def __init__(self):
        object.__setattr__(self, "writes", [])

    def __setattr__(self, name, value):
        self.writes.append((name, value))
        object.__setattr__(self, name, value)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.calls = 0
        self.last = None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        self.steps += 1
        self.last = self.linear(x)
        return self.last * 2


def attribute_write(world, x):
    world.thing.value = x * 2
    return x + 1


def attribute_created(world, x):
    world.thing.fresh = 5
    return x + world.thing.fresh


def attribute_deleted_and_made(world, x):
    world.thing.temporary = 1
    del world.thing.temporary
    return x + hasattr(world.thing, "temporary")


def read_after_write(world, x):
    world.thing.value = x * 3
    return world.thing.value + 1


def list_append(world, x):
    world.items.append(x * 2)
    return x + len(world.items)


def list_item(world, x):
    world.items[0] = "first"
    return x + 1


def list_of_operations(world, x):
    world.items.append(1)
    world.items.extend([2, 3])
    world.items.insert(0, 4)
    del world.items[1]
    world.items.reverse()
    return x + world.items.pop()


def dict_write(world, x):
    world.table["new"] = x + 1
    world.table["a"] = 7
    return x * world.table["a"]


def dict_pop_and_update(world, x):
    world.table.pop("a")
    world.table.update(b=3, c=x)
    return x * len(world.table)


def dict_set_default(world, x):
    world.table.setdefault("seen", []).append(x)
    return x * 2


def ordered_dict_and_set(world, x):
    world.ordered["z"] = 1
    world.names.add("new")
    return x + len(world.names)


def global_write(world, x):
    global LATEST
    LATEST = x * 2
    return x + 1


def global_list(world, x):
    LOG.append("called")
    return x * 2


def nested_objects(world, x):
    world.thing.child.items.append({"x": x})
    return x + 1


def object_kept_and_returned(world, x):
    made = [x + 1]
    world.thing.value = made
    return made


def tensor_in_place(world, x):
    world.tensor.add_(x)
    return world.tensor * 2


def tensor_kept_by_view(world, x):
    world.tensor[1:].mul_(2)
    return x + world.tensor


def argument_list(world, x):
    world.argument.append(x + 1)
    return x


EFFECTS = [
    attribute_write,
    attribute_created,
    attribute_deleted_and_made,
    read_after_write,
    list_append,
    list_item,
    list_of_operations,
    dict_write,
    dict_pop_and_update,
    dict_set_default,
    ordered_dict_and_set,
    global_list,
    nested_objects,
    object_kept_and_returned,
    tensor_in_place,
    tensor_kept_by_view,
    argument_list,
]


def make_world():
    return SimpleNamespace(
        thing=SimpleNamespace(value=0, child=SimpleNamespace(items=[])),
        items=["zero"],
        table={"a": 1},
        ordered=collections.OrderedDict(y=0),
        names={"old"},
        tensor=torch.arange(4.0),
        argument=[],
        log=LOG,
    )


@pytest.mark.parametrize("function", EFFECTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("backend", ["counting", "native"])
def test_effects(function, backend):
    """The world after three calls equals the world after three eager calls; containers keep their identity."""
    worlds = []
    for compiled in (False, True):
        LOG.clear()
        world = make_world()
        own = {name: value for name, value in vars(world).items()}
        # The world is outside (a closure) rather than an argument.
        target = (lambda w: lambda x: function(w, x))(world)
        if compiled:
            target = counting(target)[0] if backend == "counting" else framejit.compile(target)
        results = []
        with torch.no_grad():
            for call in range(3):
                if function is dict_pop_and_update:
                    world.table["a"] = 1
                results.append(target(X + call))
        assert all(getattr(world, name) is value for name, value in own.items())
        world.log = list(LOG)
        worlds.append((world, results))
    (expected_world, expected), (actual_world, actual) = worlds
    assert_same(actual, expected)
    assert_same(vars(actual_world), vars(expected_world), "the world")


def test_global_write_happens_once_per_call():
    global LATEST, COUNTER

    def f(x):
        global COUNTER, LATEST
        COUNTER += 1
        LATEST = x * COUNTER
        return LATEST + 1

    COUNTER = 0
    compiled, _ = counting(f)
    for call in range(1, 4):
        out = compiled(X)
        assert COUNTER == call
        assert torch.equal(LATEST, X * call)
        assert torch.equal(out, X * call + 1)


def test_writes_are_in_order():
    watched = Watched()

    def f(x):
        watched.a = 1
        watched.b = x + 1
        watched.a = 2
        return x * 2

    compiled, _ = counting(f)
    for _ in range(2):
        watched.writes.clear()
        compiled(X)
        assert [name for name, _ in watched.writes] == ["a", "b", "a"]
        assert watched.writes[0][1] == 1 and watched.writes[2][1] == 2


def test_module_state():
    torch.manual_seed(0)
    eager = Model()
    torch.manual_seed(0)
    model = Model()
    compiled = framejit.compile(model)
    with torch.no_grad():
        for call in range(1, 4):
            x = vector(4, seed=call)
            assert_same(compiled(x), eager(x))
            assert model.calls == eager.calls == call
            assert model.steps.item() == call
            assert_same(model.last, eager.last)


def test_written_result_is_the_returned_tensor():
    holder = SimpleNamespace(value=None)

    def f(x):
        holder.value = x * 2
        return holder.value

    compiled, _ = counting(f)
    for _ in range(2):
        assert compiled(X) is holder.value


def test_thrown_away_recording_leaves_no_trace():
    """The function writes, then does what cannot be recorded: each write happens once, whoever makes it."""
    items, table, thing = [], {}, SimpleNamespace(n=0)
    tensor = torch.zeros(4)

    def f(x):
        items.append(len(items))
        table[len(table)] = 1
        thing.n += 1
        tensor.add_(1)
        framejit.graph_break()
        items.append("after")
        return x + thing.n

    compiled, backend = counting(f)
    for call in range(1, 4):
        assert torch.equal(compiled(X), X + call)
        assert len(items) == 2 * call and len(table) == call and thing.n == call
        assert torch.equal(tensor, torch.full((4,), float(call)))
    assert backend.count > 0


def test_failing_backend_leaves_no_trace():
    """A backend that raises does not change the result, and the effects still happen once."""
    items = []

    def f(x):
        items.append(1)
        return x + 1

    def broken(graph_module, example_inputs):
        raise RuntimeError("no compiler today")

    compiled = framejit.compile(f, backend=broken)
    for call in range(1, 3):
        assert torch.equal(compiled(X), X + 1)
        assert len(items) == call


def test_exception_keeps_the_effects_before_it():
    items = []

    def f(x, fail):
        items.append("before")
        y = x + 1
        if fail:
            raise ValueError("stop")
        items.append("after")
        return y

    compiled, _ = counting(f)
    for _ in range(2):
        items.clear()
        with pytest.raises(ValueError, match="^stop$"):
            compiled(X, True)
        assert items == ["before"]
    items.clear()
    assert torch.equal(compiled(X, False), X + 1)
    assert items == ["before", "after"]


@pytest.mark.cpu
def test_torch_error_in_a_warm_call_has_no_effect_after_it():
    """An operator that raises only for some values of its input: eager's exception, and only eager's writes."""
    items = []
    table = torch.randn(5, 3)

    def f(ids):
        items.append("before")
        y = torch.nn.functional.embedding(ids, table)
        items.append("after")
        return y

    compiled, _ = counting(f)
    good, bad = torch.tensor([1, 2]), torch.tensor([1, 99])
    assert torch.equal(compiled(good), table[good])
    items.clear()
    with pytest.raises(IndexError) as actual:
        compiled(bad)
    assert items == ["before"]
    with pytest.raises(IndexError) as expected:
        f(bad)
    assert str(actual.value) == str(expected.value)


@pytest.mark.cpu
@pytest.mark.parametrize("native", [False, True], ids=["fx", "native"])
@pytest.mark.parametrize("overlap", [False, True], ids=["apart", "overlapping"])
def test_torch_error_after_a_write_happens_once(native, overlap):
    """The write before the failing operator is eager's: once, whatever the compiled graph had done by then."""
    table = torch.randn(5, 3)

    def f(x, y, ids):
        x.add_(1)
        return torch.nn.functional.embedding(ids, table), x + y

    def arguments(ids):
        memory = torch.arange(6.0)
        x = memory[:4]
        return memory, x, memory[2:] if overlap else torch.ones(4), torch.tensor(ids)

    compiled = framejit.compile(f) if native else counting(f)[0]
    with torch.no_grad():
        for _ in range(2):
            memory, *args = arguments([1, 2])
            twin, *twin_args = arguments([1, 2])
            assert_same(compiled(*args), f(*twin_args))
            assert torch.equal(memory, twin)
        memory, *args = arguments([1, 99])
        with pytest.raises(IndexError):
            compiled(*args)
    assert torch.equal(memory, torch.tensor([1.0, 2.0, 3.0, 4.0, 4.0, 5.0]))


def test_random_numbers_follow_the_generator():
    def f(x):
        return x + torch.rand(4), torch.nn.functional.dropout(x, 0.5, True)

    for compiled in (counting(f)[0], framejit.compile(f)):
        torch.manual_seed(5)
        expected = [f(X) for _ in range(3)]
        after = torch.rand(1)
        torch.manual_seed(5)
        actual = [compiled(X) for _ in range(3)]
        assert_same(actual, expected)
        assert torch.equal(torch.rand(1), after), "the generator is left in another state"


def test_grad_mode_set_by_the_function_stays_set():
    def f(x):
        torch.set_grad_enabled(False)
        return x + 1

    compiled, _ = counting(f)
    for _ in range(2):
        with torch.enable_grad():
            compiled(X)
            assert torch.is_grad_enabled() is False


LAYOUTS = {
    "transpose_": lambda x: x.transpose_(0, 1),
    "unsqueeze_": lambda x: x.unsqueeze_(0) * 2,
    "twice": lambda x: x.unsqueeze_(0).squeeze_(0) + 1,
    "and a write": lambda x: x.t_().mul_(2),
    "nothing else": lambda x: x.t_() is None,
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("backend", ["interp", "cpu"])
def test_versions_of_inputs_whose_layout_is_changed(name, backend):
    compiled = framejit.compile(LAYOUTS[name], backend=backend)
    for rows in (2, 3, 4, 5):
        inputs = torch.ones(rows, 3), torch.ones(rows, 3)
        assert_same(compiled(inputs[0]), LAYOUTS[name](inputs[1]))
        assert_same(*inputs)
        assert inputs[0]._version == inputs[1]._version


def test_clearing_an_ordered_dict_under_an_iteration_raises_what_it_raises_in_eager():
    """An iterator tells an OrderedDict that was cleared from one whose items were deleted or put back."""

    def clears(x, items, again):
        seen = []
        for value in items.values():
            seen.append(x * value)
            x.sum().item()  # a break: the iteration goes on in the interpreter
            items.clear()
            if again:
                items["w"] = 3
        return seen

    for again in (False, True):
        texts = []
        for function in (clears, framejit.compile(clears)):
            items = collections.OrderedDict(x=1, y=2)
            with pytest.raises(RuntimeError) as raised:
                function(X, items, again)
            texts.append(str(raised.value))
            assert list(items.items()) == [("w", 3)] * again
        assert texts[0] == texts[1]
