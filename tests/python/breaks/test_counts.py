"""How many graphs breaks cost: an inner break splits the trace once, a loop does not record each iteration."""

import pytest
import torch
from framejit_testing import assert_same_outcome, counting, run, vector

import framejit

X = vector(seed=2)


@framejit.disable
def outside():
    pass


def explained(function, *args):
    with torch.no_grad():
        report = framejit.explain(function)(*args)
    return report.graph_count, report.break_count


def one_break(x):
    y = x.sin() + 1
    outside()
    return y.cos() * 2


def test_one_break_makes_two_graphs():
    assert explained(one_break, X) == (2, 1)


def test_an_inner_break_makes_two_graphs():
    def inner(x):
        y = x.sin()
        outside()
        return y.cos()

    def middle(x):
        return inner(x + 1) * 2

    def outer(x):
        return middle(x * 3).exp()

    assert explained(outer, X) == (2, 1)


class Layered(torch.nn.Module):
    """Twelve layers, with a break behind the sixth."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(12))

    def forward(self, x):
        for position, layer in enumerate(self.layers):
            x = torch.relu(layer(x))
            if position == 5:
                outside()
        return x


def test_a_break_in_the_middle_of_a_model_makes_two_graphs():
    torch.manual_seed(0)
    model = Layered()
    assert explained(model, X) == (2, 1)


def test_a_loop_with_a_break_is_recorded_a_fixed_number_of_times():
    def accumulate(batches):
        total = torch.zeros(4)
        for position, batch in enumerate(batches):
            total = total * 0.5 + batch
            print(position, end="")
        return total

    counts = []
    for length in (6, 24):
        batches = [X + k for k in range(length)]
        compiled, backend = counting(accumulate)
        with torch.no_grad():
            for _ in range(2):
                torch.testing.assert_close(compiled(batches), accumulate(batches))
        counts.append(backend.count)
    assert counts[0] == counts[1]


def append_to_list(batches):
    outs = []
    also = outs
    for batch in batches:
        y = batch.sin()
        outside()
        outs.append(y.cos())
    return outs, also


def comprehension(batches):
    def both(batch):
        y = batch.sin()
        outside()
        return y.cos()

    return [both(batch) * 2 for batch in batches]


def display(batches):
    def first(batch):
        outside()
        return batch.cos()

    return [*batches, first(batches[0]), *(batch.exp() for batch in batches[:2]), first(batches[1]).sin()]


@pytest.mark.parametrize("function", [append_to_list, comprehension, display], ids=lambda f: f.__name__)
def test_a_list_that_grows_across_breaks_is_recorded_for_any_length(function):
    counts = []
    for length in (4, 12):
        batches = [X + k for k in range(length)]
        compiled, backend = counting(function)
        native = framejit.compile(function)
        with torch.no_grad():
            for _ in range(2):
                expected = run(function, (batches,), {})
                for target in (compiled, native):
                    assert_same_outcome(run(target, (batches,), {}), expected)
        counts.append(backend.count)
    assert counts[0] == counts[1]


def test_the_rest_of_a_range_is_guarded():
    def powers(x, limits):
        y = x
        for k in range(limits["n"]):
            y = y * 2 + k
            outside()
        return y + 1

    compiled, _ = counting(powers)
    with torch.no_grad():
        for n in (3, 5, 2, 4, 3, 0, 1):
            assert torch.equal(compiled(X, {"n": n}), powers(X, {"n": n})), n


def test_each_branch_has_its_own_graph():
    def choose(x):
        y = x * 2
        if y.sum() > 0:
            return y + 1
        return y - 1

    compiled, backend = counting(choose)
    with torch.no_grad():
        for x in (X.abs(), -X.abs(), X.abs(), -X.abs()):
            assert torch.equal(compiled(x), choose(x))
    assert backend.count == 3


def test_a_value_that_is_only_carried_along_is_not_guarded():
    numbers = iter(range(100))

    @framejit.disable
    def next_number():
        return next(numbers)

    def numbered(x):
        y = x * 2
        number = next_number()
        z = y + 1
        print(number, end="")
        return z * 3

    compiled, backend = counting(numbered)
    with torch.no_grad():
        for _ in range(12):
            assert torch.equal(compiled(X), numbered(X))
    assert backend.count == 3


def test_traceback_behind_a_break_is_eagers():
    def fails(x):
        y = x.sin()
        outside()
        return [] + y

    def outer(x):
        z = fails(x + 1)
        return z * 2

    compiled = framejit.compile(outer)
    for _ in range(3):
        assert_same_outcome(run(compiled, (X,), {}), run(outer, (X,), {}))


def test_code_that_looks_at_its_frame_sees_all_variables():
    def looks(x):
        unused = 3
        y = x + 1
        outside()
        return sorted(locals()), eval("unused + 1"), y

    compiled = framejit.compile(looks)
    for _ in range(3):
        assert_same_outcome(run(compiled, (X,), {}), run(looks, (X,), {}))


def test_a_bound_method_from_outside_acts_once():
    seen = []
    callbacks = [seen.append]

    def notes(x):
        y = x * 2
        for callback in callbacks:
            callback(len(seen))
        outside()
        return y + 1

    compiled = framejit.compile(notes)
    for call in range(4):
        assert torch.equal(compiled(X), X * 2 + 1)
        assert seen == list(range(call + 1))
