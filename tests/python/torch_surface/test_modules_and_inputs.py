"""Modules as people build them (containers, hooks, parametrizations, parameters reached any way), indexing of every
form, einsum, and inputs of unusual kinds: complex numbers, and sparse, quantised and meta tensors, which break."""

import collections

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import Cases, assert_same, check, counting, vector
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import framejit

case = Cases()
X, Y = vector(4, 6, seed=1), vector(4, 6, seed=2)
CUBE = vector(3, 4, 5, seed=3)
ROWS, COLUMNS = torch.tensor([2, 0, 1]), torch.tensor([1, 3, 3])


# --- containers and parameters ----------------------------------------------------------------------------------------
def seeded(make, *args):
    torch.manual_seed(0)
    return make(*args)


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 6)), nn.Identity()])
        self.named = nn.ModuleDict(collections.OrderedDict(first=nn.Linear(6, 6), second=nn.Tanh()))
        self.weights = nn.ParameterList([torch.ones(6), torch.full((6,), 2.0)])
        self.table = nn.ParameterDict({"scale": nn.Parameter(torch.full((6,), 0.5)), "shift": torch.ones(6)})
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("hidden", torch.ones(6), persistent=False)
        self.register_parameter("absent", None)

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x) + i
        for name, layer in self.named.items():
            x = layer(x) * len(name)
        x = x * self.weights[0] + self.weights[-1] * self.table["scale"] + self.table.shift
        for weight in self.weights:
            x = x * weight
        self.steps += 1
        return x if self.absent is None else x + self.absent


EVERYTHING = seeded(Everything)


def put_back():
    EVERYTHING.steps.zero_()


@case(X, setup=put_back)
def containers(x):
    return EVERYTHING(x), EVERYTHING.steps


@case(X, setup=put_back)
def slices_of_containers(x):
    for layer in EVERYTHING.layers[1:]:
        x = layer(x)
    return EVERYTHING.layers[-2][1](x), len(EVERYTHING.layers), "first" in EVERYTHING.named


@case(X, setup=put_back)
def parameters_by_every_way(x):
    model = EVERYTHING
    by_name = dict(model.named_parameters())
    state = model.state_dict()
    total = sum(p.sum() for p in model.parameters()) + sum(b.sum() for b in model.buffers())
    first = model.get_parameter("layers.0.weight") @ by_name["layers.1.1.weight"]
    same = model.get_submodule("layers.0").weight is model.layers[0].weight is model._modules["layers"][0].weight
    other = getattr(model.layers[0], "bias") + vars(model.layers[0])["_parameters"]["bias"] + state["weights.1"]  # noqa: B009
    names = [name for name, _ in model.named_modules()], [type(m).__name__ for m in model.children()]
    return x @ first + total + other + model.get_buffer("hidden"), same, names, sorted(state), model._buffers["steps"]


# --- hooks ------------------------------------------------------------------------------------------------------------
class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.calls = []
        self.inner.register_forward_pre_hook(self.before)
        self.inner.register_forward_pre_hook(lambda m, args, kwargs: (args, kwargs), with_kwargs=True, prepend=True)
        self.inner.register_forward_hook(self.after)
        self.inner.register_forward_hook(lambda m, args, kwargs, out: out * 2, with_kwargs=True)
        self.register_forward_hook(lambda m, args, out: self.calls.append("never"), always_call=True)

    def before(self, module, args):
        return (args[0] + 1,)

    def after(self, module, args, out):
        return out + args[0].mean()

    def forward(self, x):
        return self.inner(x).relu()


HOOKED = seeded(Hooked)


@case(X, setup=HOOKED.calls.clear)
def hooks(x):
    return HOOKED(x), list(HOOKED.calls)


@case(X, graphs=6, breaks=3)  # a class attribute counts the handles, which refer to the hooks weakly
def hooks_added_and_removed_inside(x):
    layer = nn.Identity()
    handle = layer.register_forward_hook(lambda m, args, out: out * 3)
    y = layer(x)
    handle.remove()
    return y + layer(x)


# --- parametrizations -------------------------------------------------------------------------------------------------
class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).mT


def parametrized():
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


SYMMETRIC = seeded(parametrized)
NORMED = seeded(lambda: parametrizations.weight_norm(nn.Linear(6, 3)))
SPECTRAL = seeded(lambda: parametrizations.spectral_norm(nn.Linear(6, 3)).eval())
ORTHOGONAL = seeded(lambda: parametrizations.orthogonal(nn.Linear(6, 6), "weight", "cayley"))
OLD_NORM = seeded(lambda: torch.nn.utils.spectral_norm(nn.Linear(6, 3)).eval())


@case(X)
def parametrized_layers(x):
    return SYMMETRIC(x), NORMED(x), SPECTRAL(x), SYMMETRIC.weight, parametrize.is_parametrized(NORMED)


@case(X)
def orthogonal_parametrization(x):
    return ORTHOGONAL(x)


@case(X)
def cached_parametrizations(x):
    with parametrize.cached():
        return SYMMETRIC(x) + SYMMETRIC(x * 2)


@case(X)
def hooks_of_older_norms(x):
    return OLD_NORM(x)


# --- indexing ---------------------------------------------------------------------------------------------------------
@case(CUBE, cpu=True)
def indexing(c):
    i, j = ROWS, COLUMNS
    return [
        c[0], c[-1, 2], c[..., 1], c[1, ..., 2], c[:, 1:3], c[:, ::2], c[None], c[:, None, :, None], c[0, None, 1],
        c[i], c[:, j], c[i, j], c[i, :, j], c[:, i, j], c[i[:, None], j], c[..., j], c[0, j], c[i, 1], c[i, None, 2],
        c[[0, 2]], c[[0, 2], [1, 3]], c[(0, 1)], c[1:, [0, 1]], c[True], c[False].shape, c[..., None, 0],
        c[torch.tensor(1)], c[torch.tensor(1), 2:], c[slice(0, 2)], c[i.to(torch.int32)], c[()], c[...],
        c[:, i.flip(0)][:, 1], c[2:1].shape, c[i.unsqueeze(0), j.unsqueeze(1), 0],
    ]  # fmt: skip


@case(CUBE)
def writes_by_index(c):
    i, j, made = ROWS, COLUMNS, []
    for index, value in [
        (0, 1.0), ((0, 1), 2), ((..., 1), c[..., 0] * 2), ((slice(None), slice(1, 3)), 0.5), (i, c[i] * 2),
        ((i, j), 7), ((i, slice(None), j), c[i, :, j] + 1), ((slice(None), i), c[:, i].neg()), ((None, 0), c[1]),
        ((slice(None, None, 2), 1), torch.tensor(3.0)), ([0, 2], 4), (True, 5.0), (..., c.sum()),
    ]:  # fmt: skip
        d = c.clone()
        d[index] = value
        made.append(d)
    c[0, 0] = 9
    c[1] += 1
    return made, c


@case(CUBE)
def indexing_by_functions(c):
    i = ROWS
    return (
        c.index_select(1, i), c.gather(0, i.view(1, 3, 1).expand(2, 3, 5)), c.take(i), c.select(1, 2),
        c.narrow(2, 1, 3),        torch.take_along_dim(c, i.view(3, 1, 1), 1), c.clone().index_fill_(0, i[:2], 2.0),
        c.clone().index_add_(1, i, c[:, :3]), c.clone().index_copy_(2, i, c[:, :, :3]), c.unfold(2, 2, 1), c.diagonal(),
        c.clone().scatter_(0, i.view(1, 3, 1).expand(1, 3, 5), 1.5), c.clone().index_put_((i,), c[0], accumulate=True),
        c.masked_fill(c > 0, 1.0), torch.where(c > 0, c, -c), c.clone().masked_scatter_(c > 0, c),
        c.scatter_reduce(0, i.view(1, 3, 1).expand(1, 3, 5), c, "amax"), torch.select_scatter(c, c[0], 0, 1),
        torch.slice_scatter(c, c[:1], 0, 0, 1), c.chunk(2, 1), c.tensor_split((1, 2), 2), c.movedim(0, 2),
    )  # fmt: skip


@case(CUBE, graphs=2, breaks=1)
def indexing_by_a_mask(c):
    return (c * 2)[c > 0].sum() + 1


@case(CUBE)
def writing_by_a_mask(c):
    d = c.clone()
    d[c > 0] = 0.0
    return d


@case(X, Y)
def einsum_of_every_form(x, y):
    return [
        torch.einsum("ij->ji", x), torch.einsum("ij->", x), torch.einsum("ij,ij->i", x, y),
        torch.einsum("ii->i", x[:, :4]), torch.einsum("ii", x[:, :4]), torch.einsum("...i,...i->...", x, y),
        torch.einsum("i,j->ij", x[0], y[1]),
        torch.einsum("bi,ij,bj->b", x, vector(6, 6), y), torch.einsum(x, [0, 1], y, [2, 1], [0, 2]),
        torch.einsum("ij, kj -> ik", [x, y]), torch.einsum("Ij,kj", x, y), torch.einsum("b...,b...->...", x, y),
    ]  # fmt: skip


@case(X, Y)
def results_into_given_tensors(x, y):
    a, b, (c, d) = torch.empty(4, 6), torch.empty(0), (torch.empty(4), torch.empty(4, dtype=torch.long))
    torch.mul(x, y, out=a)
    same = torch.add(x, y, alpha=2, out=a) is a
    torch.matmul(x, y.t(), out=b)
    torch.max(x, 1, out=(c, d))
    torch.cat([x, y], out=(e := torch.empty(8, 6)))
    torch.sum(x, 0, out=x[0])
    return a, b, c, d, e, same, x


# --- unusual inputs ---------------------------------------------------------------------------------------------------
@case(torch.complex(X, Y))
def complex_inputs(z):
    parts = torch.view_as_real(z)
    fft = torch.fft.fft(z)
    return (
        z.abs(),
        z.angle(),
        z.conj() * 2,
        z.real + z.imag,
        parts,
        fft,
        z @ z.mH,
        z.exp().sum(),
        z.is_complex(),
        z == z,
    )


@case(torch.complex(X, Y).conj())
def a_conjugated_input(z):
    return z * 1j, z.resolve_conj(), z.is_conj(), z.imag, z + 1


@case(torch.complex(X, Y), graphs=1)
def writes_to_complex_tensors(z):
    w = z.clone()
    w.real.add_(1)
    z.mul_(1j)
    return w, z, torch.view_as_complex(torch.view_as_real(w) * 2)


@pytest.mark.parametrize(*case.table)
def test_surface(function, args, expectations):
    check(function, *args, **expectations)


def sparse_inputs():
    dense, x = torch.where(X > 0, X, 0.0), X.cpu()
    scales, zeros = torch.ones(4, device="cpu"), torch.zeros(4, device="cpu")
    return {
        "coo": dense.to_sparse(),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((2, 2)),
        "quantised": torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        "quantised by channel": torch.quantize_per_channel(x, scales, zeros, 0, torch.quint8),
        "meta": X.to("meta"),
        "mkldnn": x.to_mkldnn(),
        "nested": torch.nested.nested_tensor([X[0], X[1, :3]]),
        "jagged": torch.nested.nested_tensor([X[0], X[1, :3]], layout=torch.jagged),
    }


def dense(value):
    if value.is_nested:
        return [dense(part) for part in value.unbind()]
    if value.is_quantized:
        return value.dequantize()
    return value.to_dense() if value.layout != torch.strided else value


@pytest.mark.parametrize("kind", sparse_inputs())
def test_unusual_inputs_break(kind):
    def function(x, special):
        y = x * 2
        z = special.dequantize() if special.is_quantized else special * 2
        return y + 1, z

    special = sparse_inputs()[kind]
    expected = function(X, special)
    compiled, _ = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            actual = target(X, special)
            assert_same(actual[0], expected[0])
            assert actual[1].layout == expected[1].layout and actual[1].device == expected[1].device
            if not expected[1].is_meta:
                assert_same(dense(actual[1]), dense(expected[1]))
    assert framejit.explain(function)(X, special).break_count >= 1
    with pytest.raises(framejit.GraphBreakError):
        framejit.compile(function, fullgraph=True)(X, special)


@pytest.mark.parametrize("make", [lambda x: x.to_sparse(), lambda x: x.to_sparse_csr(), lambda x: x.cpu().to_mkldnn()])
def test_unusual_tensors_made_inside_break(make):
    def function(x):
        special = make(x * 2)
        return special.to_dense() + 1

    check(function, X, graphs=2, breaks=2)


def test_quantised_tensors_made_inside_break():
    def function(x):
        q = torch.quantize_per_tensor(x * 2, 0.1, 3, torch.quint8)
        return q.dequantize() + 1

    compiled, _ = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            assert_same(target(X), function(X))


def test_parameters_are_those_of_now():
    model = seeded(Everything)
    compiled, backend = counting(model)
    compiled(X)
    model.layers[0].weight.data.mul_(2)
    with torch.no_grad():
        model.table["scale"].add_(1)
    model.hidden = torch.zeros(6)
    steps = model.steps.item()
    expected = seeded(Everything)
    expected.load_state_dict(model.state_dict())
    assert_same(compiled(X), expected(X))
    assert model.steps.item() == steps + 1
    model.layers[0].weight = nn.Parameter(torch.ones(6, 6))
    expected.layers[0].weight = nn.Parameter(torch.ones(6, 6))
    assert_same(compiled(X), expected(X))
    model.absent = expected.absent = nn.Parameter(torch.ones(6))
    assert_same(compiled(X), expected(X))
    model.weights.append(nn.Parameter(torch.full((6,), 3.0)))
    expected.weights.append(nn.Parameter(torch.full((6,), 3.0)))
    assert_same(compiled(X), expected(X))


def test_hooks_come_and_go():
    model = seeded(Hooked)
    compiled = framejit.compile(model)
    expected = [model(X), compiled(X)]
    assert_same(expected[1], expected[0])
    for hook in (lambda m, args, out: out * 3, lambda m, args, out: None):
        handle = model.inner.register_forward_hook(hook)
        assert_same(compiled(X), model(X))
        handle.remove()
        assert_same(compiled(X), expected[0])
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, out: out + 1)
    try:
        assert_same(compiled(X), model(X))
    finally:
        handle.remove()
    assert_same(compiled(X), expected[0])


def test_parametrizations_come_and_go():
    layer = seeded(nn.Linear, 6, 6)
    function = lambda x: layer(x) + 1  # noqa: E731
    compiled = framejit.compile(function)
    assert_same(compiled(X), function(X))
    parametrize.register_parametrization(layer, "weight", Symmetric())
    assert_same(compiled(X), function(X))
    parametrize.remove_parametrizations(layer, "weight")
    assert_same(compiled(X), function(X))


def test_gradients_through_a_parametrization():
    layer = seeded(parametrized)
    compiled, backend = counting(lambda x: F.mse_loss(layer(x), x))
    for target in (compiled, framejit.compile(lambda x: F.mse_loss(layer(x), x))):
        for _ in range(2):
            parameters = list(layer.parameters())
            expected = torch.autograd.grad(F.mse_loss(layer(X), X), parameters)
            assert_same(list(torch.autograd.grad(target(X), parameters)), list(expected))
    assert backend.count == 1
