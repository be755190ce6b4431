"""Whole models in no_grad, steady state: eager, framejit and torch.compile in alternating rounds, a fresh process each,
at several batch sizes. Each case says how many floating-point operations it is, and the bytes of its parameters and of
what its operators write in eager mode, which is what has to go through the caches.

Targets: no model slower than torch.compile's or than eager (3 % noise band).
usage: python -m benchmarks.models [--check] [--quick] [--models NAME,...] [--batches 1,8] [--threads N] [--no-inductor]
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import common
from benchmarks.models_zoo import MODELS, batch, output_tensors

BATCHES = "1,8"
LABEL_WIDTH = len("llama-60m-decode, batch 8")


class WrittenBytes(TorchDispatchMode):
    """Counts the bytes of what operators make, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.count += sum(tensor.nbytes for tensor in output_tensors(result))
        return result


def cost_of(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, int]:
    """Of one call in eager mode: flops, and the bytes of parameters, of inputs and of what operators make."""
    flops, written = FlopCounterMode(display=False), WrittenBytes()
    with flops:
        model(**inputs)
    with written:
        model(**inputs)
    weights = {tensor.data_ptr(): tensor.nbytes for tensor in [*model.parameters(), *model.buffers()]}
    given = sum(tensor.nbytes for tensor in inputs.values())
    return {"flops": flops.get_total_flops(), "parameters": sum(weights.values()), "others": given + written.count}


def cache_bytes() -> dict[str, int]:
    """The size of each level's cache for data, as Linux describes the first core. Empty elsewhere."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (folder / "type").read_text().strip() != "Instruction":
            size = (folder / "size").read_text().strip()
            found["L" + (folder / "level").read_text().strip()] = (
                int(size.rstrip("KMG")) << {"K": 10, "M": 20}[size[-1]]
            )
    return found


def where_it_lies(size: int) -> str:
    """The smallest cache that holds so many bytes."""
    return next((level for level, capacity in cache_bytes().items() if size <= capacity), "memory")


def child(case: str, small: bool, inductor: bool, threads: int, rounds: int) -> None:
    """Prints the steady times, framejit's largest relative difference from eager, and the costs, as JSON."""
    import framejit

    torch.set_num_threads(threads)
    common.warm_imports()
    name, rows = case.split("@")
    model = MODELS[name].build(small)
    inputs = batch(MODELS[name], small, int(rows))
    candidates = {"eager": model, "framejit": framejit.compile(model)}
    if inductor:
        candidates["inductor"] = torch.compile(model)
    with torch.no_grad():
        cost = cost_of(model, inputs)
        results = {}
        for key, candidate in candidates.items():
            for _ in range(3):
                results[key] = output_tensors(candidate(**inputs))
        difference = max(
            ((a - e).abs().max() / e.abs().max()).item()
            for a, e in zip(results["framejit"], results["eager"], strict=True)
        )
        best = common.minimum_seconds({k: (lambda f=f: f(**inputs)) for k, f in candidates.items()}, rounds)
    print(json.dumps({**best, "difference": difference, **cost}))


def main() -> int:
    parser = common.model_parser(__doc__, list(MODELS))
    parser.add_argument("--batches", default=BATCHES, help="comma-separated numbers of rows")
    arguments = parser.parse_args()
    if common.run_child(child, arguments):
        return 0
    targets = common.Targets()
    names = arguments.models.split(",")
    arguments.models = ",".join(f"{name}@{rows}" for name in names for rows in arguments.batches.split(","))
    print("caches of data:", ", ".join(f"{level} {size >> 10} KiB" for level, size in cache_bytes().items()))
    header = ["milliseconds a call", "eager", "framejit", "inductor", "framejit speed", "inductor speed", "difference"]
    table = common.GrowingTable([*header, "Mflop", "parameters KiB", "others KiB", "all in"], LABEL_WIDTH)
    for case, found in common.each_model("benchmarks.models", arguments, 30):
        label = "{}, batch {}".format(*case.split("@"))
        row = [label, *(f"{found[k] * 1e3:.3f}" if k in found else "-" for k in ("eager", "framejit", "inductor"))]
        row.append(f"{found['eager'] / found['framejit']:.2f}x")
        row.append(f"{found['eager'] / found['inductor']:.2f}x" if "inductor" in found else "-")
        row += [f"{found['difference']:.1e}", f"{found['flops'] / 1e6:.1f}"]
        row += [str(found[key] >> 10) for key in ("parameters", "others")]
        table.add([*row, where_it_lies(found["parameters"] + found["others"])])
        for other in ("eager", "inductor"):
            if other in found:
                targets.at_most(f"{label}, framejit/{other}", found["framejit"] / found[other], 1)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
