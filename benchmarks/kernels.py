"""Fused kernels on one thread: pointwise chains, softmax, norms and reductions, against eager and Inductor.

Target: fused pointwise, softmax and layer-norm kernels at least as fast as Inductor's.
usage: python -m benchmarks.kernels [--check] [--quick] [--kernels NAME,...] [--no-inductor]
"""

import functools
import os
import sys
import warnings

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch

from benchmarks import common

F = torch.nn.functional

# torch.compile says once per function that its caches are off, which is what is wanted here.
warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")


def add(x, y):
    return x + y


def gelu(x, y):
    return F.gelu(x)


def bias_gelu(x, y):
    return F.gelu(x + y[0])


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


def add_layer_norm(x, y):
    return F.layer_norm(x + y, x.shape[-1:], y[0], y[1])


def rms_norm(x, y):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * y[0]


def row_sum(x, y):
    return (x * y).sum(-1)


def row_variance(x, y):
    return x.var(-1), x.amax(-1)


# name -> function, rows, columns, whether the target holds for it. Sizes from the first-level cache to main memory.
KERNELS = {
    "add in L1": (add, 32, 64, True),
    "add in memory": (add, 4096, 4096, True),
    "gelu in L1": (gelu, 32, 64, True),
    "gelu": (gelu, 1024, 1024, True),
    "gelu in memory": (gelu, 4096, 4096, True),
    "bias+gelu": (bias_gelu, 128, 3072, True),
    "gelu*sigmoid": (gelu_sigmoid, 1024, 1024, True),
    "small gelu*sigmoid": (gelu_sigmoid, 16, 384, True),
    "tanh chain": (tanh_chain, 1024, 1024, True),
    "bias+relu": (bias_relu, 1024, 1024, True),
    "softmax in L1": (softmax, 32, 64, True),
    "softmax": (softmax, 1024, 1024, True),
    "softmax of odd width": (softmax, 1000, 197, True),
    "softmax in memory": (softmax, 4096, 4096, True),
    "scaled softmax": (scaled_softmax, 1024, 512, True),
    "layer norm in L1": (layer_norm, 32, 64, True),
    "one-row layer norm": (layer_norm, 1, 768, True),
    "layer norm": (layer_norm, 1024, 768, True),
    "layer norm in memory": (layer_norm, 16384, 768, True),
    "add+layer norm": (add_layer_norm, 128, 768, True),
    "gelu+residual+layer norm": (residual_layer_norm, 1024, 768, True),
    "RMS norm": (rms_norm, 1024, 512, False),
    "row sum": (row_sum, 1024, 1024, False),
    "row variance and maximum": (row_variance, 1024, 1024, False),
}


def measure(function, height: int, width: int, inductor: bool, rounds: int) -> dict[str, float]:
    """Seconds a call, by compiler."""
    import framejit

    torch.manual_seed(0)
    x, y = torch.randn(height, width), torch.randn(max(height, 2), width)
    torch._dynamo.reset()
    candidates = {"eager": function, "framejit": framejit.compile(function)}
    if inductor:
        candidates["inductor"] = torch.compile(function)
    with torch.no_grad():
        for candidate in candidates.values():
            for _ in range(3):
                candidate(x, y)
        # About a millisecond a round, so that small kernels are not lost in the clock.
        single = min(common.seconds(functools.partial(function, x, y)) for _ in range(3))
        calls_of = {key: functools.partial(candidate, x, y) for key, candidate in candidates.items()}
        return common.minimum_seconds(calls_of, rounds, max(1, int(1e-3 / single)))


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--kernels", default=",".join(KERNELS), help="comma-separated names")
    parser.add_argument("--no-inductor", action="store_true", help="leave torch.compile out (its compilation is slow)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = arguments.rounds or (3 if arguments.quick else 60)
    print(common.environment_line(arguments.threads))
    targets = common.Targets()
    rows = []
    for name in arguments.kernels.split(","):
        function, height, width, targeted = KERNELS[name]
        if arguments.quick:
            height = min(height, 64)
        best = measure(function, height, width, not arguments.no_inductor, rounds)
        keys = ("eager", "framejit", "inductor")
        row = [f"{name} {height}x{width}", *(common.microseconds(best[key]) if key in best else "-" for key in keys)]
        row.append(common.ratio(best["framejit"], best["eager"]))
        row.append(common.ratio(best["framejit"], best["inductor"]) if "inductor" in best else "-")
        rows.append(row)
        if targeted and "inductor" in best:
            targets.at_most(f"{name}, framejit/inductor", best["framejit"] / best["inductor"], 1)
    header = ["microseconds a call", "eager", "framejit", "inductor", "framejit/eager", "framejit/inductor"]
    common.print_table(header, rows)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
