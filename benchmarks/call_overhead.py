"""What one warm call costs on tiny tensors: eager, framejit, torch.compile (inductor and backend="eager").

Beside it, what the guards of a model of 100 modules and 300 parameters take: measured alone, natively (the budget that
explain shows), since any call that could be compared with would differ in more than its guards.

Targets (3 % noise band): one add on 16 elements not slower than eager; three pointwise operators at least twice as fast
as eager, twenty inputs 8 times, an MLP of 8 layers of width 16 2.5 times; the guards at most 5 microseconds on Python
3.12 and later, where dicts and types are watched, and 15 on 3.11. All tensors are in the first cache.
usage: python -m benchmarks.call_overhead [--check] [--quick] [--threads N]
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


class Affine(torch.nn.Module):
    """Three parameters."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.rand(16))
        self.shift = torch.nn.Parameter(torch.rand(16))
        self.slope = torch.nn.Parameter(torch.rand(16))

    def forward(self, x):
        return torch.where(x > 0, x * self.scale + self.shift, x * self.slope)


def many_modules():
    """100 modules of three parameters each, in a Sequential."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*[Affine() for _ in range(100)]).eval()


# Least ratio of eager's time to framejit's.
SPEEDUPS = {"one add": 1, "three pointwise": 2, "twenty inputs summed": 8, "8-layer MLP": 2.5}
GUARD_LIMIT = 5e-6 if sys.version_info >= (3, 12) else 15e-6


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


def check_guards(targets: common.Targets) -> None:
    import framejit

    model, x = many_modules(), torch.randn(16)
    with torch.no_grad():
        explanations = [framejit.explain(model)(x) for _ in range(3)]
    budgets = [explanation.traces[0].budget for explanation in explanations]
    best = min(budgets, key=lambda budget: budget.guards)
    modules, parameters = sum(1 for _ in model.modules()), len(list(model.parameters()))
    print(
        f"guards of {modules} modules, {parameters} parameters: {best.guards / 1e3:.2f} microseconds, "
        f"{best.checks} checks, {best.per_guard:.1f} ns each"
    )
    targets.at_most("guards of 100 modules and 300 parameters, microseconds", best.guards / 1e3, GUARD_LIMIT * 1e6)


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
        if name in SPEEDUPS:
            targets.at_least(f"a warm call, {name}, eager/framejit", best["eager"] / best["framejit"], SPEEDUPS[name])
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
    check_guards(targets)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
