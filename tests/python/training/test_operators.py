"""Entries of PyTorch's derivatives.yaml beside those of test_layers.py: results and gradients are eager's, from graphs
of our own except where the formula of the derivative looks at data."""

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import vector
from training_tables import is_native
from training_testing import NEEDS_AMINMAX, check

I4 = torch.eye(4)
ROWS = torch.tensor([2, 0, 2])
MASK = vector(4, 6, seed=9) > 0
PLACES = torch.tensor([[1, 1], [0, 5], [2, 3], [4, 4]])


@pytest.fixture(autouse=True)
def constants(device, monkeypatch):
    for name in ("I4", "ROWS", "MASK", "PLACES"):
        monkeypatch.setitem(globals(), name, globals()[name].to(device))


def x(*shape: int, seed: int = 1) -> torch.Tensor:
    return vector(*shape, seed=seed).requires_grad_()


def positive(*shape: int, seed: int = 1) -> torch.Tensor:
    return (vector(*shape, seed=seed).abs() + 0.5).detach().requires_grad_()


def small(*shape: int, seed: int = 1) -> torch.Tensor:
    """Between -0.9 and 0.9."""
    return (vector(*shape, seed=seed).tanh() * 0.9).detach().requires_grad_()


ELEMENTWISE = {
    "acos": (torch.acos, small(4, 6)),
    "acosh": (lambda a: torch.acosh(a + 1), positive(4, 6)),
    "asin": (torch.asin, small(4, 6)),
    "asinh": (torch.asinh, x(4, 6)),
    "atan": (torch.atan, x(4, 6)),
    "atanh": (torch.atanh, small(4, 6)),
    "angle": (lambda a: torch.angle(a) + a, x(4, 6)),
    "ceil floor round trunc": (lambda a: (a * 3).ceil() + a.floor() * a + a.round() * a.trunc() + a, x(4, 6)),
    "copysign": (torch.copysign, x(4, 6), x(4, 6, seed=2)),
    "cosh sinh": (lambda a: a.cosh() * a.sinh(), x(4, 6)),
    "deg2rad rad2deg": (lambda a: a.deg2rad() + a.rad2deg(), x(4, 6)),
    "digamma": (torch.digamma, positive(4, 6)),
    "exp2 expm1": (lambda a: a.exp2() * a.expm1(), x(4, 6)),
    "erfinv": (torch.erfinv, small(4, 6)),
    "fmod": (lambda a, b: torch.fmod(a, b) + torch.fmod(a, 0.7), x(4, 6), positive(4, 6, seed=2)),
    "fmin fmax": (lambda a, b: torch.fmin(a, b) * torch.fmax(a, b), x(4, 6), x(4, 6, seed=2)),
    "frac": (lambda a: (a * 3).frac() * a, x(4, 6)),
    "hypot": (torch.hypot, x(4, 6), x(4, 6, seed=2)),
    "i0": (torch.i0, x(4, 6)),
    "ldexp": (torch.ldexp, x(4, 6), small(4, 6, seed=2)),
    "lerp by a tensor": (torch.lerp, x(4, 6), x(4, 6, seed=2), small(4, 6, seed=3)),
    "lgamma": (torch.lgamma, positive(4, 6)),
    "log2 log10": (lambda a: a.log2() + a.log10(), positive(4, 6)),
    "logaddexp": (lambda a, b: torch.logaddexp(a, b) + torch.logaddexp2(a, b), x(4, 6), x(4, 6, seed=2)),
    "logit": (lambda a: torch.logit(a.abs(), 1e-3), small(4, 6)),
    "neg reciprocal square": (lambda a: -a.reciprocal() * a.square(), positive(4, 6)),
    "polygamma": (lambda a: torch.polygamma(1, a), positive(4, 6)),
    "remainder": (lambda a, b: torch.remainder(a, b) + torch.remainder(a, 0.7), x(4, 6), positive(4, 6, seed=2)),
    "rsub": (lambda a: 3 - a * (2 - a), x(4, 6)),
    "sgn": (lambda a: a.sgn() * a, x(4, 6)),
    "sinc": (torch.sinc, x(4, 6)),
    "special functions": (lambda a: torch.special.entr(a) + torch.special.ndtri(a * 0.4) + torch.special.erfcx(a),
                          positive(4, 6)),
    "special bessel": (lambda a: torch.special.i0e(a) + torch.special.i1(a) + torch.special.i1e(a), x(4, 6)),
    "tan": (torch.tan, small(4, 6)),
    "xlogy xlog1py": (lambda a, b: torch.xlogy(a, b) + torch.special.xlog1py(a, b), x(4, 6), positive(4, 6, seed=2)),
    "scalar pow": (lambda a: 2**a + a**0.5, positive(4, 6)),
    "true and floor divide": (lambda a, b: a / b + torch.div(a, b, rounding_mode="floor") * a, x(4, 6), positive(4, 6)),
    "clamp by tensors": (lambda a, b: torch.clamp(a, -b, b), x(4, 6), positive(4, 6, seed=2)),
    "clamp min max": (lambda a: a.clamp_min(-0.2) * a.clamp_max(0.3), x(4, 6)),
    "real imag": (lambda a, b: torch.complex(a, b).real + torch.complex(a, b).conj().imag, x(4, 6), x(4, 6, seed=2)),
    "polar": (lambda a, b: torch.view_as_real(torch.polar(a, b)), positive(4, 6), x(4, 6, seed=2)),
}  # fmt: skip

ACTIVATIONS = {
    "celu": lambda a: F.celu(a, 0.7),
    "elu": lambda a: F.elu(a, 0.7),
    "glu": lambda a: F.glu(a, 1),
    "hardshrink": lambda a: F.hardshrink(a, 0.3),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "logsigmoid": F.logsigmoid,
    "mish": F.mish,
    "relu6": lambda a: F.relu6(a * 5),
    "selu": F.selu,
    "softmin": lambda a: F.softmin(a, 1),
    "softplus": lambda a: F.softplus(a, 2.0),
    "softshrink": lambda a: F.softshrink(a, 0.3),
    "softsign": F.softsign,
    "threshold": lambda a: F.threshold(a, 0.1, 2.0),
}

REDUCTIONS = {
    "aminmax": (lambda a: torch.aminmax(a, dim=1)[1] * torch.aminmax(a, dim=1)[0], x(4, 6)),
    "cummax cummin": (lambda a: a.cummax(1).values * a.cummin(0).values, x(4, 6)),
    "dist": (lambda a, b: torch.dist(a, b), x(4, 6), x(4, 6, seed=2)),
    "kthvalue": (lambda a: a.kthvalue(3, 1).values * 2, x(4, 6)),
    "logcumsumexp": (lambda a: a.logcumsumexp(1), x(4, 6)),
    "median": (lambda a: a.median(1).values * a.median(), x(4, 6)),
    "mode": (lambda a: a.mode(1).values * 2, x(4, 6)),
    "msort argsort": (lambda a: a.msort() * a.argsort(1), x(4, 6)),
    "nansum nanmean": (lambda a: a.nansum(1) * a.nanmean(1), x(4, 6)),
    "norms": (lambda a: a.norm(1, 1) + a.norm(3, 1) + a.norm(float("inf"), 1), x(4, 6)),
    "quantile": (lambda a: torch.quantile(a, 0.3, 1), x(4, 6)),
    "std mean": (lambda a: sum(torch.std_mean(a, 1)) + sum(torch.var_mean(a, 1, correction=0)), x(4, 6)),
    "trace": (torch.trace, x(6, 6)),
    "vector norm": (lambda a: torch.linalg.vector_norm(a, 2.5, 1), x(4, 6)),
    "diff": (lambda a: torch.diff(a) * 2, x(4, 6)),
    "trapezoid": (lambda a: torch.trapezoid(a, dx=0.3), x(4, 6)),
    "renorm": (lambda a: torch.renorm(a, 2, 0, 0.5), x(4, 6)),
    "pairwise distance": (F.pairwise_distance, x(4, 6), x(4, 6, seed=2)),
    "cdist": (torch.cdist, x(4, 6), x(3, 6, seed=2)),
    "pdist": (lambda a: F.pdist(a), x(4, 6)),
}

PRODUCTS = {
    "addbmm": (torch.addbmm, x(4, 5), x(2, 4, 3, seed=2), x(2, 3, 5, seed=3)),
    "addmv": (torch.addmv, x(4), x(4, 6, seed=2), x(6, seed=3)),
    "addr": (torch.addr, x(4, 6), x(4, seed=2), x(6, seed=3)),
    "baddbmm": (lambda a, b, c: torch.baddbmm(a, b, c, beta=2, alpha=0.5), x(2, 4, 5), x(2, 4, 3, seed=2),
                x(2, 3, 5, seed=3)),
    "bilinear": (F.bilinear, x(4, 3), x(4, 2, seed=2), x(5, 3, 2, seed=3)),
    "cross": (lambda a, b: torch.linalg.cross(a, b), x(4, 3), x(4, 3, seed=2)),
    "kron": (torch.kron, x(2, 3), x(3, 2, seed=2)),
    "mv": (torch.mv, x(4, 6), x(6, seed=2)),
    "inner tensordot": (lambda a, b: torch.inner(a, b) + torch.tensordot(a, b, ([1], [1])), x(4, 6), x(3, 6, seed=2)),
    "matrix power": (lambda a: torch.linalg.matrix_power(a, 3), x(4, 4)),
    "chain matmul": (lambda a, b, c: torch.linalg.multi_dot([a, b, c]), x(4, 6), x(6, 3, seed=2), x(3, 5, seed=3)),
    "cholesky": (lambda a: torch.linalg.cholesky(a @ a.t() + I4), x(4, 4)),
    "solve": (lambda a, b: torch.linalg.solve(a @ a.t() + I4, b), x(4, 4), x(4, 2, seed=2)),
    "triangular solve": (lambda a, b: torch.linalg.solve_triangular(a.tril() + 3 * I4, b, upper=False), x(4, 4),
                         x(4, 2, seed=2)),
    "logdet slogdet": (lambda a: torch.logdet(a @ a.t() + I4) + torch.linalg.slogdet(a @ a.t() + I4)[1], x(4, 4)),
    "qr": (lambda a: torch.linalg.qr(a)[1].abs(), x(5, 4)),
    "eigenvalues": (lambda a: torch.linalg.eigvalsh(a + a.t()), x(4, 4)),
    "singular values": (lambda a: torch.linalg.svdvals(a), x(4, 5)),
    "pseudo inverse": (lambda a: torch.linalg.pinv(a), x(4, 5)),
    "matrix exponential": (lambda a: torch.linalg.matrix_exp(a * 0.3), x(4, 4)),
}  # fmt: skip

INDEXING = {
    "as strided": (lambda a: a.clone().as_strided((3, 2), (6, 2), 1) * 2, x(4, 6)),
    "diag embed": (lambda a: torch.diag_embed(a) * 2, x(4, 6)),
    "diagonal scatter": (lambda a, b: torch.diagonal_scatter(a, b) * 2, x(4, 6), x(4, seed=2)),
    "index add": (lambda a, b: a.index_add(0, ROWS, b) * 2, x(4, 6), x(3, 6, seed=2)),
    "index copy": (lambda a, b: a.index_copy(0, ROWS[:2], b) * 2, x(4, 6), x(2, 6, seed=2)),
    "index fill": (lambda a: a.index_fill(0, ROWS, 0.5) * 2, x(4, 6)),
    "index put": (lambda a, b: a.index_put((ROWS,), b) * 2, x(4, 6), x(6, seed=2)),
    "index put that adds": (lambda a, b: a.index_put((ROWS,), b, accumulate=True) * 2, x(4, 6), x(6, seed=2)),
    "index reduce": (lambda a, b: a.index_reduce(0, ROWS, b, "mean") * 2, x(4, 6), x(3, 6, seed=2)),
    "masked scatter": (lambda a, b: a.masked_scatter(MASK, b) * 2, x(4, 6), x(4, 6, seed=2)),
    "masked fill by a tensor": (lambda a, b: a.masked_fill(MASK, b[0]) * 2, x(4, 6), x(1, seed=2)),
    "movedim swapaxes": (lambda a: a.movedim(0, 2) * a.swapaxes(0, 2).swapaxes(0, 1), x(2, 2, 2)),
    "put take": (lambda a, b: a.put(ROWS, b) * a.take(ROWS).sum(), x(4, 6), x(3, seed=2)),
    "rot90": (lambda a: torch.rot90(a) * 2, x(4, 6)),
    "scatter": (lambda a, b: a.scatter(1, PLACES[:, 1:], b), x(4, 6), x(4, 1, seed=2)),
    "scatter reduce": (lambda a, b: a.scatter_reduce(1, PLACES, b, "amax"), x(4, 6), x(4, 2, seed=2)),
    "select scatter": (lambda a, b: torch.select_scatter(a, b, 0, 1) * 2, x(4, 6), x(6, seed=2)),
    "slice scatter": (lambda a, b: torch.slice_scatter(a, b, 1, 1, 3) * 2, x(4, 6), x(4, 2, seed=2)),
    "slices that are written": (lambda a, b: torch.cat([a]).index_fill_(0, ROWS, 0.0).mul_(b), x(4, 6), x(6, seed=2)),
    "take along a dimension": (lambda a: a.take_along_dim(PLACES, 1) * 2, x(4, 6)),
    "unflatten": (lambda a: a.unflatten(1, (2, 3)).flatten(0, 1) * 2, x(4, 6)),
    "vstack hstack": (lambda a, b: torch.vstack([a, b]) * torch.hstack([a.t(), b.t()]).t(), x(4, 6), x(2, 6, seed=2)),
    "where by a number": (lambda a: torch.where(MASK, a, 0.5) * 2, x(4, 6)),
    "meshgrid": (lambda a, b: sum(torch.meshgrid(a, b, indexing="ij")) ** 2, x(4), x(6, seed=2)),
    "expand as": (lambda a, b: a.expand_as(b) * b, x(6), x(4, 6, seed=2)),
    "tile": (lambda a: a.tile(2, 1) * 2, x(4, 6)),
}

IMAGES = {
    "adaptive average pool": (lambda a: F.adaptive_avg_pool2d(a, 3), x(2, 3, 7, 8)),
    "adaptive max pool": (lambda a: F.adaptive_max_pool2d(a, 3), x(2, 3, 7, 8)),
    "average pool 1d 3d": (lambda a: F.avg_pool1d(a[0], 2).sum() + F.avg_pool3d(a[None], 2), x(2, 4, 6, 8)),
    "max unpool": (lambda a: F.max_unpool2d(*F.max_pool2d(a, 2, return_indices=True), 2), x(2, 3, 6, 8)),
    "lp pool": (lambda a: F.lp_pool2d(a, 2, 2), positive(2, 3, 6, 8)),
    "conv1d": (lambda a, w, b: F.conv1d(a, w, b, stride=2, dilation=2), x(2, 3, 12), x(4, 3, 3, seed=2), x(4, seed=3)),
    "conv3d": (lambda a, w: F.conv3d(a, w, padding=1), x(1, 2, 4, 5, 6), x(3, 2, 3, 3, 3, seed=2)),
    "transposed conv": (lambda a, w: F.conv_transpose2d(a, w, stride=2, groups=2), x(2, 4, 5, 6), x(4, 2, 3, 3)),
    "fold unfold": (lambda a: F.fold(F.unfold(a, 3), (6, 8), 3), x(2, 3, 6, 8)),
    "bilinear grid sample": (lambda a, g: F.grid_sample(a, g, align_corners=False), x(2, 3, 6, 8), small(2, 4, 5, 2)),
    "affine grid": (lambda a: F.affine_grid(a, [2, 3, 4, 5], align_corners=False), x(2, 2, 3)),
    "nearest": (lambda a: F.interpolate(a, scale_factor=2, mode="nearest"), x(2, 3, 4, 5)),
    "bilinear upsampling": (lambda a: F.interpolate(a, (7, 9), mode="bilinear"), x(2, 3, 4, 5)),
    "bicubic": (lambda a: F.interpolate(a, (7, 9), mode="bicubic", align_corners=True), x(2, 3, 4, 5)),
    "reflection pad": (lambda a: F.pad(a, (1, 2, 2, 1), mode="reflect") * 2, x(2, 3, 4, 5)),
    "replication pad": (lambda a: F.pad(a, (1, 2, 2, 1), mode="replicate") * 2, x(2, 3, 4, 5)),
    "circular pad": (lambda a: F.pad(a, (1, 2, 2, 1), mode="circular") * 2, x(2, 3, 4, 5)),
    "pixel shuffle": (lambda a: F.pixel_shuffle(a, 2) * F.pixel_unshuffle(a, 1).sum(), x(2, 4, 3, 5)),
    "channel shuffle": (lambda a: F.channel_shuffle(a, 2) * 2, x(2, 4, 3, 5)),
    "local response norm": (lambda a: F.local_response_norm(a, 2), x(2, 4, 3, 5)),
    "prelu": (F.prelu, x(2, 4, 3), x(4, seed=2)),
    "embedding bag": (lambda w: F.embedding_bag(torch.tensor([[1, 2], [3, 3]]), w, mode="sum"), x(5, 4)),
    "embedding with a padding index": (lambda w: F.embedding(ROWS, w, padding_idx=0) * 2, x(5, 4)),
    "instance norm": (lambda a, w: F.instance_norm(a, weight=w), x(2, 4, 6), x(4, seed=2)),
}

ALL = {**ELEMENTWISE, **{name: (f, x(4, 6)) for name, f in ACTIVATIONS.items()}, **REDUCTIONS, **PRODUCTS, **INDEXING,
       **IMAGES}  # fmt: skip


# Their derivatives look at data.
@pytest.mark.parametrize("name", [pytest.param(n, marks=NEEDS_AMINMAX) if n == "aminmax" else n for n in ALL])
def test_operator(name):
    function, *args = ALL[name]
    check(function, *args, native=is_native(name))
