"""Operators, one line each: recorded metadata of every value equals eager's, and a replay gives eager's result."""

import pytest
import torch
import torch.nn.functional as F
from recording import check

R = torch.rand
CL = torch.channels_last


def f(*shape):
    return torch.randn(*shape)


def cl(*shape):
    return torch.randn(*shape).to(memory_format=CL)


def nt(*shape):
    """Dense, not contiguous: the last two dimensions swapped."""
    return torch.randn(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)


def strided(*shape):
    """Neither contiguous nor dense: every second element of the last dimension."""
    return torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]


def ints(high, *shape):
    return torch.randint(0, high, shape)


UNARY = {
    "relu": torch.relu,
    "abs": torch.abs,
    "neg": torch.neg,
    "exp": torch.exp,
    "log1p": lambda x: torch.log1p(x.abs()),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "softplus": F.softplus,
    "isnan": torch.isnan,
    "isinf": torch.isinf,
    "logical_not": torch.logical_not,
    "sign": torch.sign,
    "floor": torch.floor,
    "erf": torch.erf,
    "pow": lambda x: x**2,
    "rpow": lambda x: 2.0**x,
    "clamp": lambda x: x.clamp(-1, 1),
    "clone": torch.clone,
    "contiguous": lambda x: x.contiguous(),
    "zeros_like": torch.zeros_like,
    "ones_like": torch.ones_like,
    "full_like": lambda x: torch.full_like(x, 3),
    "rand_like": torch.rand_like,
    "to_double": lambda x: x.double(),
    "to_half": lambda x: x.half(),
    "mul": lambda x: x * 2,
    "add_int": lambda x: x + 1,
    "eq": lambda x: x == 0,
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(0),
    "sum": lambda x: x.sum(),
    "sum_dim": lambda x: x.sum(-1, keepdim=True),
    "mean": lambda x: x.mean(),
    "mean_dim": lambda x: x.mean(-1),
    "var": lambda x: x.var(),
    "var_dim": lambda x: x.var(-1),
    "std_dim": lambda x: x.std(0, keepdim=True),
    "var_mean": lambda x: torch.var_mean(x, -1),
    "amax": lambda x: x.amax(-1),
    "max_dim": lambda x: x.max(-1),
    "argmax": lambda x: x.argmax(-1),
    "sort": lambda x: x.sort(-1),
    "cumsum": lambda x: x.cumsum(-1),
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, 0),
    "repeat": lambda x: x.repeat(2, *[1] * (x.dim() - 1)),
    "tril": lambda x: x.tril(),
    "logsumexp": lambda x: x.logsumexp(-1),
    "norm": lambda x: x.norm(dim=-1),
    "masked_fill": lambda x: x.masked_fill(x > 0, 0.0),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "logical_and": lambda x: (x > 0).logical_and(x < 1),
    "new_zeros": lambda x: x.new_zeros(3),
    "unbind": lambda x: x.unbind(0),
    "split": lambda x: x.split(1, -1),
    "chunk": lambda x: x.chunk(2, -1),
    "stack": lambda x: torch.stack([x, x], 1),
    "cat": lambda x: torch.cat([x, x], -1),
    "slice": lambda x: x[..., 1:],
    "select": lambda x: x[0],
    "newaxis": lambda x: x[None],
    "transpose": lambda x: x.transpose(0, -1),
    "dropout": lambda x: F.dropout(x, 0.5),
    "flatten": lambda x: x.flatten(),
    "index_select": lambda x: x.index_select(0, torch.arange(1)),
    "nan_to_num": torch.nan_to_num,
    "native_dropout": lambda x: torch.native_dropout(x, 0.5, True),
    "pad": lambda x: F.pad(x, (1, 1)),
    "expand": lambda x: x.expand(2, *x.shape),
    "is_inf_any": lambda x: x.isinf().any(),
    "linalg_norm": lambda x: torch.linalg.vector_norm(x),
}
LAYOUTS = {
    "contiguous": lambda: f(2, 3, 4, 5),
    "channels_last": lambda: cl(2, 3, 4, 5),
    "transposed": lambda: nt(2, 3, 4, 5),
    "strided": lambda: strided(2, 3, 4, 5),
    "expanded": lambda: f(2, 1, 4, 5).expand(2, 3, 4, 5),
    "matrix": lambda: nt(4, 6),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", UNARY)
def test_unary(op, layout):
    # The functional form of dropout exists for contiguous tensors alone (test_random_numbers_keep_their_order).
    check(UNARY[op], [LAYOUTS[layout]()], functionalize=op != "dropout" or layout == "contiguous")


CASES = {
    "add_broadcast": (lambda x, y: x + y, lambda: [f(2, 3, 4), f(3, 1)]),
    "add_mixed_layout": (lambda x, y: x + y, lambda: [f(2, 3, 4, 5), cl(2, 3, 4, 5)]),
    "promotion": (lambda x, y: x * y, lambda: [f(3), ints(5, 3)]),
    "int_div": (lambda x: x / 2, lambda: [ints(5, 3)]),
    "where_broadcast": (torch.where, lambda: [f(4, 1) > 0, f(1, 5), nt(4, 5).double()]),
    "where_mixed": (torch.where, lambda: [nt(4, 5) > 0, f(4, 5), nt(4, 5)]),
    "masked_fill_broadcast": (lambda x, m: x.masked_fill(m, 1.0), lambda: [f(4, 1), f(4, 5) > 0]),
    "masked_fill_tensor": (lambda x, m: x.masked_fill(m, torch.zeros(())), lambda: [nt(4, 5), f(4, 5) > 0]),
    "matmul": (torch.matmul, lambda: [f(2, 3, 4), f(4, 5)]),
    "matmul_batched": (torch.matmul, lambda: [f(2, 3, 4), f(2, 4, 5)]),
    "mv": (torch.mv, lambda: [f(3, 4), f(4)]),
    "dot": (torch.dot, lambda: [f(4), f(4)]),
    "addmm": (torch.addmm, lambda: [f(5), f(3, 4), f(4, 5)]),
    "linear": (F.linear, lambda: [f(2, 3, 4), f(5, 4), f(5)]),
    "einsum": (lambda x, y: torch.einsum("bij,bkj->bik", x, y), lambda: [f(2, 3, 4), f(2, 5, 4)]),
    "embedding": (F.embedding, lambda: [ints(7, 2, 3), f(7, 4)]),
    "embedding_padding": (lambda i, w: F.embedding(i, w, 0), lambda: [ints(7, 2, 3), nt(7, 4)]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), lambda: [f(2, 3, 4), f(4), f(4)]),
    "layer_norm_strided": (lambda x: F.layer_norm(x, (3, 4)), lambda: [nt(2, 3, 4)]),
    "layer_norm_bf16": (
        lambda x, w, b: torch.native_layer_norm(x, (4,), w, b, 1e-5),
        lambda: [f(2, 4).bfloat16(), f(4), f(4)],
    ),
    "layer_norm_all_bf16": (
        lambda x, w, b: torch.native_layer_norm(x, (4,), w, b, 1e-5),
        lambda: [f(2, 4).bfloat16(), f(4).bfloat16(), f(4).bfloat16()],
    ),
    "rms_norm": (lambda x, w: F.rms_norm(x, (4,), w), lambda: [f(2, 3, 4), f(4)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), lambda: [f(2, 4, 5, 5), f(4), f(4)]),
    "group_norm_cl": (lambda x, w, b: F.group_norm(x, 2, w, b), lambda: [cl(2, 4, 5, 5), f(4), f(4)]),
    "batch_norm_eval": (
        lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b),
        lambda: [f(2, 4, 5, 5), f(4), R(4), f(4), f(4)],
    ),
    "batch_norm_eval_cl": (
        lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b),
        lambda: [cl(2, 4, 5, 5), f(4), R(4), f(4), f(4)],
    ),
    "batch_norm_train": (
        lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, training=True),
        lambda: [f(2, 4, 5, 5), f(4), R(4), f(4), f(4)],
    ),
    "batch_norm_train_cl": (lambda x, m, v: F.batch_norm(x, m, v, training=True), lambda: [cl(2, 4, 5, 5), f(4), R(4)]),
    "batch_norm_no_stats": (lambda x: F.batch_norm(x, None, None, training=True), lambda: [f(2, 4, 5)]),
    "batch_norm_2d": (lambda x, m, v: F.batch_norm(x, m, v), lambda: [f(6, 4), f(4), R(4)]),
    "batch_norm_transposed": (lambda x, m, v: F.batch_norm(x, m, v), lambda: [nt(2, 4, 5), f(4), R(4)]),
    "batch_norm_legit": (
        lambda x, m, v: torch.ops.aten._native_batch_norm_legit(x, None, None, m, v, True, 0.1, 1e-5),
        lambda: [f(2, 4, 5), f(4), R(4)],
    ),
    "batch_norm_functional": (
        lambda x, m, v: torch.ops.aten._native_batch_norm_legit_functional(x, None, None, m, v, True, 0.1, 1e-5),
        lambda: [f(2, 4, 5), f(4), R(4)],
    ),
    "batch_norm_no_training": (
        lambda x, m, v: torch.ops.aten._native_batch_norm_legit_no_training(x, None, None, m, v, 0.1, 1e-5),
        lambda: [f(2, 4, 5), f(4), R(4)],
    ),
    "conv1d": (F.conv1d, lambda: [f(2, 3, 9), f(4, 3, 3), f(4)]),
    "conv2d": (F.conv2d, lambda: [f(2, 3, 8, 9), f(4, 3, 3, 3), f(4)]),
    "conv2d_cl": (F.conv2d, lambda: [cl(2, 3, 8, 9), f(4, 3, 3, 3), f(4)]),
    "conv2d_cl_weight": (F.conv2d, lambda: [f(2, 3, 8, 9), cl(4, 3, 3, 3), f(4)]),
    "conv2d_transposed_input": (F.conv2d, lambda: [nt(2, 3, 8, 9), f(4, 3, 3, 3)]),
    "conv2d_stride": (
        lambda x, w: F.conv2d(x, w, stride=2, padding=1, dilation=2),
        lambda: [f(2, 3, 9, 9), f(4, 3, 3, 3)],
    ),
    "conv2d_depthwise": (lambda x, w: F.conv2d(x, w, groups=4), lambda: [f(2, 4, 9, 9), f(4, 1, 3, 3)]),
    "conv2d_1x1": (F.conv2d, lambda: [f(2, 3, 8, 8), f(4, 3, 1, 1)]),
    "conv2d_one_channel": (F.conv2d, lambda: [f(2, 1, 8, 8), f(4, 1, 3, 3)]),
    "conv2d_patches": (lambda x, w: F.conv2d(x, w, stride=4), lambda: [f(1, 3, 16, 16), f(8, 3, 4, 4)]),
    "conv2d_double": (F.conv2d, lambda: [f(2, 3, 8, 9).double(), f(4, 3, 3, 3).double()]),
    "conv2d_double_cl": (F.conv2d, lambda: [cl(2, 3, 8, 9).double(), cl(4, 3, 3, 3).double()]),
    "conv2d_double_cl_input": (F.conv2d, lambda: [cl(2, 3, 8, 9).double(), f(4, 3, 3, 3).double()]),
    "conv2d_double_dilated": (
        lambda x, w: F.conv2d(x, w, dilation=2),
        lambda: [cl(2, 3, 8, 9).double(), f(4, 3, 3, 3).double()],
    ),
    "conv2d_double_groups": (
        lambda x, w: F.conv2d(x, w, groups=2),
        lambda: [cl(2, 4, 8, 9).double(), f(4, 2, 3, 3).double()],
    ),
    "conv2d_empty_batch": (F.conv2d, lambda: [f(0, 3, 8, 9), f(4, 3, 3, 3), f(4)]),
    "conv2d_bf16": (F.conv2d, lambda: [cl(2, 3, 8, 9).bfloat16(), f(4, 3, 3, 3).bfloat16()]),
    "conv3d": (F.conv3d, lambda: [f(2, 3, 5, 6, 7), f(4, 3, 3, 3, 3)]),
    "conv3d_cl": (F.conv3d, lambda: [f(2, 3, 5, 6, 7).to(memory_format=torch.channels_last_3d), f(4, 3, 3, 3, 3)]),
    "conv_transpose2d": (F.conv_transpose2d, lambda: [f(2, 3, 8, 9), f(3, 4, 3, 3)]),
    "conv_transpose2d_cl": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, output_padding=1),
        lambda: [cl(2, 3, 8, 9), f(3, 4, 3, 3)],
    ),
    "conv_transpose2d_double": (F.conv_transpose2d, lambda: [cl(2, 3, 8, 9).double(), f(3, 4, 3, 3).double()]),
    "conv_transpose1d": (F.conv_transpose1d, lambda: [f(2, 3, 8), f(3, 4, 3)]),
    "sdpa": (F.scaled_dot_product_attention, lambda: [f(2, 3, 5, 4), f(2, 3, 6, 4), f(2, 3, 6, 4)]),
    "sdpa_causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda: [nt(2, 3, 5, 4), f(2, 3, 5, 4), f(2, 3, 5, 4)],
    ),
    "sdpa_mask": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        lambda: [f(2, 3, 5, 4).transpose(1, 2), f(2, 5, 3, 4), f(2, 5, 3, 4), f(1, 1, 3, 3)],
    ),
    "sdpa_bool_mask": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        lambda: [f(2, 3, 5, 4), f(2, 3, 5, 4), f(2, 3, 5, 4), torch.ones(5, 5, dtype=torch.bool).tril()],
    ),
    "sdpa_math": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), lambda: [f(5, 4), f(6, 4), f(6, 4)]),
    "sdpa_gqa": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        lambda: [f(2, 4, 5, 4), f(2, 2, 5, 4), f(2, 2, 5, 4)],
    ),
    "sdpa_bf16": (
        F.scaled_dot_product_attention,
        lambda: [f(2, 3, 5, 4).bfloat16(), f(2, 3, 5, 4).bfloat16(), f(2, 3, 5, 4).bfloat16()],
    ),
    "mha": (
        lambda x, w, b, o, c: F.multi_head_attention_forward(
            x, x, x, 4, 2, w, b, None, None, False, 0.0, o, c, need_weights=False
        )[0],
        lambda: [f(3, 2, 4), f(12, 4), f(12), f(4, 4), f(4)],
    ),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), lambda: [f(2, 3, 9, 9)]),
    "max_pool2d_cl": (lambda x: F.max_pool2d(x, 3, 2, 1), lambda: [cl(2, 3, 9, 9)]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3), lambda: [cl(2, 3, 9, 9)]),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 3), lambda: [f(2, 3, 9, 9)]),
    "adaptive_avg_pool2d_cl": (lambda x: F.adaptive_avg_pool2d(x, 3), lambda: [cl(2, 3, 9, 9)]),
    "adaptive_avg_pool2d_1": (lambda x: F.adaptive_avg_pool2d(x, 1), lambda: [cl(2, 3, 9, 9)]),
    "adaptive_avg_pool2d_3d": (lambda x: F.adaptive_avg_pool2d(x, 3), lambda: [nt(3, 9, 9)]),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), lambda: [f(2, 3, 4, 4)]),
    "bilinear": (lambda x: F.interpolate(x, size=(7, 7), mode="bilinear"), lambda: [cl(2, 3, 4, 4)]),
    "index": (lambda x, i: x[i], lambda: [f(5, 4), ints(5, 3)]),
    "index_two": (lambda x, i: x[:, i, i], lambda: [f(5, 4, 4), ints(4, 3)]),
    "index_none": (lambda x, i: x[i, :, i], lambda: [nt(5, 4, 5), ints(4, 3)]),
    "gather": (lambda x, i: x.gather(1, i), lambda: [f(5, 4), ints(4, 5, 2)]),
    "scatter": (lambda x, i: x.scatter(1, i, 1.0), lambda: [nt(5, 4), ints(4, 5, 2)]),
    "scatter_add": (lambda x, i, s: x.scatter_add(1, i, s), lambda: [f(5, 4), ints(4, 5, 2), f(5, 2)]),
    "index_add": (lambda x, i, s: x.index_add(0, i, s), lambda: [f(5, 4), ints(5, 2), f(2, 4)]),
    "index_put": (lambda x, i: x.index_put((i,), torch.tensor(1.0)), lambda: [nt(5, 4), ints(5, 2)]),
    "index_select": (lambda x, i: x.index_select(1, i), lambda: [nt(5, 4), ints(4, 3)]),
    "topk": (lambda x: x.topk(2), lambda: [nt(5, 4)]),
    "one_hot_free": (lambda i: (i[:, None] == torch.arange(5)).float(), lambda: [ints(5, 3)]),
    "arange": (
        lambda x: (
            torch.arange(5),
            torch.arange(1, 7, 2),
            torch.arange(0, 1, 0.3),
            torch.arange(5.0),
            torch.arange(3, dtype=torch.int32),
            torch.arange(5, 0, -2),
            x + 0,
        ),
        lambda: [f(1)],
    ),
    "full": (
        lambda x: (
            torch.full((2,), 1),
            torch.full((2,), 1.5),
            torch.full((2,), True),
            torch.full((2,), 2, dtype=torch.float16),
            x + 0,
        ),
        lambda: [f(1)],
    ),
    "creation": (
        lambda x: (
            torch.zeros(2, 3),
            torch.ones(2, dtype=torch.int64),
            torch.eye(3),
            torch.eye(2, 3),
            torch.linspace(0, 1, 5),
            torch.rand(3),
            torch.randn(2),
            torch.randint(0, 5, (2,)),
            torch.randint(5, (2,)),
            torch.randperm(4),
            x.new_ones(2),
            x.new_full((2,), 3),
            x + 0,
        ),
        lambda: [f(1)],
    ),
    "scalar_ops": (lambda x: x * torch.tensor(2.0) + torch.scalar_tensor(3), lambda: [f(3)]),
    "zero_dim_inputs": (lambda x, y: x * y + 1, lambda: [torch.tensor(2.0), f(3)]),
    "zero_dim_promotion": (lambda x, y: x * y, lambda: [torch.tensor(2.0, dtype=torch.float64), f(3)]),
    "empty": (lambda x: (x.relu(), x.sum(), x.clone(), x.softmax(-1), x + 1), lambda: [f(0, 3)]),
    "cross_entropy": (F.cross_entropy, lambda: [f(3, 5), ints(5, 3)]),
    "mse": (F.mse_loss, lambda: [f(3, 5), f(3, 5)]),
    "glu": (F.glu, lambda: [f(3, 4)]),
    "prelu": (F.prelu, lambda: [f(3, 4), R(1)]),
    "baddbmm": (torch.baddbmm, lambda: [f(2, 3, 5), f(2, 3, 4), f(2, 4, 5)]),
    "complex": (
        lambda x: torch.view_as_real(torch.view_as_complex(x) * torch.view_as_complex(x).conj()),
        lambda: [f(3, 2)],
    ),
    "rope": (
        lambda x, p: torch.cat([-x[..., 2:], x[..., :2]], -1) * p.cos() + x * p.sin(),
        lambda: [f(2, 3, 4), f(3, 4)],
    ),
    "unfold": (lambda x: F.unfold(x, 3), lambda: [f(2, 3, 5, 5)]),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), lambda: [f(2, 8, 3, 3)]),
    "cdist": (torch.cdist, lambda: [f(3, 4), f(5, 4)]),
    "meshgrid": (lambda x, y: torch.meshgrid(x, y, indexing="ij"), lambda: [f(3), f(4)]),
    "outer": (torch.outer, lambda: [f(3), f(4)]),
    "cosine": (F.cosine_similarity, lambda: [f(3, 4), f(3, 4)]),
    "normalize": (F.normalize, lambda: [f(3, 4)]),
    "bool_sum": (lambda x: (x > 0).sum(), lambda: [f(3)]),
    "int_mean": (lambda x: x.float().mean(), lambda: [ints(3, 3)]),
    "clamp_min": (lambda x: x.clamp_min(0), lambda: [nt(3, 4)]),
    "min_all": (lambda x: (x.min(), x.max()), lambda: [f(3, 4)]),
    "bucketize": (torch.bucketize, lambda: [f(3), torch.tensor([0.0, 1.0])]),
    "fft": (lambda x: torch.fft.rfft(x).abs(), lambda: [f(3, 8)]),
    "multinomial": (lambda x: torch.multinomial(x, 2), lambda: [R(3, 4)]),
    "bernoulli": (torch.bernoulli, lambda: [R(3, 4)]),
    "scatter_reduce": (lambda x, i: x.scatter_reduce(0, i, x, "sum"), lambda: [f(4), ints(4, 4)]),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 0), lambda: [f(3, 4)]),
    "diagonal": (lambda x: (x.diagonal(), torch.diag_embed(x)), lambda: [f(3, 3)]),
    "floor_divide": (lambda x: x // 2, lambda: [ints(9, 4)]),
    "reflection_pad": (lambda x: F.pad(x, (1, 1), mode="reflect"), lambda: [f(2, 3, 5)]),
}


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    function, inputs = CASES[case]
    check(function, inputs())
