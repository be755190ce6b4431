"""What a graph break costs: in the middle of a 12-layer model, in each iteration of a loop, three calls deep.

The break is a `print` to a buffered file on the null device: a C function that no compiler here captures. Its own cost
is not the break's: the model with the break is compared with its two halves compiled separately and the same print
between them.
Targets: two graphs, less than 5 microseconds over the two halves; a loop makes no more graphs for more iterations, and
an iteration is not slower than eager; a break three calls deep makes two graphs.
usage: python -m benchmarks.breaks [--check] [--quick]
"""

import os
import sys

import torch

from benchmarks import common

# Buffered, so that the time is print's and not the system's; never closed.
NULL = open(os.devnull, "w", buffering=1 << 20)  # noqa: SIM115
LAYERS = 12
WIDTH = 32
MICROSECOND = 1e-6


class Half(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Model(torch.nn.Module):
    """Twelve linear layers with ReLU, and a print behind the sixth."""

    def __init__(self):
        super().__init__()
        layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)]
        self.first, self.second = Half(layers[: LAYERS // 2]), Half(layers[LAYERS // 2 :])

    def forward(self, x):
        x = self.first(x)
        print("half way", file=NULL)
        return self.second(x)


def innermost(x):
    y = x.sin() + 1
    print("inside", file=NULL)
    return y.cos() * 2


def middle(x):
    return innermost(x * 3) - x


def outermost(x):
    return torch.relu(middle(x + 1)) + x


def fit(weights, batches):
    """Training-style: a step of gradient descent on each batch, and a line printed."""
    for step, (inputs, targets) in enumerate(batches):
        error = torch.tanh(inputs @ weights) - targets
        weights = weights - 0.1 * (inputs.T @ error) / inputs.shape[0]
        print("step", step, file=NULL)
    return weights


def batches_of(count):
    torch.manual_seed(0)
    return [(torch.randn(16, WIDTH), torch.randn(16, WIDTH)) for _ in range(count)]


class Graphs:
    """A backend that counts the graphs it is given and runs them as they are."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph_module, example_inputs):
        self.count += 1
        return graph_module.forward


def graphs_of(compile_with, function, *calls):
    """How many graphs a compiler made after each of the calls."""
    backend = Graphs()
    torch._dynamo.reset()
    compiled = compile_with(function, backend=backend)
    counts = []
    for arguments in calls:
        compiled(*arguments)
        counts.append(backend.count)
    return counts


def compiled_by_all(function, quick):
    import framejit

    candidates = {"eager": function, "framejit": framejit.compile(function)}
    if not quick:
        candidates["inductor"] = torch.compile(function)
    candidates['backend="eager"'] = torch.compile(function, backend="eager")
    return candidates


def best_of(candidates, arguments, rounds, calls):
    for candidate in candidates.values():
        for _ in range(3):
            candidate(*arguments)
    timed = {name: (lambda f=f: f(*arguments)) for name, f in candidates.items()}
    return common.minimum_seconds(timed, rounds, calls)


def in_the_middle(targets, rounds, calls, quick):
    import framejit

    torch.manual_seed(0)
    model = Model().eval()
    first, second = framejit.compile(model.first), framejit.compile(model.second)
    x = torch.randn(4, WIDTH)

    def halves(x):
        return second(first(x))

    def halves_and_print(x):
        x = first(x)
        print("half way", file=NULL)
        return second(x)

    # Among themselves, since the compilers beside them would empty the caches that a break of microseconds shows in.
    compiled = framejit.compile(model)
    own = {"halves": halves, "halves, print": halves_and_print, "with the break": compiled}
    best = best_of(own, (x,), rounds, calls)
    cost = (best["with the break"] - best["halves, print"]) / MICROSECOND
    best |= best_of(compiled_by_all(model, quick), (x,), rounds, calls)
    graphs = graphs_of(framejit.compile, model, (x,), (x,))[-1]
    others = graphs_of(torch.compile, model, (x,), (x,))[-1]
    print(f"\n12-layer model, a print behind the sixth layer: {graphs} graphs (torch.compile {others})")
    row = ["one call", *(common.microseconds(seconds) for seconds in best.values())]
    common.print_table(["microseconds", *best], [row])
    print(f"the break costs {cost:.2f} us over the two halves and the same print")
    targets.exactly("graphs of the model with a print", graphs, 2)
    targets.at_most("a print in the model over its halves and the print, microseconds", cost, 5)


def in_a_loop(targets, rounds, calls, quick):
    import framejit

    few, many = 8, 16 if quick else 64
    weights = torch.zeros(WIDTH, WIDTH)
    arguments = (weights, batches_of(many))
    shorter = graphs_of(framejit.compile, fit, (weights, batches_of(few)))[0]
    graphs = graphs_of(framejit.compile, fit, arguments, arguments, arguments)
    best = best_of(compiled_by_all(fit, quick), arguments, rounds, max(1, calls // many))
    print(
        f"\ntraining-style loop, a print in each iteration: {shorter} graphs for {few} iterations, {graphs[0]} for "
        f"{many}, {graphs[-1]} after two more calls"
    )
    row = ["one iteration", *(common.microseconds(seconds / many) for seconds in best.values())]
    row.append(common.ratio(best["framejit"], best["eager"]))
    common.print_table(["microseconds", *best, "framejit/eager"], [row])
    targets.exactly(f"graphs of the loop for {many} iterations", graphs[0], shorter)
    targets.exactly("graphs of the loop after two more calls", graphs[-1], graphs[0])
    targets.at_most("an iteration of the loop, framejit/eager", best["framejit"] / best["eager"], 1)


def three_calls_deep(targets, rounds, calls, quick):
    import framejit

    x = torch.randn(64)
    graphs = graphs_of(framejit.compile, outermost, (x,), (x,))[-1]
    others = graphs_of(torch.compile, outermost, (x,), (x,))[-1]
    best = best_of(compiled_by_all(outermost, quick), (x,), rounds, calls)
    print(f"\na print three calls deep: {graphs} graphs (torch.compile {others})")
    row = ["one call", *(common.microseconds(seconds) for seconds in best.values())]
    row.append(common.ratio(best["framejit"], best["eager"]))
    common.print_table(["microseconds", *best, "framejit/eager"], [row])
    targets.exactly("graphs of a print three calls deep", graphs, 2)


def main() -> int:
    arguments = common.parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    rounds, calls = (arguments.rounds or 600, 20) if not arguments.quick else (10, 20)
    print(common.environment_line(arguments.threads))
    targets = common.Targets()
    with torch.no_grad():
        for measure in (in_the_middle, in_a_loop, three_calls_deep):
            torch._dynamo.reset()
            measure(targets, rounds, calls, arguments.quick)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
