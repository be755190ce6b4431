"""What one warm call costs on tiny tensors: eager, framejit, torch.compile (inductor and backend="eager").

Target: three pointwise operators on 16 elements are not slower than eager.
usage: python -m benchmarks.call_overhead [--check] [--quick]
"""

import sys

import torch

from benchmarks import common


def add(x, y):
    return x + y


def three_pointwise(x, y):
    return torch.relu(x + y) * 2


def twenty_inputs(*tensors):
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


class Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(*[torch.nn.Linear(16, 16) for _ in range(8)])

    def forward(self, x):
        return self.layers(x)


def cases():
    x, y = torch.randn(16), torch.randn(16)
    torch.manual_seed(0)
    return {
        "one add": (add, (x, y), False),
        "three pointwise": (three_pointwise, (x, y), False),
        "three pointwise, grad": (three_pointwise, (x.clone().requires_grad_(), y), True),
        "twenty inputs summed": (twenty_inputs, tuple(torch.randn(16) for _ in range(20)), False),
        "8-layer MLP": (Mlp().eval(), (torch.randn(4, 16),), False),
    }


def main() -> int:
    import framejit

    arguments = common.parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    rounds, calls = (arguments.rounds or 40, 2000) if not arguments.quick else (3, 100)
    print(common.environment_line(arguments.threads))
    targets = common.Targets()
    rows = []
    for name, (function, inputs, grad) in cases().items():
        torch._dynamo.reset()
        candidates = {
            "eager": function,
            "framejit": framejit.compile(function),
            "inductor": torch.compile(function),
            'backend="eager"': torch.compile(function, backend="eager"),
        }
        with torch.set_grad_enabled(grad):
            for candidate in candidates.values():
                for _ in range(3):
                    candidate(*inputs)
            calls_of = {key: (lambda f=f, a=inputs: f(*a)) for key, f in candidates.items()}
            best = common.minimum_seconds(calls_of, rounds, calls)
        rows.append([name, *(common.microseconds(best[key]) for key in candidates)])
        rows[-1].append(common.ratio(best["framejit"], best["eager"]))
        rows[-1].append(common.ratio(best["framejit"], best["inductor"]))
        if name == "three pointwise":
            targets.at_most(
                "a warm call of three pointwise operators, framejit/eager", best["framejit"] / best["eager"], 1
            )
    header = [
        "microseconds a call",
        "eager",
        "framejit",
        "inductor",
        'backend="eager"',
        "framejit/eager",
        "framejit/inductor",
    ]
    common.print_table(header, rows)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
