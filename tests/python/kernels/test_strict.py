"""framejit.compile(strict=True): eager's bits, whatever the operators, dtypes and sizes; what is exact still fuses."""

import copy

import pytest
import torch

import framejit
from benchmarks.models_zoo import MODELS, output_tensors

F = torch.nn.functional
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def values(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if not dtype.is_floating_point:
        return torch.randint(-100, 100, sizes, generator=generator).to(dtype)
    return (torch.randn(sizes, dtype=torch.float64, generator=generator) * scale).to(dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Of floats the pattern, all NaN alike, so that zeros of both signs differ."""
    if not tensor.is_floating_point():
        return tensor
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return torch.where(tensor.isnan(), torch.zeros((), dtype=tensor.dtype) + 7, tensor).contiguous().view(kind)


def assert_bits(got, expected, what=""):
    got, expected = output_tensors(got), output_tensors(expected)
    assert len(got) == len(expected) > 0
    for index, (a, e) in enumerate(zip(got, expected, strict=True)):
        assert a.dtype == e.dtype and a.stride() == e.stride() and torch.equal(a.isnan(), e.isnan())
        assert torch.equal(bits(a), bits(e)), f"{what}: result {index}: {(bits(a) != bits(e)).sum()} of {a.numel()}"


def check(function, *inputs) -> str:
    """Compares; returns what became of it."""
    with torch.no_grad():
        expected = function(*inputs)
        compiled = framejit.compile(function, strict=True, fullgraph=True)
        for _ in range(2):
            assert_bits(compiled(*inputs), expected)
        return framejit.explain(function, strict=True)(*inputs).traces[0].description


EXACT = {
    "arithmetic": lambda x, y: (x + y) * x - y / (x + 3),
    "numbers": lambda x, y: (x * 1.7 + 0.3) / 2.7 - (1.1 - y),
    "scaled sum": lambda x, y: x + x * 0.3 - y * 1.7,
    "activations": lambda x, y: F.relu(x) + F.leaky_relu(y, 0.1) * F.relu6(x) - F.hardtanh(y, -0.7, 0.6),
    "hard activations": lambda x, y: F.hardsigmoid(x) + F.hardswish(y),
    "clamp": lambda x, y: x.clamp(-0.3, 0.9) + y.clamp_min(0.2),
    "comparisons": lambda x, y: torch.where(x > y, x.maximum(y), -x).masked_fill(y == x, 3.5),
    "rounding": lambda x, y: x.floor() + y.ceil() - x.round() + y.trunc(),
    "powers": lambda x, y: y.reciprocal() + x * x - y.pow(2),
    "casts": lambda x, y: (x.to(torch.float32) + y.to(torch.float32)).to(torch.bfloat16).to(torch.float64) + x,
    "moves": lambda x, y: torch.cat([x * 2, y], dim=1) * 3 + 1,
    "threshold": lambda x, y: F.threshold(x, 0.1, 20.0) + y,
    "signs": lambda x, y: x.sign() * y.abs() + x.neg(),
}

INEXACT = {
    "exp": lambda x: torch.exp(x) * 2,
    "expm1": lambda x: torch.expm1(x) + 1,
    "log": lambda x: torch.log(x.abs()) + torch.log1p(x.abs()) + torch.log2(x.abs()),
    "tanh": lambda x: torch.tanh(x) * x,
    "sigmoid": lambda x: torch.sigmoid(x) * x,
    "erf": lambda x: torch.erf(x) + torch.erfc(x),
    "sin": lambda x: torch.sin(x) + torch.cos(x) * torch.tan(x),
    "sqrt": lambda x: torch.sqrt(x.abs()) + x.abs().pow(0.5) + x.abs().rsqrt(),
    "gelu": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "silu": lambda x: F.silu(x) + F.mish(x),
    "elu": lambda x: F.elu(x) + F.selu(x) + F.softplus(x),
    "powers": lambda x: x.pow(3) + x.abs().pow(0.5) + x.abs().pow(1.3) + x.pow(2) + x.pow(-1) + x.pow(-2) + x.pow(0),
    "addcmul": lambda x: torch.addcmul(x, x, x + 1, value=0.3) + torch.addcdiv(x, x, x.abs() + 1, value=0.7),
    "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "alpha": lambda x: torch.add(x, x * 1.3, alpha=0.7) - torch.sub(x, x * 0.9, alpha=1.3),
    "sum": lambda x: (x * 1.1).sum() + (x * 1.3).sum(-1),
    "column sum": lambda x: (x * 1.1).sum(0),
    "mean": lambda x: (x * 1.1).mean(-1, keepdim=True) + x.mean(),
    "var": lambda x: x.var(-1) + x.std(-1),
    "cumsum": lambda x: (x * 1.1).cumsum(-1),
    "softmax": lambda x: F.softmax(x * 1.3, -1) + F.log_softmax(x, -1),
    "softmax of columns": lambda x: F.softmax(x * 1.3, 0),
    "layer norm": lambda x: F.layer_norm(x * 1.1, x.shape[-1:]),
    "rms norm": lambda x: F.rms_norm(x * 1.1, x.shape[-1:]),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=-1) + 1,
    "extrema": lambda x: x.amax(-1) + x.amin(0).sum() + x.max(),
    "logsumexp": lambda x: torch.logsumexp(x, -1),
    "losses": lambda x: F.mse_loss(x, x * 0.9) + F.smooth_l1_loss(x, x * 0.7),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_exact_operators_fuse(name, dtype):
    for scale in (1e-3, 2.0, 300.0):
        x, y = values(37, 53, dtype=dtype, scale=scale), values(37, 53, dtype=dtype, seed=1, scale=scale)
        text = check(EXACT[name], x, y)
        assert text.count("kernel ") == 1 and "call" not in text, text


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", INEXACT)
def test_the_rest_is_eager(name, dtype):
    for scale in (1e-3, 2.0, 30.0):
        text = check(INEXACT[name], values(37, 53, dtype=dtype, scale=scale))
    assert "call" in text, text


SPECIAL = [0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_special_values(name, dtype):
    x = torch.tensor(SPECIAL, dtype=dtype)
    left, right = (part.contiguous() for part in torch.meshgrid(x, x, indexing="ij"))
    check(EXACT[name], left, right)


def test_integers_reduce_in_kernels():
    for function in (lambda x: (x * 3).sum(-1), lambda x: (x + 1).amax(-1), lambda x: (x > 3).any(-1)):
        text = check(function, values(37, 53, dtype=torch.int64))
        assert text.count("kernel ") == 1 and "call" not in text, text
    text = check(lambda x: (x * 1.1).argmax(-1), values(37, 53))
    assert text.count("kernel ") == 1 and "call" not in text, text


@pytest.mark.parametrize("dtype", FLOATS)
def test_extreme_values_among_zeros_of_both_signs(dtype):
    """Which of two equal zeros a maximum is has eager's kernel to say."""
    place = values(37, 53)
    for function, beyond in ((torch.max, -1.0), (torch.min, 1.0)):
        x = torch.where(place > 2, 0.0, torch.where(place < -2, -0.0, beyond)).to(dtype)
        check(lambda x, function=function: tuple(function(x, 1)), x)
        check(lambda x, function=function: function(x.tril(), 0)[0], x)


def test_losses_and_masks():
    x, targets = values(37, 53), torch.randint(0, 53, (37,))
    check(lambda x: F.cross_entropy(x * 1.1, targets), x)
    mask = torch.ones(53, 53, dtype=torch.bool).tril()
    query = values(2, 4, 53, 16)
    check(lambda q: F.scaled_dot_product_attention(q, q * 1.1, q, attn_mask=mask), query)


@pytest.mark.parametrize("name", ["bert-base", "gpt2", "llama-60m", "llama-60m-decode", "vit-s", "resnet18", "mlp"])
def test_models(name):
    model = MODELS[name].build(True)
    compiled = framejit.compile(model, strict=True)
    with torch.no_grad():
        for seed, variant in ((0, 0), (1, 0), (0, 1)):
            inputs = MODELS[name].inputs(True, seed, variant)
            assert_bits(compiled(**inputs), model(**inputs), name)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", ["bert-base", "llama-60m", "vit-s", "mlp", "lstm-loop"])
def test_gradients(name, dtype):
    model = MODELS[name].build(True).to(dtype)
    other = copy.deepcopy(model)
    inputs = MODELS[name].inputs(True, 0, 0)
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}

    def step(module):
        loss = sum((output.float() * 1.1).square().mean() for output in output_tensors(module(**inputs)))
        loss.backward()
        return loss

    assert_bits(framejit.compile(step, strict=True)(model), step(other), "loss")
    parameters = zip(model.named_parameters(), other.parameters(), strict=True)
    for (label, got), expected in parameters:
        assert (got.grad is None) == (expected.grad is None), label
        if got.grad is not None:
            assert_bits(got.grad, expected.grad, label)


def test_other_sizes_stay_strict():
    compiled = framejit.compile(INEXACT["softmax"], strict=True, dynamic=True)
    with torch.no_grad():
        for rows in (3, 5, 8):
            assert_bits(compiled(values(rows, 53)), INEXACT["softmax"](values(rows, 53)))


def helper(x):
    return torch.exp(x * 1.3) * 1.1


def test_undecorated_functions_behind_a_break():
    """Strict and other callers share the helper's code, and not what is compiled for it."""

    def outer(x):
        framejit.graph_break()
        return helper(x)

    x = values(37, 53)
    with torch.no_grad():
        expected = helper(x)
        framejit.compile(outer)(x)
        for _ in range(2):
            assert_bits(framejit.compile(outer, strict=True)(x), expected)
        with framejit.enable(strict=True):
            inside = helper(x)
        assert_bits(inside, expected)


def test_errors():
    for backend in ("inductor", lambda module, inputs: module):
        with pytest.raises(ValueError, match="strict: backend .* cannot promise eager's bits; those can: auto, cpu"):
            framejit.compile(helper, backend=backend, strict=True)
    with pytest.raises(TypeError, match="strict: expected a bool, got int"):
        framejit.compile(helper, strict=1)
    with pytest.raises(TypeError, match=r"framejit\.enable: strict: expected a bool"):
        framejit.enable(strict="yes")
