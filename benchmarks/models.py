"""Whole models in no_grad, steady state: eager, framejit and torch.compile in alternating rounds, a fresh process each.

Target: no model slower than eager (3 % noise band).
usage: python -m benchmarks.models [--check] [--quick] [--models NAME,...] [--no-inductor]
"""

import json
import sys

import torch

from benchmarks import common
from benchmarks.models_zoo import MODELS, output_tensors


def child(name: str, small: bool, inductor: bool, threads: int, rounds: int) -> None:
    """Prints the steady times, and framejit's largest relative difference from eager, as JSON."""
    import framejit

    torch.set_num_threads(threads)
    common.warm_imports()
    model = MODELS[name].build(small)
    inputs = MODELS[name].inputs(small, 0, 0)
    candidates = {"eager": model, "framejit": framejit.compile(model)}
    if inductor:
        candidates["inductor"] = torch.compile(model)
    with torch.no_grad():
        results = {}
        for key, candidate in candidates.items():
            for _ in range(3):
                results[key] = output_tensors(candidate(**inputs))
        difference = max(
            ((a - e).abs().max() / e.abs().max()).item()
            for a, e in zip(results["framejit"], results["eager"], strict=True)
        )
        best = common.minimum_seconds({k: (lambda f=f: f(**inputs)) for k, f in candidates.items()}, rounds)
    print(json.dumps({**best, "difference": difference}))


def main() -> int:
    arguments = common.model_parser(__doc__, list(MODELS)).parse_args()
    if common.run_child(child, arguments):
        return 0
    targets = common.Targets()
    rows = []
    for name, best in common.each_model("benchmarks.models", arguments, 30):
        row = [name, *(common.milliseconds(best[k]) if k in best else "-" for k in ("eager", "framejit", "inductor"))]
        row.append(f"{best['eager'] / best['framejit']:.2f}x")
        row.append(f"{best['eager'] / best['inductor']:.2f}x" if "inductor" in best else "-")
        row.append(f"{best['difference']:.1e}")
        rows.append(row)
        targets.at_most(f"{name}, framejit/eager", best["framejit"] / best["eager"], 1)
    header = ["milliseconds a call", "eager", "framejit", "inductor", "framejit speed", "inductor speed", "difference"]
    common.print_table(header, rows)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
