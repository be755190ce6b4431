"""Random numbers: the same stream as eager's under the same seed, and generators where eager leaves them."""

import gc
import random
import sys
import threading

import numpy
import pytest
import torch
import torch.nn.functional as F
from framejit_testing import Cases, assert_same, check, counting, vector

import framejit

case = Cases()
X = vector(4, 6, seed=1)
P = X.sigmoid()
OUTSIDE = torch.Generator().manual_seed(7)


def reset():
    OUTSIDE.manual_seed(7)


# --- the default generator --------------------------------------------------------------------------------------------
@case(X)
def seeded_inside(x):
    a = torch.rand(3)
    torch.manual_seed(5)
    b = torch.rand(3)
    c = torch.randn_like(x)
    torch.random.manual_seed(5)
    return a, b, c, torch.rand(3)


@case(X)
def seeded_and_nothing_drawn(x):
    torch.manual_seed(11)
    return x * 2


@case(X)
def seeded_between(x):
    for seed in range(3):
        torch.manual_seed(seed)
        x = F.dropout(x, 0.5) + torch.bernoulli(torch.full((6,), 0.5))
    return x


@case(X)
def state_taken_and_set(x):
    state = torch.get_rng_state()
    a = torch.rand(4)
    torch.set_rng_state(state)
    b = torch.rand(4)
    return a, b, x + b[:, None]


@case(X)
def state_returned(x):
    torch.rand(3)
    return torch.get_rng_state(), x + 1


# By default those of all GPUs; asking for the state of one breaks.
DEVICES = [] if torch.cuda.is_available() else None


@case(X)
def forked(x):
    with torch.random.fork_rng(devices=DEVICES):
        torch.manual_seed(3)
        a = torch.rand(2)
    b = torch.rand(2)
    with torch.random.fork_rng(devices=[]):
        c = torch.randn(2)
    return a, b, c, torch.randn(2), x


@case(X)
def not_forked(x):
    with torch.random.fork_rng(enabled=False):
        a = torch.rand(2)
    return a, x


@case(X)
def by_the_generator_itself(x):
    torch.default_generator.manual_seed(4)
    return torch.rand(2), torch.rand(2, generator=torch.default_generator), x


@case(X)
def in_inference_mode(x):
    with torch.inference_mode():
        torch.manual_seed(2)
        a = torch.rand(2)
    return a, torch.rand(2), x


# --- generators -------------------------------------------------------------------------------------------------------
@case(X)
def made_inside(x):
    g = torch.Generator()
    g.manual_seed(3)
    h = torch.Generator(device="cpu").manual_seed(4)
    return torch.rand(2, generator=g), torch.rand(2, generator=h), torch.randn(2, generator=g), torch.rand(2), x


@case(X)
def made_inside_and_not_seeded(x):
    return torch.randn(2, generator=torch.Generator()), x


@case(X, setup=reset)
def from_outside(x):
    return torch.rand(2, generator=OUTSIDE) + x[0, 0], torch.rand(2)


@case(X, OUTSIDE)
def passed_in(x, g):
    a = torch.rand(2, generator=g)
    g.manual_seed(1)
    return a, torch.rand(2, generator=g), x


@case(P, OUTSIDE)
def operators_that_take_generators(p, g):
    return (
        torch.bernoulli(p, generator=g), torch.multinomial(p, 3, generator=g), torch.randperm(7, generator=g),
        torch.randint(0, 9, (5,), generator=g), torch.normal(p, 1.0, generator=g), torch.poisson(p, generator=g),
        torch.normal(0.0, 1.0, (3,), generator=g), torch.empty(3).uniform_(generator=g),
        p.clone().normal_(generator=g), p.clone().exponential_(generator=g), p.clone().bernoulli_(0.3, generator=g),
        p.clone().cauchy_(generator=g), p.clone().geometric_(0.5, generator=g), p.clone().log_normal_(generator=g),
        p.clone().random_(0, 5, generator=g), torch.nn.init.normal_(torch.empty(2, 3), generator=g),
        torch.nn.init.xavier_uniform_(torch.empty(2, 3), generator=g),
    )  # fmt: skip


@case(X, OUTSIDE)
def states_of_generators(x, g):
    state = g.get_state()
    a = torch.rand(2, generator=g)
    g.set_state(state)
    h = torch.Generator()
    h.set_state(state)
    return a, torch.rand(2, generator=g), torch.rand(2, generator=h), state, x


@case(X, OUTSIDE)
def generators_in_containers(x, g):
    made = {"a": g, "b": [torch.Generator().manual_seed(1)]}
    return [torch.rand(1, generator=each) for each in (made["a"], *made["b"])], x


@case(X, OUTSIDE)
def asked_for_its_device(x, g):
    return torch.rand(2, generator=g, device=g.device) + x[0, 0], g.device.type


@case(X, None)
def perhaps_none(x, g):
    return torch.rand(2, generator=g), x


@pytest.mark.parametrize(*case.table)
def test_random(function, args, expectations):
    check(function, *args, **expectations)


def states_agree(function, make, calls=3, graphs=1, backends=("counting", "cpu", "interp")):
    """The generators that `make` gives go the same way in eager and in each backend, call by call."""
    for name in backends:
        compiled, counted = (
            counting(function) if name == "counting" else (framejit.compile(function, backend=name), None)
        )
        eager_arguments, arguments = make(), make()
        torch.manual_seed(0)
        expected = [(function(X, *eager_arguments), [g.get_state() for g in eager_arguments]) for _ in range(calls)]
        after = torch.get_rng_state()
        torch.manual_seed(0)
        actual = [(compiled(X, *arguments), [g.get_state() for g in arguments]) for _ in range(calls)]
        assert_same(actual, expected)
        assert torch.equal(torch.get_rng_state(), after)
        assert counted is None or counted.count == graphs


@pytest.mark.cpu
def test_generators_go_on_from_call_to_call():
    def function(x, g):
        return torch.rand(3, generator=g) + x[0, :3], F.dropout(x), torch.randperm(4, generator=g)

    states_agree(function, lambda: [torch.Generator().manual_seed(3)])


@pytest.mark.cpu
def test_two_generators():
    def function(x, g, h):
        a = torch.rand(3, generator=g)
        h.manual_seed(2)
        return a + torch.rand(3, generator=h), torch.randn(2, generator=g), torch.randn(2, generator=h), x

    states_agree(function, lambda: [torch.Generator().manual_seed(3), torch.Generator()])


@pytest.mark.cpu
def test_one_generator_in_two_places():
    def function(x, g, h):
        return torch.rand(3, generator=g), torch.rand(3, generator=h), x

    def both():
        g = torch.Generator().manual_seed(3)
        return [g, g]

    states_agree(function, both)
    compiled, backend = counting(function)
    for make in (both, lambda: [torch.Generator(), torch.Generator().manual_seed(2)], both):
        eager, own = make(), make()
        assert_same(compiled(X, *own), function(X, *eager))
        assert_same([g.get_state() for g in own], [g.get_state() for g in eager])


@pytest.mark.cpu
def test_a_generator_of_each_call():
    def function(x, g):
        return torch.rand(3, generator=g) + x[0, :3]

    compiled = framejit.compile(function)
    for seed in range(20):
        expected = function(X, torch.Generator().manual_seed(seed))
        assert torch.equal(compiled(X, torch.Generator().manual_seed(seed)), expected)


def test_a_generator_that_is_not_used_is_not_guarded():
    def function(x, g):
        return x * 2

    compiled, backend = counting(function)
    for _ in range(4):
        compiled(X, torch.Generator())
    assert backend.count == 1


@pytest.mark.cpu
def test_a_generator_is_not_kept_alive():
    def function(x, g):
        return torch.rand(3, generator=g) + x[0, :3]

    compiled = framejit.compile(function)
    g = torch.Generator()
    before = sys.getrefcount(g)
    for _ in range(3):
        compiled(X, g)
    gc.collect()
    assert sys.getrefcount(g) == before


@pytest.mark.cpu
def test_a_break_between_draws():
    def function(x, g):
        a = torch.rand(2, generator=g)
        torch.manual_seed(3)
        framejit.graph_break()
        return a, torch.rand(2, generator=g), torch.rand(2), x

    states_agree(function, lambda: [torch.Generator().manual_seed(1)], graphs=2)


@pytest.mark.cpu
def test_a_generator_made_inside_is_alive_at_a_break():
    def function(x):
        y = x * 2
        g = torch.Generator().manual_seed(1)
        a = torch.rand(2, generator=g)
        framejit.graph_break()
        return a, torch.rand(2, generator=g), y

    compiled, _ = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            assert_same(target(X), function(X))


@pytest.mark.cpu
def test_a_generator_made_inside_is_returned():
    def function(x):
        g = torch.Generator().manual_seed(1)
        return torch.rand(2, generator=g), g, x * 2

    compiled, _ = counting(function)
    for target in (compiled, framejit.compile(function)):
        seen = []
        for _ in range(3):
            expected, actual = function(X), target(X)
            assert_same((actual[0], actual[2]), (expected[0], expected[2]))
            assert torch.equal(actual[1].get_state(), expected[1].get_state())
            assert all(actual[1] is not other for other in seen)
            seen.append(actual[1])


def test_the_seed_is_asked_for():
    def function(x):
        torch.manual_seed(4)
        return x * torch.initial_seed(), x + 1

    def of_a_generator(x, g):
        return x * g.initial_seed()

    compiled, _ = counting(function)
    for _ in range(2):
        assert_same(compiled(X), function(X))
    compiled, _ = counting(of_a_generator)
    for seed in (2, 3, 3):
        g = torch.Generator().manual_seed(seed)
        assert_same(compiled(X, g), of_a_generator(X, g))


@pytest.mark.cpu
def test_a_graph_that_raises_puts_generators_back():
    def function(x, i, g):
        a = torch.rand(2, generator=g)
        b = torch.rand(2)
        return a, b, x[i]

    for backend in ("eager", "cpu", "interp"):
        compiled = framejit.compile(function, backend=backend)
        g, h = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
        for index in (1, 9, 2):
            i = torch.tensor([index])
            results = []
            for target, generator in ((function, g), (compiled, h)):
                torch.manual_seed(1)
                try:
                    results.append(target(X, i, generator))
                except IndexError:
                    results.append(None)
                results[-1] = (results[-1], generator.get_state(), torch.get_rng_state())
            assert_same(results[1], results[0])


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64 - 1, True, 3.0])
def test_seeds_that_are_no_counts(seed):
    def function(x):
        torch.manual_seed(seed)
        return torch.rand(2), x * 2

    compiled = framejit.compile(function)
    for _ in range(2):
        assert_same(compiled(X), function(X))


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, None, "one"])
def test_seeds_that_raise(seed):
    def function(x):
        torch.manual_seed(seed)
        return torch.rand(2), x * 2

    with pytest.raises(Exception) as expected:
        function(X)
    with pytest.raises(type(expected.value), match=None) as actual:
        framejit.compile(function)(X)
    assert str(actual.value) == str(expected.value)


def test_states_that_do_not_fit():
    def function(x, state):
        y = x * 2
        torch.set_rng_state(state)
        return y

    for state in (torch.zeros(3, dtype=torch.uint8), torch.zeros(5056), torch.zeros(5056, dtype=torch.uint8)):
        before = torch.get_rng_state()
        with pytest.raises(Exception) as expected:
            function(X, state)
        compiled = framejit.compile(function)
        for _ in range(2):
            with pytest.raises(type(expected.value)) as actual:
                compiled(X, state)
            assert str(actual.value) == str(expected.value)
        assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_is_guarded():
    def function(x, seed):
        torch.manual_seed(seed)
        return torch.rand(2)

    compiled = framejit.compile(function)
    for seed in (1, 2, 1, 2):
        assert torch.equal(compiled(X, seed), function(X, seed))


def test_gradients_beside_a_seed():
    def function(x, w):
        torch.manual_seed(5)
        return (F.dropout(x * w, 0.5) + torch.rand(6)).sum()

    compiled, backend = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            results = []
            for call in (function, target):
                w = X[0].clone().requires_grad_()
                loss = call(X, w)
                results.append((loss, torch.autograd.grad(loss, w), torch.get_rng_state()))
            assert_same(results[1], results[0])
    assert backend.count == 1


@pytest.mark.cpu
def test_threads_with_generators_of_their_own():
    def function(x):
        g = torch.Generator().manual_seed(3)
        a = torch.rand(64, generator=g)
        b = torch.rand(64, generator=g)
        return a, b

    expected = function(X)
    compiled = framejit.compile(function, backend="eager")
    compiled(X)
    failures = []

    def loop():
        for _ in range(200):
            if not all(map(torch.equal, compiled(X), expected)):
                failures.append(1)

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# --- Python's and NumPy's ---------------------------------------------------------------------------------------------
def python_and_numpy_streams(function, calls=4):
    def stream(target):
        random.seed(3)
        numpy.random.seed(3)
        torch.manual_seed(3)
        return [target(X) for _ in range(calls)], random.getstate(), numpy.random.get_state()[1].tolist()

    for target in (counting(function)[0], framejit.compile(function)):
        assert_same(stream(target), stream(function))


def test_pythons_random():
    python_and_numpy_streams(lambda x: x * random.random() + random.randint(1, 5))
    python_and_numpy_streams(lambda x: (x if random.random() < 0.5 else -x) + random.choice([1, 2, 3]))
    python_and_numpy_streams(lambda x: (random.shuffle(order := [0, 1, 2, 3]), x[order])[1] + random.gauss(0, 1))


def test_pythons_random_seeded_inside():
    def function(x):
        random.seed(1)
        return x * random.uniform(1, 2)

    python_and_numpy_streams(function)


def test_a_random_object():
    own = random.Random(5)
    other = random.Random(5)
    compiled = framejit.compile(lambda x, r: x * r.random())
    for _ in range(4):
        assert torch.equal(compiled(X, own), X * other.random())


@pytest.mark.cpu
def test_numpys_random():
    python_and_numpy_streams(lambda x: x * float(numpy.random.rand()) + numpy.random.randint(3))
    python_and_numpy_streams(lambda x: x + torch.from_numpy(numpy.random.randn(6).astype("float32")))


def test_a_numpy_generator():
    own, other = numpy.random.default_rng(1), numpy.random.default_rng(1)
    compiled = framejit.compile(lambda x, r: x * float(r.normal()))
    for _ in range(4):
        assert torch.equal(compiled(X, own), X * float(other.normal()))
