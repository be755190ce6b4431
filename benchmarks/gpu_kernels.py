"""Kernels on a GPU: time of a call on the device, against eager and Inductor, and the bandwidth beside a copy's.

The bytes are those of the arguments and results, each once; the copy is of half a gigabyte. First calls include
compilation, with nothing cached; what the first use of either compiler loads and imports is there before.
"measured" is framejit's mode "max-autotune-no-cudagraphs".
Targets: no kernel slower than Inductor's (3 % noise band), their geometric mean 1.25; at least 90 % of a copy's
bandwidth; first calls five times sooner; no kernel slower for being measured (3 % noise band).
usage: python -m benchmarks.gpu_kernels [--check] [--kernels NAME,...] [--rounds N] [--no-inductor]
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import framejit
from benchmarks import common

F = torch.nn.functional
WARM_UP, ROUNDS, CALLS = 3, 10, 5
BANDWIDTH, MEAN_RATIO, FIRST_RATIO = 0.9, 1.25, 5


@dataclass
class Kernel:
    name: str
    function: Callable
    arguments: Callable[[], tuple]


def tensor(*sizes: int, dtype=torch.float32) -> Tensor:
    return torch.randn(sizes, device="cuda").to(dtype)


def gelu_sigmoid(x):
    return F.gelu(x) * torch.sigmoid(x) + x


def rms_norm(x, weight):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight


def bias_gelu_residual_norm(x, bias, residual, weight):
    return F.layer_norm(F.gelu(x + bias) + residual, (x.shape[-1],), weight)


def rope(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def swiglu(gate, up):
    return F.silu(gate) * up


BF16 = torch.bfloat16
ROWS, WIDTH = 16384, 4096
KERNELS = [
    Kernel("gelu_sigmoid_f32", gelu_sigmoid, lambda: (tensor(ROWS, WIDTH),)),
    Kernel("gelu_sigmoid_bf16", gelu_sigmoid, lambda: (tensor(ROWS, WIDTH, dtype=BF16),)),
    Kernel("softmax_f32", lambda x: torch.softmax(x, -1), lambda: (tensor(ROWS, WIDTH),)),
    Kernel("softmax_bf16_wide", lambda x: torch.softmax(x, -1), lambda: (tensor(4096, 32768, dtype=BF16),)),
    Kernel("layer_norm_bf16", lambda x, w: F.layer_norm(x, (WIDTH,), w),
           lambda: (tensor(ROWS, WIDTH, dtype=BF16), tensor(WIDTH, dtype=BF16))),
    Kernel("rms_norm_bf16", rms_norm, lambda: (tensor(ROWS, WIDTH, dtype=BF16), tensor(WIDTH, dtype=BF16))),
    Kernel("bias_gelu_residual_norm_bf16", bias_gelu_residual_norm,
           lambda: (tensor(ROWS, WIDTH, dtype=BF16), tensor(WIDTH, dtype=BF16), tensor(ROWS, WIDTH, dtype=BF16),
                    tensor(WIDTH, dtype=BF16))),
    Kernel("cross_entropy_f32", F.cross_entropy,
           lambda: (tensor(4096, 50304), torch.randint(50304, (4096,), device="cuda"))),
    Kernel("column_sum_f32", lambda x: x.sum(0), lambda: (tensor(ROWS, WIDTH),)),
    Kernel("sum_f32", lambda x: x.sum(), lambda: (tensor(ROWS, WIDTH),)),
    Kernel("swiglu_bf16", swiglu, lambda: (tensor(ROWS, 11008, dtype=BF16), tensor(ROWS, 11008, dtype=BF16))),
    Kernel("rope_bf16", rope, lambda: (tensor(8, 32, 4096, 128, dtype=BF16), tensor(4096, 128, dtype=BF16),
                                       tensor(4096, 128, dtype=BF16))),
    Kernel("transpose_f32", lambda x: x.t().contiguous(), lambda: (tensor(8192, 8192),)),
]  # fmt: skip


def first_seconds(function: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def device_seconds(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least device time of a call, over rounds of a few calls each that alternate between the candidates."""
    best = dict.fromkeys(candidates, math.inf)
    for function in candidates.values():
        for _ in range(WARM_UP):
            function()
    for _ in range(rounds):
        for name, function in candidates.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(CALLS):
                function()
            end.record()
            end.synchronize()
            best[name] = min(best[name], start.elapsed_time(end) / 1e3 / CALLS)
    return best


def byte_count(values: object) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


@torch.no_grad()
def measure(kernel: Kernel, options: argparse.Namespace, copy_bandwidth: float, targets: common.Targets) -> list[str]:
    """The row of the table; adds Inductor's time over framejit's to `options.ratios`, where that was measured."""
    arguments = kernel.arguments()
    expected = kernel.function(*arguments)
    moved = byte_count((arguments, expected))
    compiled = {"framejit": framejit.compile(kernel.function, fullgraph=True)}
    compiled["measured"] = framejit.compile(kernel.function, fullgraph=True, mode="max-autotune-no-cudagraphs")
    if not options.no_inductor:
        compiled["inductor"] = torch.compile(kernel.function)
    candidates = {name: lambda f=f: f(*arguments) for name, f in {"eager": kernel.function, **compiled}.items()}
    first = {name: first_seconds(candidates[name]) for name in compiled}
    for name in ("framejit", "measured"):
        torch.testing.assert_close(candidates[name](), expected, rtol=2e-2, atol=2e-2)
    del expected
    steady = device_seconds(candidates, options.rounds or (3 if options.quick else ROUNDS))
    share = moved / steady["framejit"] / copy_bandwidth
    targets.at_least(f"{kernel.name}: share of a copy's bandwidth", share, BANDWIDTH)
    if "inductor" in steady:
        targets.at_most(f"{kernel.name}: against Inductor", steady["framejit"], steady["inductor"])
        targets.at_most(f"{kernel.name}: first call", first["framejit"], first["inductor"] / FIRST_RATIO)
        options.ratios.append(steady["inductor"] / steady["framejit"])
    targets.at_most(f"{kernel.name}: launched as measured", steady["measured"], steady["framejit"])
    columns = ("eager", "inductor", "framejit", "measured")
    times = [f"{steady[name] * 1e6:.1f}" if name in steady else "-" for name in columns]
    firsts = [f"{first[name] * 1e3:.0f}" if name in first else "-" for name in columns[1:]]
    return [kernel.name, *times, f"{share:.0%}", f"{moved / 1e6:.0f}", *firsts]


def main() -> int:
    parser = common.parser(__doc__.splitlines()[0])
    names = [kernel.name for kernel in KERNELS]
    known = common.names_among(names)
    parser.add_argument("--kernels", default=",".join(names), type=known, help="names with commas between")
    parser.add_argument("--no-inductor", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    options.ratios = []
    os.environ.update(common.CHILD_ENVIRONMENT)
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    copy_bandwidth = 2 * source.numel() / device_seconds({"copy": source.clone}, ROUNDS)["copy"]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; a copy: {copy_bandwidth / 1e12:.2f} TB/s")
    table = common.GrowingTable(
        ["kernel, us", "eager", "inductor", "framejit", "measured", "of a copy", "MB"]
        + ["first, ms: inductor", "framejit", "measured"],
        30,
    )
    framejit.compile(lambda x: x + 1)(source[:16])  # what the first use sets up
    if not options.no_inductor:
        common.warm_imports()
        torch.compile(lambda x: x + 1)(source[:16])
    targets = common.Targets()
    with mock.patch.dict(os.environ, FRAMEJIT_CACHE_DIR=""):
        for kernel in KERNELS:
            if kernel.name in options.kernels.split(","):
                table.add(measure(kernel, options, copy_bandwidth, targets))
    if options.ratios:
        mean = math.prod(options.ratios) ** (1 / len(options.ratios))
        print(f"geometric mean over Inductor: {mean:.2f}")
        targets.at_least("geometric mean over Inductor", mean, MEAN_RATIO)
    return targets.finish(options.check)


if __name__ == "__main__":
    sys.exit(main())
