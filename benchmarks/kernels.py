"""Fused kernels: pointwise chains, softmax, losses, norms, rotary embeddings, reductions and scans.

Against eager and Inductor.

Each case says what it must move (its arguments and results, each once), how many operations of ATen it is per element
moved, and where its working set lies. Its bandwidth is compared with that of a copy (`clone`) of as many bytes,
measured in the same rounds.

Targets: each at least as fast as Inductor, a geometric mean of 1.3 over it, and memory-bound ones at 85 % of a copy's
bandwidth.
`--scaling` compares framejit with itself: on one thread and on N, in the same rounds. Target: no kernel slower on N.
usage: python -m benchmarks.kernels [--check] [--quick] [--threads N] [--kernels NAME,...] [--no-inductor] [--scaling]
"""

import copy
import functools
import math
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import common

F = torch.nn.functional

# torch.compile says once per function that its caches are off, which is what is wanted here.
warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")


def add(x, y):
    return x + y


def light(x, y):
    return torch.relu(x + y) * 0.5


def in_place(x, y):
    return x.mul_(0.5).add_(y)


def bias_relu(x, bias):
    return torch.relu(x + bias) * 0.5


def gelu(x):
    return F.gelu(x)


def bias_gelu(x, bias):
    return F.gelu(x + bias)


def gelu_sigmoid(x, y):
    return F.gelu(x) * torch.sigmoid(y)


def tanh_chain(x, y):
    return torch.tanh(x * 1.5 + y) * (1 - x)


def softmax(x):
    return torch.softmax(x, dim=-1)


def scaled_softmax(x, y):
    return torch.softmax(x * 0.125 + y, dim=-1)


def layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def add_layer_norm(x, y, weight, bias):
    return F.layer_norm(x + y, x.shape[-1:], weight, bias)


def bias_gelu_residual_norm(x, y, weight, bias):
    return F.layer_norm(F.gelu(x + bias) + y, x.shape[-1:], weight, bias)


def rms_norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def rms_norm_layer(x, weight):
    return F.rms_norm(x, x.shape[-1:], weight, 1e-6)


def swiglu(x, y):
    return F.silu(x) * y


def swiglu_halves(x):
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def rope(query, key, cos, sin):
    return query * cos + rotate_half(query) * sin, key * cos + rotate_half(key) * sin


def row_sum(x, y):
    return (x * y).sum(-1)


def row_variance(x):
    return x.var(-1), x.amax(-1)


def column_sum(x):
    return x.sum(0)


def full_sum(x, y):
    return (x * y).sum()


def standardise(x):
    return (x - x.mean(0)) / (x.std(0) + 1e-6)


def standardise_all(x):
    return (x - x.mean()) / (x.std() + 1e-6)


def transpose_tanh(x, y):
    return torch.tanh(x.t()) + y


def masked_softmax(x, mask):
    return torch.softmax(x.masked_fill(mask, float("-inf")), dim=-1)


def argmax(x):
    return x.argmax(-1)


def cumsum(x):
    return x.cumsum(-1)


def log_softmax_nll(x, target):
    return F.nll_loss(F.log_softmax(x, dim=-1), target)


def cross_entropy(x, target):
    return F.cross_entropy(x, target)


def embedding_norm(tokens, table, weight, bias):
    return F.layer_norm(F.embedding(tokens, table), table.shape[-1:], weight, bias)


def channel_variance(x):
    return x.var((0, 2))


def batch_norm(x, weight, bias):
    return torch.relu(F.batch_norm(x, None, None, weight, bias, training=True))


def group_norm(x, weight, bias):
    return F.silu(F.group_norm(x, 8, weight, bias))


def images(rows: int, columns: int, dtype: torch.dtype):
    """A batch of 16, with a channel for each row and a pixel for each column."""
    return (torch.randn(16, rows, columns).to(dtype),)


def images_with_channels(rows: int, columns: int, dtype: torch.dtype):
    return *images(rows, columns, dtype), torch.randn(rows).to(dtype), torch.randn(rows).to(dtype)


def one(rows: int, columns: int, dtype: torch.dtype):
    return (torch.randn(rows, columns).to(dtype),)


def two(rows: int, columns: int, dtype: torch.dtype):
    return tuple(torch.randn(rows, columns).to(dtype) for _ in range(2))


def with_row(rows: int, columns: int, dtype: torch.dtype):
    return *one(rows, columns, dtype), torch.randn(columns).to(dtype)


def with_rows(rows: int, columns: int, dtype: torch.dtype):
    return *with_row(rows, columns, dtype), torch.randn(columns).to(dtype)


def two_with_rows(rows: int, columns: int, dtype: torch.dtype):
    return *one(rows, columns, dtype), *with_rows(rows, columns, dtype)


def with_transposed(rows: int, columns: int, dtype: torch.dtype):
    return torch.randn(rows, columns).to(dtype), torch.randn(columns, rows).to(dtype)


def with_mask(rows: int, columns: int, dtype: torch.dtype):
    mask = torch.ones(columns, columns, dtype=torch.bool).triu(1)
    return torch.randn(max(1, rows // columns), columns, columns).to(dtype), mask


def with_target(rows: int, classes: int, dtype: torch.dtype):
    return torch.randn(rows, classes).to(dtype), torch.randint(classes, (rows,))


def heads(rows: int, width: int, dtype: torch.dtype):
    angles = torch.randn(rows, width)
    states = [torch.randn(1, 12, rows, width).to(dtype) for _ in range(2)]
    return *states, angles.cos().to(dtype), angles.sin().to(dtype)


def tokens_and_table(count: int, width: int, dtype: torch.dtype):
    table = torch.randn(8192, width).to(dtype)
    return torch.randint(8192, (count,)), table, torch.randn(width).to(dtype), torch.randn(width).to(dtype)


@dataclass(frozen=True)
class Case:
    function: Callable
    rows: int
    columns: int
    inputs: Callable = two  # (rows, columns, dtype) -> the arguments
    dtype: torch.dtype = torch.float32
    memory_bound: bool = False  # its arithmetic hides behind the memory


BF16, F16 = torch.bfloat16, torch.float16

KERNELS = {
    "add in L1": Case(add, 32, 64),
    "add in memory": Case(add, 4096, 4096, memory_bound=True),
    "light": Case(light, 512, 512),
    "light in memory": Case(light, 4096, 4096, memory_bound=True),
    "in place": Case(in_place, 512, 512),
    "in place in memory": Case(in_place, 4096, 4096, memory_bound=True),
    "bias+relu": Case(bias_relu, 1024, 1024, with_row),
    "gelu in L1": Case(gelu, 32, 64, one),
    "gelu": Case(gelu, 1024, 1024, one),
    "gelu in memory": Case(gelu, 4096, 4096, one),
    "bias+gelu": Case(bias_gelu, 128, 3072, with_row),
    "gelu*sigmoid": Case(gelu_sigmoid, 1024, 1024),
    "small gelu*sigmoid": Case(gelu_sigmoid, 16, 384),
    "tanh chain": Case(tanh_chain, 1024, 1024),
    "softmax in L1": Case(softmax, 32, 64, one),
    "softmax": Case(softmax, 1024, 1024, one),
    "softmax of odd width": Case(softmax, 1000, 197, one),
    "softmax in memory": Case(softmax, 4096, 4096, one),
    "scaled softmax": Case(scaled_softmax, 1024, 512),
    "masked softmax": Case(masked_softmax, 3072, 256, with_mask),
    "log-softmax+nll": Case(log_softmax_nll, 512, 1000, with_target),
    "cross entropy": Case(cross_entropy, 512, 30000, with_target),
    "layer norm in L1": Case(layer_norm, 32, 64, with_rows),
    "one-row layer norm": Case(layer_norm, 1, 768, with_rows),
    "layer norm": Case(layer_norm, 1024, 768, with_rows),
    "layer norm in memory": Case(layer_norm, 16384, 768, with_rows, memory_bound=True),
    "add+layer norm": Case(add_layer_norm, 128, 768, two_with_rows),
    "bias+gelu+residual+norm": Case(bias_gelu_residual_norm, 1024, 768, two_with_rows),
    "RMS norm": Case(rms_norm, 1024, 512, with_row),
    "RMS norm layer": Case(rms_norm_layer, 1024, 512, with_row),
    "RMS norm in memory": Case(rms_norm, 16384, 1024, with_row, memory_bound=True),
    "swiglu": Case(swiglu, 512, 2048),
    "swiglu of halves": Case(swiglu_halves, 512, 4096, one),
    "rope": Case(rope, 512, 64, heads),
    "row sum": Case(row_sum, 1024, 1024),
    "row variance and maximum": Case(row_variance, 1024, 1024, one),
    "column sum": Case(column_sum, 1024, 1024, one),
    "column sum in memory": Case(column_sum, 8192, 4096, one, memory_bound=True),
    "full sum": Case(full_sum, 1024, 1024),
    "standardise": Case(standardise, 1024, 1024, one),
    "standardise all": Case(standardise_all, 1024, 1024, one),
    "channel variance": Case(channel_variance, 64, 784, images),
    "batch norm in training": Case(batch_norm, 64, 784, images_with_channels),
    "group norm+silu": Case(group_norm, 64, 784, images_with_channels),
    "transpose+tanh": Case(transpose_tanh, 1024, 1024, with_transposed),
    "embedding+norm": Case(embedding_norm, 1024, 768, tokens_and_table),
    "argmax": Case(argmax, 1024, 1024, one),
    "argmax of 30k": Case(argmax, 64, 30000, one),
    "cumsum": Case(cumsum, 1024, 1024, one),
    "bf16 light": Case(light, 512, 1024, dtype=BF16),
    "bf16 gelu": Case(gelu, 1024, 1024, one, dtype=BF16),
    "bf16 softmax": Case(softmax, 1024, 1024, one, dtype=BF16),
    "bf16 layer norm": Case(layer_norm, 1024, 768, with_rows, dtype=BF16),
    "bf16 RMS norm": Case(rms_norm, 1024, 512, with_row, dtype=BF16),
    "bf16 swiglu": Case(swiglu, 512, 2048, dtype=BF16),
    "bf16 rope": Case(rope, 512, 64, heads, dtype=BF16),
    "bf16 column sum": Case(column_sum, 1024, 1024, one, dtype=BF16),
    "bf16 cross entropy": Case(cross_entropy, 512, 30000, with_target, dtype=BF16),
    "fp16 light": Case(light, 512, 1024, dtype=F16),
    "fp16 layer norm": Case(layer_norm, 1024, 768, with_rows, dtype=F16),
}


class CountedOperations(TorchDispatchMode):
    """Counts what eager computes: one operation per element and ATen call that is no view."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, torch.Tensor)]
            self.count += max((tensor.numel() for tensor in tensors), default=0)
        return result


def moved_bytes(inputs, result, case: Case) -> int:
    """Arguments and results, each once; of an embedding's table, the rows that are taken."""
    tensors = [*inputs, *tree_leaves(result)]
    if case.function is embedding_norm:
        tensors[1] = result
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def cache_sizes() -> list[tuple[str, int]]:
    """("L1", bytes), ... of the first core, as the system tells."""
    units = {"K": 1 << 10, "M": 1 << 20}
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() == "Instruction":
            continue
        text = (index / "size").read_text().strip()
        sizes["L" + (index / "level").read_text().strip()] = int(text[:-1]) * units[text[-1]]
    return list(sizes.items())


def place_of(bytes_: int) -> str:
    for name, size in cache_sizes():
        if bytes_ <= size:
            return name
    return "memory"


def check_same(name: str, expected, actual) -> None:
    """A benchmark of a wrong result says nothing."""
    for want, have in zip(tree_leaves(expected), tree_leaves(actual), strict=True):
        torch.testing.assert_close(have, want, rtol=2e-2 if want.element_size() == 2 else 1e-4, atol=1e-2, msg=name)


@dataclass
class Measured:
    seconds: dict[str, float]
    bytes_: int
    operations: int


def measure(name: str, case: Case, rows: int, inductor: bool, rounds: int) -> Measured:
    import framejit

    torch.manual_seed(0)
    inputs = case.inputs(rows, case.columns, case.dtype)
    first = copy.deepcopy(inputs)  # some cases write theirs
    torch._dynamo.reset()
    with torch.no_grad():
        with CountedOperations() as counted:
            expected = case.function(*copy.deepcopy(inputs))
        bytes_ = moved_bytes(inputs, expected, case)
        copied = torch.ones(max(1, bytes_ // 2), dtype=torch.uint8)
        candidates = {"eager": case.function, "framejit": framejit.compile(case.function)}
        if inductor:
            candidates["inductor"] = torch.compile(case.function)
        calls_of = {key: functools.partial(candidate, *inputs) for key, candidate in candidates.items()}
        calls_of["copy"] = copied.clone
        for call in calls_of.values():
            for _ in range(3):
                call()
        check_same(name, expected, candidates["framejit"](*first))
        # About a millisecond a round, so that small kernels are not lost in the clock.
        single = min(common.seconds(calls_of["eager"]) for _ in range(3))
        best = common.minimum_seconds(calls_of, rounds, max(1, int(1e-3 / single)))
    return Measured(best, bytes_, counted.count)


def describe(name: str, case: Case, rows: int, measured: Measured) -> list[str]:
    best = measured.seconds
    of_copy = f"{100 * best['copy'] / best['framejit']:.0f}%"
    place = f"{measured.bytes_ / 1e6:.3g} MB {place_of(measured.bytes_)}"
    row = [f"{name} {rows}x{case.columns}", place, f"{measured.operations / 1e6:.3g}M"]
    row += [common.microseconds(best[key]) if key in best else "-" for key in ("eager", "framejit", "inductor")]
    row.append(common.ratio(best["eager"], best["framejit"]))
    row.append(common.ratio(best["inductor"], best["framejit"]) if "inductor" in best else "-")
    row += [f"{measured.bytes_ / best['framejit'] / 1e9:.1f}", of_copy]
    return row


def compare_threads(names: list[str], threads: int, quick: bool, rounds: int, targets: common.Targets) -> None:
    import framejit

    table = common.GrowingTable(["microseconds a call", "1 thread", f"{threads} threads", "faster"], label_width=40)
    for name in names:
        case = KERNELS[name]
        rows = min(case.rows, 64) if quick else case.rows
        torch.manual_seed(0)
        call = functools.partial(framejit.compile(case.function), *case.inputs(rows, case.columns, case.dtype))
        with torch.no_grad():
            single = min(common.seconds(call) for _ in range(5))
            calls = max(1, int(1e-3 / single))

            def run(number, call=call, calls=calls):
                torch.set_num_threads(number)
                for _ in range(calls):
                    call()

            best = common.minimum_seconds({n: functools.partial(run, n) for n in (1, threads)}, rounds)
        times = [common.microseconds(best[n] / calls) for n in (1, threads)]
        table.add([f"{name} {rows}x{case.columns}", *times, common.ratio(best[1], best[threads])])
        targets.at_most(f"{name}, {threads} threads/1 thread", best[threads] / best[1], 1)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument(
        "--kernels", default=",".join(KERNELS), type=common.names_among(KERNELS), help="comma-separated names"
    )
    parser.add_argument("--no-inductor", action="store_true", help="leave torch.compile out (its compilation is slow)")
    parser.add_argument("--scaling", action="store_true", help="compare one thread with --threads of them")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = arguments.rounds or (3 if arguments.quick else 60)
    print(common.environment_line(arguments.threads))
    print("caches:", ", ".join(f"{name} {size >> 10} KiB" for name, size in cache_sizes()))
    targets = common.Targets()
    if arguments.scaling:
        names = arguments.kernels.split(",")
        compare_threads(names, max(2, arguments.threads), arguments.quick, rounds, targets)
        return targets.finish(arguments.check)
    table, over_inductor, over_eager = [], [], []
    for name in arguments.kernels.split(","):
        case = KERNELS[name]
        rows = min(case.rows, 64) if arguments.quick else case.rows
        measured = measure(name, case, rows, not arguments.no_inductor, rounds)
        best = measured.seconds
        table.append(describe(name, case, rows, measured))
        over_eager.append(best["eager"] / best["framejit"])
        if "inductor" in best:
            over_inductor.append(best["inductor"] / best["framejit"])
            targets.at_least(f"{name}, inductor/framejit", over_inductor[-1], 1)
        if case.memory_bound:
            targets.at_least(f"{name}, share of a copy's bandwidth", best["copy"] / best["framejit"], 0.85)
    header = ["microseconds a call", "moved", "operations", "eager", "framejit", "inductor", "eager/framejit"]
    common.print_table([*header, "inductor/framejit", "GB/s", "of a copy"], table)
    print(f"geometric mean over eager: {geometric_mean(over_eager):.2f}x")
    if over_inductor:
        print(f"geometric mean over inductor: {geometric_mean(over_inductor):.2f}x")
        targets.at_least("geometric mean over inductor", geometric_mean(over_inductor), 1.3)
    return targets.finish(arguments.check)


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


if __name__ == "__main__":
    sys.exit(main())
