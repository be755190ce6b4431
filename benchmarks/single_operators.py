"""Single pointwise operators over a million elements: framejit's kernels against eager's, by dtype.

What eager is faster at (`backends/native/single_operators.cc`) is left to it; then the ratio is one.

Target: none slower than eager by more than a tenth; the machines are noisy, and both mostly wait for memory.
usage: python -m benchmarks.single_operators [--check] [--quick] [--threads N] [--operators NAME,...]
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import framejit
from benchmarks import common

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
NUMBERS = FLOATS + INTEGERS
ALL = [*NUMBERS, torch.bool]


@dataclass
class Case:
    function: Callable[..., Tensor]
    dtypes: list[torch.dtype]
    operands: int = 1


CASES = {
    "gelu": Case(lambda x: F.gelu(x), FLOATS),
    "gelu (tanh)": Case(lambda x: F.gelu(x, approximate="tanh"), FLOATS),
    "silu": Case(lambda x: F.silu(x), FLOATS),
    "exp": Case(lambda x: torch.exp(x), FLOATS),
    "tanh": Case(lambda x: torch.tanh(x), FLOATS),
    "sigmoid": Case(lambda x: torch.sigmoid(x), FLOATS),
    "erf": Case(lambda x: torch.erf(x), FLOATS),
    "erfc": Case(lambda x: torch.erfc(x), FLOATS),
    "log1p": Case(lambda x: torch.log1p(x.abs()), FLOATS),
    "sin": Case(lambda x: torch.sin(x), FLOATS),
    "rsqrt": Case(lambda x: torch.rsqrt(x.abs()), FLOATS),
    "elu": Case(lambda x: F.elu(x), FLOATS),
    "softplus": Case(lambda x: F.softplus(x), FLOATS),
    "mish": Case(lambda x: F.mish(x), FLOATS),
    "hardswish": Case(lambda x: F.hardswish(x), FLOATS),
    "sign": Case(lambda x: torch.sign(x), NUMBERS),
    "abs": Case(lambda x: torch.abs(x), NUMBERS),
    "neg": Case(lambda x: torch.neg(x), NUMBERS),
    "relu": Case(lambda x: torch.relu(x), NUMBERS),
    "add": Case(lambda x, y: x + y, ALL, 2),
    "mul": Case(lambda x, y: x * y, ALL, 2),
    "maximum": Case(lambda x, y: torch.maximum(x, y), ALL, 2),
    "gt": Case(lambda x, y: x > y, ALL, 2),
    "eq": Case(lambda x, y: x == y, ALL, 2),
    "where": Case(lambda x, y: torch.where(x > y, x, y), ALL, 2),
    "clamp": Case(lambda x: x.clamp(1, 3), NUMBERS),
    "bitwise_and": Case(lambda x, y: x & y, [*INTEGERS, torch.bool], 2),
    "logical_not": Case(lambda x: torch.logical_not(x), ALL),
    "to float32": Case(lambda x: x.to(torch.float32, copy=True), ALL),
    "to bool": Case(lambda x: x.bool() ^ True, ALL),
    "clone": Case(lambda x: x.clone(), ALL),
}


def operand(dtype: torch.dtype, count: int) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(count).to(dtype)
    return torch.randint(0 if dtype in (torch.uint8, torch.bool) else -60, 60, (count,)).to(dtype)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument(
        "--operators", default=",".join(CASES), type=common.names_among(CASES), help="comma-separated names"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(common.environment_line(arguments.threads))
    targets = common.Targets()
    names = [str(dtype).removeprefix("torch.") for dtype in ALL]
    table = common.GrowingTable(["eager/framejit", *names], label_width=14)
    count, rounds = (1 << 12, 3) if arguments.quick else (1 << 20, arguments.rounds or 60)
    for name in arguments.operators.split(","):
        case, row = CASES[name], []
        for dtype in ALL:
            if dtype not in case.dtypes:
                row.append("-")
                continue
            inputs = [operand(dtype, count) for _ in range(case.operands)]
            candidates = {"eager": case.function, "framejit": framejit.compile(case.function)}
            calls = {key: lambda f=f, x=inputs: f(*x) for key, f in candidates.items()}
            if not torch.equal(calls["eager"]().isnan(), calls["framejit"]().isnan()):
                raise AssertionError(f"{name}, {dtype}: not what eager gives")
            best = common.minimum_seconds(calls, rounds)
            row.append(common.ratio(best["eager"], best["framejit"]))
            targets.at_most(f"{name} of {dtype}, framejit/eager", best["framejit"] / best["eager"], 1.1)
        table.add([name, *row])
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
