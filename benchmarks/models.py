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
    parser = common.parser(__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated names from models_zoo")
    parser.add_argument("--no-inductor", action="store_true", help="leave torch.compile out (its compilation is slow)")
    arguments = parser.parse_args()
    if arguments.child is not None:
        name, size, inductor = arguments.child
        child(name, size == "small", inductor == "inductor", arguments.threads, arguments.rounds)
        return 0
    rounds = arguments.rounds or (3 if arguments.quick else 30)
    print(common.environment_line(arguments.threads))
    targets = common.Targets()
    rows = []
    for name in arguments.models.split(","):
        size = "small" if arguments.quick else "full"
        inductor = "none" if arguments.no_inductor else "inductor"
        options = (f"--threads={arguments.threads}", f"--rounds={rounds}")
        best = common.in_fresh_process("benchmarks.models", name, size, inductor, *options)
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
