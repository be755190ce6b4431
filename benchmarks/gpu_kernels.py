"""Kernels on a GPU: time of a call on the device, against eager and Inductor, and the bandwidth beside a copy's.

Needs a GPU. The bytes are those of the arguments and results, each once; the copy is of half a gigabyte.
usage: python -m benchmarks.gpu_kernels [--kernels NAME,...] [--no-inductor]
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import framejit

F = torch.nn.functional
WARM_UP, ROUNDS, CALLS = 3, 10, 5


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


def device_seconds(function: Callable[[], object]) -> float:
    """The least device time of a call, over rounds of a few calls each."""
    for _ in range(WARM_UP):
        function()
    best = math.inf
    for _ in range(ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(CALLS):
            function()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3 / CALLS)
    return best


def byte_count(values: object) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


@torch.no_grad()
def measure(kernel: Kernel, inductor: bool, copy_bandwidth: float) -> float | None:
    """Prints a line; Inductor's time over framejit's, where that was measured."""
    arguments = kernel.arguments()
    expected = kernel.function(*arguments)
    compiled = framejit.compile(kernel.function, fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), expected, rtol=2e-2, atol=2e-2)
    moved = byte_count((arguments, expected))
    del expected
    times = {"eager": device_seconds(lambda: kernel.function(*arguments))}
    if inductor:
        other = torch.compile(kernel.function)
        times["inductor"] = device_seconds(lambda: other(*arguments))
    times["framejit"] = device_seconds(lambda: compiled(*arguments))
    bandwidth = moved / times["framejit"]
    row = "  ".join(f"{name} {seconds * 1e6:8.1f} µs" for name, seconds in times.items())
    print(
        f"{kernel.name:30} {row}  {bandwidth / 1e12:5.2f} TB/s  {bandwidth / copy_bandwidth:4.0%} of a copy", flush=True
    )
    return times["inductor"] / times["framejit"] if inductor else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", default="", help="comma-separated names; all if empty")
    parser.add_argument("--no-inductor", action="store_true")
    options = parser.parse_args()
    wanted = set(filter(None, options.kernels.split(",")))
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    copy_bandwidth = 2 * source.numel() / device_seconds(source.clone)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; a copy: {copy_bandwidth / 1e12:.2f} TB/s")
    chosen = [kernel for kernel in KERNELS if not wanted or kernel.name in wanted]
    ratios = [measure(kernel, not options.no_inductor, copy_bandwidth) for kernel in chosen]
    ratios = [ratio for ratio in ratios if ratio is not None]
    if ratios:
        print(f"geometric mean over Inductor: {math.prod(ratios) ** (1 / len(ratios)):.2f}")


if __name__ == "__main__":
    main()
