"""Training steps in steady state: zero_grad, forward, loss, backward and the optimizer's step, as one function that is
plain, compiled by framejit and compiled by torch.compile, in alternating rounds, a fresh process each. AdamW; the small
MLP with SGD as well. Beside it, forward and backward alone.

Then the most memory that a steady step has resident, each compiler in a process of its own.

Targets: no step slower than eager's or torch.compile's (3 % noise band); the small MLP's steps at least twice as fast
as eager's; compile time (the first step less a steady one) at least 100 times below Inductor's; the models' peak memory
not above eager's (3 %).
usage: python -m benchmarks.training [--check] [--quick] [--models NAME,...] [--no-inductor] [--memory]
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import common
from benchmarks.models_zoo import MODELS, SEED

NAMES = ("mlp", "mlp-sgd", "bert-base", "gpt2", "llama-60m", "vit-s", "resnet18")
LABEL_WIDTH = len("llama-60m, forward and backward")


class Mlp(nn.Module):
    """The overhead case: batch 32, width 64."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ClassificationLoss(nn.Module):
    """A model of the zoo with a linear head on its first output, and the mean cross entropy of that."""

    def __init__(self, model: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(width, classes)

    def forward(self, targets: Tensor, **inputs: Tensor) -> Tensor:
        output = self.model(**inputs)
        hidden = output if isinstance(output, Tensor) else output[0]
        logits = self.head(hidden).flatten(0, -2)
        return F.cross_entropy(logits, targets.flatten())


def build(name: str, small: bool) -> nn.Module:
    """The model in train mode with its loss; its forward takes what `batch` gives."""
    if name.startswith("mlp"):
        torch.manual_seed(SEED)
        return ClassificationLoss(Mlp(), 64, 10)
    model = MODELS[name].build(small).train()
    with torch.no_grad():
        output = model.eval()(**MODELS[name].inputs(small, 0, 0))
    hidden = output if isinstance(output, Tensor) else output[0]
    torch.manual_seed(SEED)
    return ClassificationLoss(model, hidden.shape[-1], 10).train()


def batch(name: str, small: bool, seed: int) -> dict[str, Tensor]:
    """The keyword arguments of one step."""
    generator = torch.Generator().manual_seed(SEED + seed)
    if name.startswith("mlp"):
        inputs = {"x": torch.randn(32, 64, generator=generator)}
        shape = (32,)
    else:
        inputs = MODELS[name].inputs(small, seed, 0)
        first = next(iter(inputs.values()))
        if name == "resnet18":
            shape = (first.shape[0],)
        elif name == "vit-s":
            patch = 8 if small else 16
            shape = (first.shape[0], 1 + (first.shape[-1] // patch) ** 2)
        else:
            shape = first.shape
    return {"targets": torch.randint(0, 10, shape, generator=generator), **inputs}


def new_optimizer(name: str, module: nn.Module) -> torch.optim.Optimizer:
    if name == "mlp-sgd":
        return torch.optim.SGD(module.parameters(), lr=1e-3)
    return torch.optim.AdamW(module.parameters(), lr=1e-4)


def training_step(module: nn.Module, optimizer: torch.optim.Optimizer, inputs: dict[str, Tensor]) -> Tensor:
    optimizer.zero_grad()
    value = module(**inputs)
    value.backward()
    optimizer.step()
    return value.detach()


def forward_backward(loss: Callable[..., Tensor], module: nn.Module, inputs: dict[str, Tensor]) -> Callable[[], Tensor]:
    parameters = list(module.parameters())

    def run() -> Tensor:
        value = loss(**inputs)
        torch.autograd.grad(value, parameters, allow_unused=True)
        return value.detach()

    return run


def child(name: str, small: bool, inductor: bool, threads: int, rounds: int) -> None:
    """Prints the times of a step and of its forward and backward alone, and of the first step, as JSON."""
    import framejit

    torch.set_num_threads(threads)
    common.warm_imports()
    inputs = batch(name, small, 0)
    module = build(name, small)
    optimizer = new_optimizer(name, module)
    compilers = {"eager": lambda target: target, "framejit": framejit.compile}
    if inductor:
        compilers["inductor"] = torch.compile
    results: dict[str, dict[str, float]] = {"first": {}}
    steps, halves = {}, {}
    for key, compiler in compilers.items():
        steps[key] = functools.partial(compiler(training_step), module, optimizer, inputs)
        halves[key] = forward_backward(compiler(module), module, inputs)
        start = time.perf_counter()
        steps[key]()
        results["first"][key] = time.perf_counter() - start
        for _ in range(2):
            steps[key]()
            halves[key]()
    calls = 20 if name.startswith("mlp") else 1
    results["step"] = common.minimum_seconds(steps, rounds, calls)
    results["half"] = common.minimum_seconds(halves, rounds, calls)
    print(json.dumps(results))


def peak_resident_bytes(function: Callable[[], object]) -> int:
    """The most memory that the process has resident while `function` runs (Linux: VmHWM, reset before)."""
    Path("/proc/self/clear_refs").write_text("5")
    function()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def memory_child(name: str, small: bool, threads: int, key: str) -> None:
    """Prints what three steady steps take at most, as JSON."""
    import framejit

    torch.set_num_threads(threads)
    compiler = framejit.compile if key == "framejit" else lambda target: target
    module = build(name, small)
    step = functools.partial(compiler(training_step), module, new_optimizer(name, module), batch(name, small, 0))
    for _ in range(3):
        step()
    print(json.dumps({"peak": min(peak_resident_bytes(step) for _ in range(3))}))


def print_memory(arguments: argparse.Namespace, targets: common.Targets) -> None:
    table = common.GrowingTable(["peak MiB of a step", "eager", "framejit", "ratio"], LABEL_WIDTH)
    for name in arguments.models.split(","):
        size = "small" if arguments.quick else "full"
        options = ("--memory", f"--threads={arguments.threads}")
        peak = {
            key: common.in_fresh_process("benchmarks.training", name, size, key, *options)["peak"]
            for key in ("eager", "framejit")
        }
        table.add([name, *(f"{peak[key] / 2**20:.0f}" for key in peak), f"{peak['framejit'] / peak['eager']:.2f}"])
        if not name.startswith("mlp"):  # whose memory is that of the libraries
            targets.at_most(f"{name}, peak memory, framejit/eager", peak["framejit"] / peak["eager"], 1)


def main() -> int:
    parser = common.model_parser(__doc__, NAMES)
    parser.add_argument("--memory", action="store_true", help="measure memory alone")
    arguments = parser.parse_args()
    if arguments.memory and arguments.child is not None:
        name, size, key = arguments.child
        memory_child(name, size == "small", arguments.threads, key)
        return 0
    if common.run_child(child, arguments):
        return 0
    targets = common.Targets()
    if not arguments.memory:
        print_times(arguments, targets)
    print_memory(arguments, targets)
    return targets.finish(arguments.check)


def print_times(arguments: argparse.Namespace, targets: common.Targets) -> None:
    header = ["milliseconds", "eager", "framejit", "inductor", "framejit speed", "inductor speed"]
    header += ["first step framejit", "first step inductor"]
    table = common.GrowingTable(header, LABEL_WIDTH)
    for name, found in common.each_model("benchmarks.training", arguments, 20):
        for what in ("step", "half"):
            best = found[what]
            row = [f"{name}, {'step' if what == 'step' else 'forward and backward'}"]
            row += [common.milliseconds(best[k]) if k in best else "-" for k in ("eager", "framejit", "inductor")]
            row.append(f"{best['eager'] / best['framejit']:.2f}x")
            row.append(f"{best['eager'] / best['inductor']:.2f}x" if "inductor" in best else "-")
            first = found["first"]
            row += [common.milliseconds(first[k]) if k in first else "-" for k in ("framejit", "inductor")]
            table.add(row)
            for other in ("eager", "inductor"):
                if other in best:
                    targets.at_most(f"{row[0]}, framejit/{other}", best["framejit"] / best[other], 1)
        step = found["step"]
        if name.startswith("mlp"):
            targets.at_least(f"{name}, step, eager/framejit", step["eager"] / step["framejit"], 2)
        if "inductor" in step:
            compilation = {k: found["first"][k] - step[k] for k in ("framejit", "inductor")}
            times = compilation["inductor"] / compilation["framejit"]
            targets.at_least(f"{name}, compile time, inductor/framejit", times, 100)


if __name__ == "__main__":
    sys.exit(main())
