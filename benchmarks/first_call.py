"""Compile time: the first call less one steady call, each compiler in a fresh process, caches off, imports warmed.

Targets (BERT-base): at least 100 times below Inductor's and 20 times below torch.compile(backend="eager")'s.
usage: python -m benchmarks.first_call [--check] [--quick] [--models NAME,...]
"""

import json
import sys

import torch

from benchmarks import common
from benchmarks.models_zoo import MODELS

COMPILERS = ("framejit", "inductor", "eager")


def compiled_by(compiler: str, model):
    if compiler == "framejit":
        import framejit

        return framejit.compile(model)
    return torch.compile(model, backend=compiler)


def child(name: str, compiler: str, small: bool, threads: int) -> None:
    """Prints the compile time of one model by one compiler as JSON."""
    torch.set_num_threads(threads)
    common.warm_imports()
    model = MODELS[name].build(small)
    inputs = MODELS[name].inputs(small, 0, 0)
    with torch.no_grad():
        # Both compilers warmed on something else, so that what they load once per process is not measured.
        warm = compiled_by(compiler, torch.nn.Linear(3, 3).eval())
        warm(torch.ones(2, 3))
        model(**inputs)
        compiled = compiled_by(compiler, model)
        first = common.seconds(lambda: compiled(**inputs))
        steady = min(common.seconds(lambda: compiled(**inputs)) for _ in range(5))
    print(json.dumps({"first": first, "steady": steady, "compile": first - steady}))


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--models", default="bert-base", help="comma-separated names from models_zoo")
    arguments = parser.parse_args()
    if arguments.child is not None:
        name, compiler, small = arguments.child
        child(name, compiler, small == "small", arguments.threads)
        return 0
    print(common.environment_line(arguments.threads))
    targets = common.Targets()
    rows = []
    for name in arguments.models.split(","):
        size = "small" if arguments.quick else "full"
        threads = f"--threads={arguments.threads}"
        times = {
            c: common.in_fresh_process("benchmarks.first_call", name, c, size, threads)["compile"] for c in COMPILERS
        }
        inductor, eager = times["inductor"] / times["framejit"], times["eager"] / times["framejit"]
        rows.append([name, *(common.milliseconds(times[c]) for c in COMPILERS), f"{inductor:.0f}x", f"{eager:.0f}x"])
        if name == "bert-base":
            targets.at_least("compile time of BERT-base, inductor/framejit", inductor, 100)
            targets.at_least('compile time of BERT-base, backend="eager"/framejit', eager, 20)
    header = [
        "compile time, ms",
        "framejit",
        "inductor",
        'backend="eager"',
        "inductor/framejit",
        'backend="eager"/framejit',
    ]
    common.print_table(header, rows)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
