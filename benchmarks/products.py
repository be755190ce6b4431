"""Matrix products of float32: few rows against weights of both layouts, batches of small ones, large ones.

Against eager, in the same rounds. Each case says its operations, its bytes (each operand and the result once), and what
rates they are computed and moved at. The errors are those of sums against float64, in units of the largest result.

Target: each at least as fast as eager, with an error no larger than twice eager's.
usage: python -m benchmarks.products [--check] [--quick] [--threads N]
"""

import sys
from dataclasses import dataclass

import torch

import framejit
from benchmarks import common


@dataclass
class Case:
    rows: int
    columns: int
    depth: int
    transposed: bool  # the weight is a view of one [columns, depth], as in a linear layer
    batch: int = 0
    bias: bool = False

    def name(self) -> str:
        shape = f"{self.rows}x{self.depth} x {self.depth}x{self.columns}"
        batch = f"{self.batch} of " if self.batch else ""
        return f"{batch}{shape}{' transposed' if self.transposed else ''}{' + bias' if self.bias else ''}"

    def tensors(self) -> list[torch.Tensor]:
        leading = [self.batch] if self.batch else []
        a = torch.randn(*leading, self.rows, self.depth)
        if self.transposed:
            b = torch.randn(*leading, self.columns, self.depth).transpose(-1, -2)
        else:
            b = torch.randn(*leading, self.depth, self.columns)
        return [a, b, *([torch.randn(self.columns)] if self.bias else [])]


def product(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.matmul(a, b) if bias is None else torch.addmm(bias, a, b)


def cases(quick: bool) -> list[Case]:
    weights = [(16, 16), (64, 64)] if quick else [(16, 16), (128, 128), (768, 768), (3072, 768), (768, 3072)]
    rows = [1, 4] if quick else [1, 2, 4, 8, 16, 32, 128, 512]
    chosen = [
        Case(m, n, k, transposed, bias=transposed) for n, k in weights for m in rows for transposed in (True, False)
    ]
    batches = [(12, 1, 128, 64), (12, 8, 8, 64), (96, 32, 32, 32)]
    if not quick:
        batches += [(12, 128, 128, 64), (96, 128, 64, 128)]
    return chosen + [Case(m, n, k, t, batch=b) for b, m, n, k in batches for t in (True, False)]


def error(result: torch.Tensor, exact: torch.Tensor) -> float:
    return ((result.double() - exact).abs().max() / exact.abs().max()).item()


def main() -> int:
    arguments = common.parser("matrix products").parse_args()
    torch.set_num_threads(arguments.threads)
    print(common.environment_line(arguments.threads))
    table = common.GrowingTable(
        ["product", "eager us", "framejit us", "ratio", "GFLOP/s", "GB/s", "eager error", "error"], label_width=40
    )
    targets = common.Targets()
    compiled = framejit.compile(product, dynamic=False)
    with torch.inference_mode():
        for case in cases(arguments.quick):
            framejit.reset()
            tensors = case.tensors()
            exact = product(*(t.double() for t in tensors))
            errors = [error(f(*tensors), exact) for f in (product, compiled)]
            flops = 2 * max(case.batch, 1) * case.rows * case.columns * case.depth
            moved = 4 * (sum(t.numel() for t in tensors) + exact.numel())
            times = common.minimum_seconds(
                {"eager": lambda t=tensors: product(*t), "framejit": lambda t=tensors: compiled(*t)},
                arguments.rounds or (3 if arguments.quick else 9),
                calls=max(1, round(2e8 / (flops + 1e6))),
            )
            ours = times["framejit"]
            table.add(
                [
                    case.name(),
                    common.microseconds(times["eager"]),
                    common.microseconds(ours),
                    common.ratio(times["eager"], ours),
                    f"{flops / ours / 1e9:.0f}",
                    f"{moved / ours / 1e9:.1f}",
                    *(f"{e:.1e}" for e in errors),
                ]
            )
            targets.at_most(f"{case.name()}: time over eager's", ours / times["eager"], 1)
            targets.at_most(f"{case.name()}: error over eager's", errors[1], 2 * errors[0] + 1e-7)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
