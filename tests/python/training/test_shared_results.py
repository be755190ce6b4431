"""Results that share memory with inputs or with each other and require grad: forward and backward are compiled, and the
results are views to autograd as eager's are. What writes to them do to versions and histories is eager's."""

import copy
import warnings

import pytest
import torch
from framejit_testing import Cases, alias_pattern, assert_same, counting, vector
from framejit_testing import Outcome as Called
from gradients_testing import leaf
from torch import nn
from torch.utils.checkpoint import checkpoint
from training_testing import reports

import framejit

case = Cases()
X = vector(4, 6, seed=1)
W = vector(4, 6, seed=2)


def nodes(tensor):
    """What autograd says of a result's history: views are eager's nodes, everything else is one of ours."""
    names, node = [], tensor.grad_fn
    while node is not None and node.name() in VIEWS:
        names.append(node.name())
        node = node.next_functions[0][0]
    return names, node is not None, tensor.output_nr if tensor.requires_grad and names else 0


VIEWS = {
    f"{name}Backward0"
    for name in ("View", "ReshapeAlias", "T", "Transpose", "Permute", "Select", "Slice", "Split", "SplitWithSizes",
                 "Unbind", "Expand", "Unsqueeze", "Squeeze", "Diagonal", "Unfold", "AsStrided", "ViewAsReal", "Alias")
}  # fmt: skip


def tensors_of(result):
    return [t for t in (result if isinstance(result, (tuple, list)) else [result]) if torch.is_tensor(t)]


def flags(results, args):
    """Of each result: what it is a view of."""
    known = [*results, *args]

    def place(base):
        found = next((i for i, other in enumerate(known) if other is base), None)
        return found if found is not None else next(
            (-1 - i for i, other in enumerate(results) if other._is_view() and other._base is base), None
        )  # fmt: skip

    def of(tensor):
        try:
            return tensor.requires_grad, tensor.is_leaf, nodes(tensor)
        except RuntimeError as error:  # a view that must not be written was
            return str(error)

    return [(of(t), t._is_view() and place(t._base), t._version) for t in results]


def write(results, number):
    """Writes to one result; an error is part of what is compared."""
    try:
        results[number].mul_(2)
    except RuntimeError as error:
        return str(error)


def scenario(function, args, written=None, no_grad=False, create_graph=False, used=None):
    """Everything that can be seen of a call, a write to a result, and a backward."""
    args = copy.deepcopy(args)
    torch.manual_seed(0)
    given = [a * 1 if a.requires_grad and NON_LEAVES in function.__name__ else a for a in args]
    results = tensors_of(function(*given))
    found = [flags(results, given), alias_pattern(Called(value=results, arguments=given))]
    if written is not None and written < len(results):
        with torch.set_grad_enabled(not no_grad):
            found.append(write(results, written))
        found.append(flags(results, given))
        found.append([a._version for a in given])
    live = [t for i, t in enumerate(results) if t.requires_grad and (used is None or i in used)]
    if not live:
        return found, [t.detach() for t in results]
    tangents = [torch.linspace(-2, 3, t.numel(), dtype=t.dtype).reshape(t.shape) for t in live]
    leaves = [a for a in args if a.requires_grad]
    try:
        first = torch.autograd.grad(live, leaves, tangents, create_graph=create_graph, allow_unused=True)
        if create_graph:
            total = sum(g.square().sum() for g in first if g is not None and g.requires_grad)
            second = torch.autograd.grad(total, leaves, allow_unused=True) if torch.is_tensor(total) else None
            found.append(second)
        found.append([g if g is None else g.detach() for g in first])
    except RuntimeError as error:
        found.append(str(error).split(":")[0])
    return found, [t.detach() for t in results]


NON_LEAVES = "of_a_non_leaf"
SCENARIOS = [
    {},
    {"create_graph": True},
    *({"used": {i}} for i in range(3)),
    *({"written": i} for i in range(3)),
    *({"written": i, "no_grad": True} for i in range(3)),
]


@case(leaf(X))
def view_of_an_input(a):
    return a.view(24)


@case(leaf(X), leaf(W))
def view_of_an_input_and_more(a, b):
    return a[1], (a * b).sin()


@case(leaf(X), leaf(W))
def view_of_an_input_behind_more(a, b):
    c = (a * b).sin()
    return c, a.t()[2:]


@case(leaf(X), leaf(W))
def view_of_a_non_leaf(a, b):
    return a.view(2, 12)[1], (a * b).sin(), a


view_of_a_non_leaf.__name__ = f"view_{NON_LEAVES}"


@case(leaf(X))
def two_views_of_a_non_leaf(a):
    return a[0], a[1:], a.exp()


two_views_of_a_non_leaf.__name__ = f"two_views_{NON_LEAVES}"


@case(leaf(X))
def chunks_of_a_non_leaf(a):
    first, second = a.chunk(2, 1)
    return first, second, first * second


chunks_of_a_non_leaf.__name__ = f"chunks_{NON_LEAVES}"


@case(leaf(X))
def chunks(a):
    return (a * 2).chunk(2, 1)


@case(leaf(X))
def one_chunk(a):
    return (a * 2).chunk(2, 1)[1]


@case(leaf(X))
def unbound(a):
    return a.sin().unbind(0)[1:]


@case(leaf(X))
def split_by_sizes(a):
    return a.exp().split([1, 3], 0)


@case(leaf(X))
def a_result_and_its_view(a):
    b = a.exp()
    return b, b.t()


@case(leaf(X))
def a_view_and_what_it_is_of(a):
    b = a.exp()
    return b.view(24)[3:], b


@case(leaf(X), leaf(W))
def looks_behind_a_detach(a, b):
    return a.detach()[1:], b.detach().expand(1, 4, 6), a * b


@case(leaf(X))
def a_flat_look_behind_a_detach(a):
    return a * 2, a.detach().view(-1)


@case(leaf(X))
def views_of_views(a):
    b = a.exp().view(2, 12)
    return b[0], b[1, 4:], b


@case(leaf(X))
def views_without_their_base(a):
    b = a.exp()
    return b[1], b.t()


@case(leaf(X))
def a_result_and_its_detached_self(a):
    b = a.exp()
    return b, b.detach()


@case(leaf(X))
def a_view_of_the_detached(a):
    b = a.exp()
    return b, b.detach()[1], b.view(24).detach()


@case(leaf(X), native=False)  # it requires grad, has no history, and must not be written
def a_view_without_gradients(a):
    b = a.exp()
    with torch.no_grad():
        c = b[1]
    return b, c


@case(leaf(X))
def an_input_and_its_detached_self(a):
    return a.view(24), a.detach(), a * 2


@case(leaf(X), leaf(W))
def two_groups(a, b):
    c, d = a.sin().chunk(2)
    e = (b * c.sum()).cos()
    return c, d, e, e.view(24)


@case(leaf(X))
def expanded(a):
    b = a.sum(0)
    return b, b.expand(3, 6)


@case(leaf(X))
def diagonal(a):
    b = a.sin()
    return b.diagonal(), b[:, None].squeeze(1), b.sum()


@case(leaf(X))
def saved_by_its_own_backward(a):
    b = a.exp()
    return b, b.view(24), b * b


@case(leaf(X))
def of_dropout(a):
    b = nn.functional.dropout(a.sin(), 0.5)
    return b, b[2:]


@case(leaf(X), leaf(W), graphs=2)  # a Python backend would keep the inside
def of_a_checkpoint(a, b):
    first, second = checkpoint(lambda z: (z * b).sin(), a, use_reentrant=False).chunk(2)
    return first * second, first


@case(leaf(X), native=False)
def written_before(a):
    b = a * 2
    b[0].mul_(3)
    return b, b[1]


@case(leaf(X), native=False)
def strided(a):
    b = a.exp()
    return b, b.as_strided((2, 3), (6, 1), 6)


class Look(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view(24)

    @staticmethod
    def backward(ctx, g):
        return g.view(4, 6) * 5


@case(leaf(X), native=False)
def by_a_custom_function(a):
    b = a.sin()
    return Look.apply(b), b


@case(leaf(X), native=False)
def with_a_hook_on_the_base(a):
    b = a.sin()
    b.register_hook(lambda g: g * 3)
    return b.chunk(2)


@case(leaf(X), native=False)
def with_a_retained_base(a):
    b = a.sin()
    b.retain_grad()
    return b.chunk(2)


@pytest.mark.parametrize(*case.table)
def test_results_that_share_memory(function, args, expectations):
    compiled = framejit.compile(function)
    compiled.__name__ = function.__name__
    python, backend = counting(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for options in [{}, {}, *SCENARIOS]:
            expected = scenario(function, args, **options)
            assert_same(scenario(compiled, args, **options), expected, f"native, {options}")
            assert_same(scenario(python, args, **options), expected, f"torch level, {options}")
    assert backend.count == expectations.get("graphs", 1)
    (report,) = reports(compiled)
    assert report.graph_break is None and report.captured
    assert report.has_backward == expectations.get("native", True), report.backend


def before(a, b, c):
    return a[0], (a * b).sin(), (a * c).cos()


def behind(a, b, c):
    return (a * b).sin(), (a * c).cos(), a[0]


def between(a, b, c):
    first = (a * b).sin()
    return first, a[0], (a * c).cos()


def of_results(a, b, c):
    first, second = (a * b).chunk(2)
    return second, first, (a * c).cos()


@pytest.mark.parametrize("function", [before, behind, between, of_results])
@pytest.mark.parametrize("used", [(0, 1, 2), (0, 1), (1, 2), (0, 2)])
def test_the_order_in_which_leaves_get_their_gradients(function, used):
    """Views of inputs are nodes of their own, which run in front of the compiled backward or behind it."""

    def run(call):
        leaves, seen = [leaf(vector(4, 6, seed=i)) for i in range(3)], []
        for i, tensor in enumerate(leaves):
            tensor.register_hook(lambda g, i=i: seen.append((i, g.clone())))
            tensor.register_post_accumulate_grad_hook(lambda _, i=i: seen.append(i))
        results = call(*leaves)
        sum(results[i].sum() * (i + 1) for i in used).backward()
        return seen, [t.grad for t in leaves]

    compiled = framejit.compile(function)
    for _ in range(3):
        assert_same(run(compiled), run(function))
    (report,) = reports(compiled)
    assert report.has_backward


def test_a_training_loop_with_a_written_view():
    """The program scales a part of the result in place, as gates do."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 8)

        def forward(self, x):
            gate, value = self.linear(x).split([3, 5], 1)
            return gate, value, x.view(2, 2, 6)

    def train(compile):
        torch.manual_seed(0)
        model = Net()
        call = compile(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for i in range(5):
            optimizer.zero_grad()
            gate, value, look = call(vector(4, 6, seed=i))
            loss = (gate.sigmoid().sum(1, keepdim=True) * value).square().mean() + look.sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return call, losses, list(model.parameters())

    expected, actual = train(lambda model: model), train(framejit.compile)
    assert_same(actual[1:], expected[1:])
    (report,) = reports(actual[0])
    assert report.has_backward


def test_memory_that_views_hold():
    """The base of views lives as long as one of them."""
    import gc
    import weakref

    compiled = framejit.compile(lambda a: a.exp().chunk(2))
    first, second = compiled(leaf(X))
    dead = weakref.ref(first._base)
    del second
    gc.collect()
    assert dead() is not None
    first.sum().backward()
    del first
    gc.collect()
    assert dead() is None
