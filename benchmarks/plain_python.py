"""Python code outside compiled functions runs as fast, and recurses as deep, as without framejit.

Pure Python workloads are timed in fresh processes that take turns: without framejit, with framejit imported, and with
framejit in use (compiled functions that break were called, in a loop, nested, with an exception). How deep a function
can recurse is counted in each of them, and called by a compiled function behind a break.
Targets: the times are the same within the noise band, the depths are the same, the recursion limit is the default.
usage: python -m benchmarks.plain_python [--check] [--quick]
"""

import json
import os
import sys

from benchmarks import common

MODES = ("without", "imported", "in use")


def fibonacci(n=16):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


class Account:
    def __init__(self):
        self.balance = 0

    def deposit(self, amount):
        self.balance += amount
        return self.balance


def methods(count=2500):
    account = Account()
    for amount in range(count):
        account.deposit(amount)
    return account.balance


def containers(count=1500):
    squares = {k: k * k for k in range(count)}
    chosen = [squares[k] for k in squares if k % 3]
    return sorted(chosen, key=lambda value: -value)[:10]


def counted(count):
    yield from range(count)


def generators(count=4000):
    return sum(value for value in counted(count) if value & 1)


def exceptions(count=1200):
    caught = 0
    for k in range(count):
        try:
            if k % 2:
                raise ValueError(k)
        except ValueError:
            caught += 1
    return caught


WORKLOADS = (fibonacci, methods, containers, generators, exceptions)


def depth(level=0):
    """How many frames of this function fit under the recursion limit."""
    try:
        return depth(level + 1)
    except RecursionError:
        return level


def use_framejit():
    """What a program does with framejit; returns how deep a callee behind a break recurses, natively and compiled."""
    import torch

    import framejit

    reached = []

    def inner(x):
        y = x.sin()
        reached.append(depth())
        return y.cos()

    def broken(x):
        y = inner(x + 1)
        for k in range(3):
            y = y + k
            print(k, end="", file=sys.stderr)
        return y

    def fails(x):
        y = x + 1
        print("", end="", file=sys.stderr)
        return y + [1]

    compiled, failing = framejit.compile(broken), framejit.compile(fails)
    x = torch.ones(8)
    with torch.no_grad():
        for _ in range(20):
            compiled(x)
            try:
                failing(x)
            except TypeError:
                pass
        native_depths = len(reached)
        broken(x)
    return {"compiled": reached[native_depths - 1], "eager": reached[native_depths]}


def child(mode, rounds):
    import torch  # noqa: F401  (in all of them alike)

    if mode != "without":
        import framejit  # noqa: F401
    behind = use_framejit() if mode == "in use" else {}
    for workload in WORKLOADS:
        workload()
    times = common.minimum_seconds({workload.__name__: workload for workload in WORKLOADS}, rounds)
    print(json.dumps({"times": times, "depth": depth(), "limit": sys.getrecursionlimit(), "behind": behind}))


def measure(processes, rounds):
    """Per mode the least times of several processes, and what the last one said of recursion."""
    results = {}
    for _ in range(processes):
        for mode in MODES:
            result = common.in_fresh_process("benchmarks.plain_python", mode, str(rounds))
            earlier = results.get(mode, result)["times"]
            result["times"] = {name: min(seconds, earlier[name]) for name, seconds in result["times"].items()}
            results[mode] = result
    return results


def main() -> int:
    arguments = common.parser(__doc__).parse_args()
    if arguments.child is not None:
        child(arguments.child[0], int(arguments.child[1]))
        return 0
    os.environ["PYTHONHASHSEED"] = "0"  # of the children: dicts and sets collide alike
    processes, rounds = (5, arguments.rounds or 200) if not arguments.quick else (1, 20)
    print(common.environment_line(arguments.threads))
    targets = common.Targets()
    results = measure(processes, rounds)
    plain = results["without"]
    rows = []
    for name, seconds in plain["times"].items():
        ratios = [results[mode]["times"][name] / seconds for mode in MODES[1:]]
        rows.append([name, common.microseconds(seconds), *(f"{value:.3f}x" for value in ratios)])
        for mode, value in zip(MODES[1:], ratios, strict=True):
            targets.at_most(f"{name} with framejit {mode}", value, 1)
    common.print_table(["microseconds", "without framejit", "imported", "in use"], rows)
    depths = {mode: results[mode]["depth"] for mode in MODES}
    behind = results["in use"]["behind"]
    print(
        f"recursion: {depths['without']} frames without framejit, {depths['imported']} with it imported, "
        f"{depths['in use']} in use; behind a break {behind['compiled']} compiled, {behind['eager']} eager"
    )
    for mode in MODES[1:]:
        targets.exactly(f"frames until the recursion limit, framejit {mode}", depths[mode], depths["without"])
        targets.exactly(f"the recursion limit, framejit {mode}", results[mode]["limit"], plain["limit"])
    targets.exactly("frames until the recursion limit behind a break", behind["compiled"], behind["eager"])
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
