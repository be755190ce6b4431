"""Functions that nobody decorated: captured behind breaks and in regions of framejit.enable(), and nowhere else."""

import sys
import threading
import traceback

import pytest
import torch
from framejit_testing import CountingBackend, assert_same, vector

import framejit

X = vector(seed=3)
Y = vector(seed=4)


@framejit.disable
def outside():
    pass


@pytest.fixture(autouse=True)
def disarmed():
    yield
    framejit.enable(False)


def compiled_calls():
    """A backend, and the list of the graphs that it was given."""
    backend = CountingBackend()
    return backend, backend.modules


def scale(x, factor):
    return (x * factor).sin() + 1


def total(x):
    return scale(x, 2.0).sum()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(self.linear(x)) + 1


# --- regions --------------------------------------------------------------------------------------------------------


def test_a_region_captures_calls_that_are_given_tensors():
    backend, graphs = compiled_calls()
    net = Net()
    with torch.no_grad():
        expected = net(X), scale(X, 3.0), total(Y)
        with framejit.enable(backend=backend):
            first = net(X), scale(X, 3.0), total(Y)
            second = net(X), scale(X, 3.0), total(Y)
        count = len(graphs)
        net(X)
    assert count == 3 == len(graphs)
    for outcome in (first, second):
        for got, want in zip(outcome, expected, strict=True):
            assert torch.equal(got, want)


def test_what_is_captured_in_one_region_is_found_in_the_next():
    backend, graphs = compiled_calls()
    with torch.no_grad():
        for _ in range(3):
            with framejit.enable(backend=backend):
                scale(X, 3.0)
    assert len(graphs) == 1


def test_a_region_ends_with_its_block_and_nests():
    backend, graphs = compiled_calls()
    other, others = compiled_calls()
    with torch.no_grad(), framejit.enable(backend=backend):
        scale(X, 1.5)
        with framejit.enable(backend=other):
            scale(X, 1.5)
        with framejit.enable(False):
            scale(X, 2.5)
        total(X)
    total(X)
    assert (len(graphs), len(others)) == (2, 1)


def test_enable_is_a_function_too():
    backend, graphs = compiled_calls()
    with torch.no_grad():
        framejit.enable(backend=backend)
        scale(X, 1.25)
        framejit.enable(False)
        scale(X, 1.75)
    assert len(graphs) == 1


def begin(backend):
    framejit.enable(backend=backend)


def test_regions_begin_and_end_in_functions_that_run_unarmed():
    backend, graphs = compiled_calls()
    with torch.no_grad():
        for _ in range(40):  # by then, begin and Enable's own methods are known to capture nothing
            begin(backend)
            assert torch.equal(scale(X, 1.5), (X * 1.5).sin() + 1)
            framejit.enable(False)
            assert torch.equal(total(X), scale(X, 2.0).sum())
            with framejit.enable(backend=backend), framejit.enable(False):
                scale(X, 2.5)
            assert all(value > 0 for value in [1, 2, 3])
    assert len(graphs) == 1


def test_a_wrapper_of_many_functions_is_not_judged_by_some_of_them():
    backend, graphs = compiled_calls()
    plain = torch._disable_dynamo(lambda numbers: sum(numbers))
    computes = torch._disable_dynamo(lambda x: scale(x, 0.5))  # the same wrapper's code
    with torch.no_grad(), framejit.enable(backend=backend):
        for _ in range(40):
            assert plain([1, 2]) == 3
        for _ in range(2):
            assert torch.equal(computes(X), (X * 0.5).sin() + 1)
    assert len(graphs) == 1


def test_another_thread_is_not_armed():
    backend, graphs = compiled_calls()
    with torch.no_grad(), framejit.enable(backend=backend):
        thread = threading.Thread(target=lambda: scale(X, 1.125))
        thread.start()
        thread.join()
    assert graphs == []


def test_a_thread_may_end_armed():
    backend, graphs = compiled_calls()

    def work():
        framejit.enable(backend=backend)
        with torch.no_grad():
            scale(X, 1.125)

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(graphs) == 1


def test_functions_that_share_their_code_have_their_own_closures():
    def adder(amount):
        def add(x):
            return x + amount

        return add

    backend, graphs = compiled_calls()
    with torch.no_grad(), framejit.enable(backend=backend):
        for amount in (Y, Y * 2, Y):
            assert torch.equal(adder(amount)(X), X + amount)
    assert len(graphs) == 1  # the amount is an input


def test_arguments_of_every_kind():
    def gather(first, /, second, *rest, scale, **named):
        return first + second * scale + sum(rest) + sum(named.values())

    with torch.no_grad():
        expected = gather(X, 2.0, Y, X, scale=3.0, other=Y)
        with framejit.enable():
            for _ in range(2):
                assert torch.equal(gather(X, 2.0, Y, X, scale=3.0, other=Y), expected)
            with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'scale'"):
                gather(X, 2.0)


def test_tensors_in_containers_count():
    def stack(tensors, options):
        return torch.stack(tensors) * options["scale"]

    backend, graphs = compiled_calls()
    with torch.no_grad(), framejit.enable(backend=backend):
        assert torch.equal(stack([X, Y], {"scale": 2}), torch.stack([X, Y]) * 2)
    assert len(graphs) == 1


def test_effects_of_an_undecorated_function_happen_once_a_call():
    log = []

    def record(x):
        log.append(x.shape)
        return x + 1

    with torch.no_grad(), framejit.enable():
        for _ in range(3):
            record(X)
    assert log == [X.shape] * 3


def test_breaks_in_an_undecorated_function_are_resumed():
    printed = []

    @framejit.disable
    def show(text):
        printed.append(text)

    def chatty(x):
        y = x.sin()
        show("between")
        return y.cos()

    backend, graphs = compiled_calls()
    with torch.no_grad(), framejit.enable(backend=backend):
        for _ in range(3):
            assert torch.equal(chatty(X), X.sin().cos())
    assert printed == ["between"] * 3
    assert len(graphs) == 2


@pytest.mark.parametrize("resumed", [False, True])
def test_exceptions_surface_as_in_eager(resumed):
    def fail(x):
        y = x.sin()
        if resumed:
            outside()
        return y.reshape(3, 5, 7)

    def call():
        return fail(X)

    def text():
        try:
            call()
        except RuntimeError as error:
            return traceback.format_exception(error)

    expected = text()
    with torch.no_grad(), framejit.enable():
        assert text() == expected
        assert text() == expected


def test_frames_see_their_callers():
    def caller_name(x):
        return sys._getframe(1).f_code.co_name, x + 1

    def outer():
        return caller_name(X)

    with torch.no_grad(), framejit.enable():
        for _ in range(2):
            assert outer()[0] == "outer"


def test_recursion_behaves_as_in_eager():
    def down(x, depth):
        outside()
        return x if depth == 0 else down(x + 1, depth - 1)

    limit = sys.getrecursionlimit()
    with torch.no_grad():
        expected = down(X, 300)
        with framejit.enable():
            assert torch.equal(down(X, 300), expected)
            with pytest.raises(RecursionError):
                down(X, 100_000)
    assert sys.getrecursionlimit() == limit


def test_generators_are_left_alone():
    def numbers(x):
        for i in range(3):
            yield x + i

    with torch.no_grad(), framejit.enable():
        values = list(numbers(X))
    assert all(torch.equal(value, X + i) for i, value in enumerate(values))


def test_traced_frames_are_left_alone():
    backend, graphs = compiled_calls()
    events = []

    def tracer(frame, event, arg):
        events.append((frame.f_code.co_name, event))
        return tracer

    def traced():
        events.clear()
        sys.settrace(tracer)
        try:
            total(X)
        finally:
            sys.settrace(None)
        return list(events)

    with torch.no_grad():
        expected = traced()
        with framejit.enable(backend=backend):
            assert traced() == expected
    assert graphs == []


def test_printing_a_tensor_captures_nothing():
    backend, graphs = compiled_calls()
    with torch.no_grad(), framejit.enable(backend=backend):
        text = f"{X} {Y.tolist()}"
    assert graphs == []
    assert text == f"{X} {Y.tolist()}"


def test_training_in_a_region_is_eager_training():
    def losses(net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        found = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = net(X).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    expected = losses(Net())
    with framejit.enable():
        assert losses(Net()) == pytest.approx(expected, rel=1e-6)


def test_hooks_and_custom_functions_of_autograd_run_as_they_are():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 2 + x * 0

    def gradient():
        x = X.clone().requires_grad_()
        y = Double.apply(x)
        y.register_hook(lambda grad: grad * 3)
        y.sum().backward()
        return x.grad

    expected = gradient()
    with framejit.enable():
        assert torch.equal(gradient(), expected)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="framejit.enable: mode: expected a bool, got int"):
        framejit.enable(1)
    with pytest.raises(TypeError, match="framejit.enable: backend: expected a name or a callable, got int"):
        framejit.enable(backend=3)
    with pytest.raises(ValueError, match="framejit.enable: options: unknown option 'x'"):
        framejit.enable(options={"x": 1})
    with pytest.raises(ValueError, match="nothing"):
        framejit.enable(backend="nothing")
    with torch.no_grad():
        scale(X, 1.0)


# --- behind breaks --------------------------------------------------------------------------------------------------


def test_a_callback_of_a_break_is_captured():
    backend, graphs = compiled_calls()
    seen = []

    @framejit.disable
    def begin():
        seen.append("begin")

    def helper(x):
        return x.sin() + 1

    def program(x, functions):
        y = x * 2
        begin()
        values = list(map(functions[0], [y, y + 1]))
        outside()
        return values[0] + values[1]

    with torch.no_grad():
        expected = program(X, [helper])
        fast = framejit.compile(program, backend=backend)
        for _ in range(3):
            assert torch.equal(fast(X, [helper]), expected)
    assert seen == ["begin"] * 4


def unknown(function, *args):
    """Calls in a way that no recording follows."""
    frame = sys._getframe()
    assert frame is not None
    return function(*args)


def test_functions_behind_what_stays_native_are_captured():
    def program(x):
        return unknown(total, x) + 1

    with torch.no_grad():
        explanation = framejit.explain(program)(X)
        assert_same(explanation.result, program(X))
        inner = [graph for graph in explanation.graphs if graph.is_inner]
        assert [graph.function for graph in inner] == ["total"]
        assert "graph of total, called behind a break," in str(explanation)
        assert_same(framejit.compile(program)(X), program(X))


def test_nothing_is_installed_outside():
    backend, graphs = compiled_calls()

    def program(x):
        return unknown(total, x) + 1

    with torch.no_grad():
        fast = framejit.compile(program, backend=backend)
        fast(X)
        count = len(graphs)
        assert count > 0
        fast(X)
        total(X)
        scale(X, 0.5)
    assert len(graphs) == count


def test_what_captures_nothing_runs_unarmed_and_is_tried_again():
    backend, graphs = compiled_calls()
    state = {"busy": False}

    def work():
        return scale(X, 0.75) if state["busy"] else Y

    def program(x):
        return unknown(work) + x

    with torch.no_grad():
        fast = framejit.compile(program, backend=backend)
        for _ in range(20):
            assert torch.equal(fast(X), Y + X)
        count = len(graphs)
        state["busy"] = True
        expected = program(X)
        assert torch.equal(fast(X), expected)
        assert len(graphs) == count  # by then it runs without the hook
        for _ in range(5000):  # each of the frames around is tried again every 64th time
            fast(X)
        assert torch.equal(fast(X), expected)
        assert len(graphs) == count + 1


def test_reset_forgets_what_was_captured():
    backend, graphs = compiled_calls()
    with torch.no_grad():
        for _ in range(2):
            with framejit.enable(backend=backend):
                scale(X, 1.0)
            framejit.reset()
    assert len(graphs) == 2


class Watched:
    """Every look at an attribute runs code of its own, which gets tensors as well."""

    def __init__(self, tensor):
        self.looks = []
        self.tensor = tensor

    def __getattribute__(self, name):
        get = object.__getattribute__
        get(self, "looks").append(name)
        return get(self, name)


def test_arguments_are_looked_at_by_type_alone():
    """isinstance() would ask for __class__, and so run __getattribute__ in the hook, whose frame is asked again."""

    def inner(watched, x):
        return watched.tensor + x

    def program(watched, x):
        outside()
        return inner(watched, x) * 2

    compiled = framejit.compile(program)
    for _ in range(2):
        one, other = Watched(X), Watched(X)
        assert_same(compiled(one, Y), program(other, Y))
        assert one.looks == other.looks
