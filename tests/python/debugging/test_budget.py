"""The budget that explain() shows: where the time of a warm call goes, measured with no trace of it in the program."""

import pytest
import torch
from framejit_testing import vector

import framejit

# Products of this type are the library's.
X = vector(4, 6, seed=1).double()
W = vector(6, 6, seed=2).double()


def two_products(x, w):
    hidden = torch.relu(x @ w) + 1
    return torch.softmax(hidden @ w, dim=-1), hidden


def budget_of(function, *args, **kwargs):
    return framejit.explain(function)(*args, **kwargs).traces[0].budget


def test_every_part_is_timed():
    with torch.no_grad():
        explanation = framejit.explain(two_products)(X, W)
    budget = explanation.traces[0].budget
    kinds = [step.kind for step in budget.steps]
    assert kinds.count("kernel") == 2 and kinds.count("library call") == 2
    assert [step.name for step in budget.steps if step.kind == "library call"] == ["aten::mm", "aten::mm"]
    assert all(step.name.startswith("framejit_") for step in budget.steps if step.kind == "kernel")
    assert budget.outputs == 2 and budget.checks == explanation.traces[0].warm_checks > 0
    for time in (budget.guards, budget.graph, budget.results, budget.per_guard, budget.per_output):
        assert time > 0
    assert budget.per_library_call > 0 and budget.per_kernel >= 0
    assert budget.graph < 1e9


def test_explain_prints_it():
    with torch.no_grad():
        lines = str(framejit.explain(two_products)(X, W)).splitlines()
    start = lines.index("  a warm call:")
    text = [line.strip() for line in lines[start + 1 :]]
    for name in ("guard", "kernel", "library call", "allocation or view", "output"):
        assert any(f" ns per {name}: " in line for line in text), name
    assert sum(line.endswith(" ns library call aten::mm") for line in text) == 2


def test_products_of_our_own_are_kernels():
    with torch.no_grad():
        steps = budget_of(two_products, X.float(), W.float()).steps
    assert [step.name for step in steps if "product" in step.name] == ["framejit_product_4x6x6"] * 2
    assert all(step.kind == "kernel" for step in steps if "product" in step.name)


@pytest.mark.parametrize("make", [lambda model: model, lambda model: model.forward], ids=["module", "method"])
def test_callables_with_a_receiver(make):
    model = torch.nn.Linear(6, 3).double()
    budget = budget_of(make(model), input=X)
    assert [step.name for step in budget.steps if step.kind == "library call"] == ["aten::addmm"]


def test_nothing_is_written_twice():
    def counts(x, log, total):
        total += x
        log.append("called")
        return total * 2

    log, total = [], torch.zeros_like(X)
    explanation = framejit.explain(counts)(X, log, total)
    assert log == ["called"] and torch.equal(total, X) and total._version == 1
    budget = explanation.traces[0].budget
    assert budget.guards > 0 and budget.steps and budget.graph is None and budget.results is None


def test_effects_alone_keep_results_from_being_built():
    def logs(x, log):
        log.append("called")
        return x * 2

    log = []
    budget = budget_of(logs, X, log)
    assert log == ["called"] and budget.graph > 0 and budget.results is None and budget.per_output is None


def test_random_numbers_are_given_back():
    def draw(x):
        return torch.nn.functional.dropout(x, 0.5) + torch.rand_like(x)

    torch.manual_seed(0)
    expected = draw(X), torch.rand(3)
    torch.manual_seed(0)
    explanation = framejit.explain(draw)(X)
    assert torch.equal(explanation.result, expected[0]) and torch.equal(torch.rand(3), expected[1])
    assert explanation.traces[0].budget.steps


def test_gradients():
    """The steps are those of the forward, and no history is left behind."""
    w = W.clone().requires_grad_()
    explanation = framejit.explain(two_products)(X, w)
    assert explanation.traces[0].has_backward and explanation.traces[0].budget.graph > 0
    explanation.result[0].sum().backward()
    expected = W.clone().requires_grad_()
    two_products(X, expected)[0].sum().backward()
    torch.testing.assert_close(w.grad, expected.grad)


def test_where_there_is_none():
    def breaks(x):
        y = x + 1
        if y.sum() > 0:
            return y * 2
        return y

    traces = framejit.explain(breaks)(X).traces
    assert [trace.budget is None for trace in traces] == [trace.is_segment for trace in traces]

    class Counter(torch.nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    counter = Counter()
    trace = framejit.explain(counter, dynamic=False)(X).traces[0]
    assert counter.calls == 1 and trace.budget is None, "the call changed what is guarded"


def test_backends_without_steps():
    budget = budget_of(two_products, X, W)
    assert budget.steps
    plain = framejit.explain(two_products, backend="eager")(X, W).traces[0].budget
    assert plain.guards > 0 and not plain.steps and plain.graph is None and plain.per_kernel is None


def test_several_sizes():
    compiled = framejit.explain(two_products, dynamic=True)
    with torch.no_grad():
        compiled(X, W)
        assert compiled(vector(5, 6, seed=3).double(), W).traces[0].budget.graph > 0


def test_a_graph_that_raises():
    def divides(x, zero):
        return torch.div(x, zero, rounding_mode="floor")

    one, zero = torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    assert budget_of(divides, one, one).steps
    with pytest.raises(RuntimeError):
        framejit.explain(divides)(one, zero)
