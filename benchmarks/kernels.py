"""Fused kernels on one thread: pointwise chains, softmax, norms and reductions, against eager and Inductor.

Target: fused pointwise, softmax and layer-norm kernels at least as fast as Inductor's.
usage: python -m benchmarks.kernels [--check] [--quick]
"""

import functools
import os
import sys

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch

from benchmarks import common

F = torch.nn.functional


def gelu_sigmoid(x, y):
    return F.gelu(x) * torch.sigmoid(y)


def tanh_chain(x, y):
    return torch.tanh(x * 1.5 + y) * (1 - x)


def bias_relu(x, y):
    return torch.relu(x + y[0]) * 0.5


def softmax(x, y):
    return torch.softmax(x, dim=-1)


def scaled_softmax(x, y):
    return torch.softmax(x * 0.125 + y, dim=-1)


def layer_norm(x, y):
    return F.layer_norm(x, x.shape[-1:], y[0], y[1])


def residual_layer_norm(x, y):
    return F.layer_norm(F.gelu(x) + y, x.shape[-1:])


def rms_norm(x, y):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * y[0]


def row_sum(x, y):
    return (x * y).sum(-1)


def row_variance(x, y):
    return x.var(-1), x.amax(-1)


# name -> function, rows, columns, whether the target holds for it
KERNELS = {
    "gelu*sigmoid": (gelu_sigmoid, 1024, 1024, True),
    "tanh chain": (tanh_chain, 1024, 1024, True),
    "bias+relu": (bias_relu, 1024, 1024, True),
    "gelu*sigmoid, small": (gelu_sigmoid, 16, 384, True),
    "softmax": (softmax, 1024, 1024, True),
    "softmax, odd width": (softmax, 1000, 197, True),
    "scaled softmax": (scaled_softmax, 1024, 512, True),
    "layer norm": (layer_norm, 1024, 768, True),
    "gelu+residual+layer norm": (residual_layer_norm, 1024, 768, True),
    "RMS norm": (rms_norm, 1024, 512, False),
    "row sum": (row_sum, 1024, 1024, False),
    "row variance and maximum": (row_variance, 1024, 1024, False),
}


def main() -> int:
    import framejit

    arguments = common.parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = arguments.rounds or (3 if arguments.quick else 60)
    print(common.environment_line(arguments.threads))
    targets = common.Targets()
    rows = []
    for name, (function, height, width, targeted) in KERNELS.items():
        if arguments.quick:
            height = min(height, 64)
        torch.manual_seed(0)
        x, y = torch.randn(height, width), torch.randn(height, width)
        torch._dynamo.reset()
        candidates = {"eager": function, "framejit": framejit.compile(function), "inductor": torch.compile(function)}
        with torch.no_grad():
            for candidate in candidates.values():
                for _ in range(3):
                    candidate(x, y)
            # About a millisecond a round, so that small kernels are not lost in the clock.
            single = min(common.seconds(functools.partial(function, x, y)) for _ in range(3))
            calls = max(1, int(1e-3 / single))
            calls_of = {key: (lambda f=f, a=x, b=y: f(a, b)) for key, f in candidates.items()}
            best = common.minimum_seconds(calls_of, rounds, calls)
        against_eager, against_inductor = best["framejit"] / best["eager"], best["framejit"] / best["inductor"]
        rows.append([f"{name} {height}x{width}", *(common.microseconds(best[key]) for key in candidates)])
        rows[-1] += [f"{against_eager:.2f}x", f"{against_inductor:.2f}x"]
        if targeted:
            targets.at_most(f"{name}, framejit/inductor", against_inductor, 1)
    header = ["microseconds a call", "eager", "framejit", "inductor", "framejit/eager", "framejit/inductor"]
    common.print_table(header, rows)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
