"""Whole models in no_grad on a GPU, a fresh process each: steady state and first call, against eager and Inductor.

Steady state is wall time of calls in a row, so that it is the device's or the calling thread's, whichever is slower.
Inductor is measured as it is and in its CUDA-graph mode; `best` is the faster. framejit is measured as it is, which
uses CUDA graphs where they are faster, and with mode="reduce-overhead".

Targets: no model slower than Inductor's best mode; first calls ten times sooner. A tiny call takes the calling thread
no longer than eager. A process that finds its kernels on disk has its first result 0.3 s after torch's import.
usage: python -m benchmarks.gpu_models [--check] [--quick] [--models NAME,...] [--rounds N] [--no-inductor]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks import common
from benchmarks.models_zoo import Decode, output_tensors

WARM_UP, CALLS = 20, 10
DISK_CACHE_SECONDS = 0.3


@dataclass(frozen=True)
class GpuModel:
    dtype: torch.dtype
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]


def _model(name: str, config: str, **values) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        return getattr(transformers, name)(getattr(transformers, config)(**values))

    return build


def _tokens(batch: int, length: int, vocabulary: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"input_ids": torch.randint(0, vocabulary, (batch, length), device="cuda")}


LLAMA = {
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 2816,
    "vocab_size": 32000,
}


def _decode_inputs() -> dict[str, Tensor]:
    shape = (1, LLAMA["num_hidden_layers"], LLAMA["num_key_value_heads"], 128, 64)
    cache = {name: torch.randn(shape, device="cuda", dtype=torch.bfloat16) for name in ("keys", "values")}
    return {"input_ids": torch.randint(0, LLAMA["vocab_size"], (1, 1), device="cuda"), **cache}


BERT = _model("BertModel", "BertConfig")
MODELS = {
    "bert-base fp16 1x128": GpuModel(torch.float16, BERT, _tokens(1, 128, 30522)),
    "bert-base fp16 8x512": GpuModel(torch.float16, BERT, _tokens(8, 512, 30522)),
    "gpt2 bf16 8x512": GpuModel(torch.bfloat16, _model("GPT2LMHeadModel", "GPT2Config", use_cache=False),
                                _tokens(8, 512, 50257)),
    "llama decode bf16": GpuModel(torch.bfloat16, lambda: Decode(_model("LlamaModel", "LlamaConfig", **LLAMA)()),
                                  _decode_inputs),
}  # fmt: skip


def compilers(inductor: bool) -> dict[str, Callable[[nn.Module], Callable]]:
    import framejit

    made = {
        "framejit": framejit.compile,
        "framejit reduce-overhead": lambda module: framejit.compile(module, mode="reduce-overhead"),
    }
    if inductor:
        made["inductor"] = torch.compile
        made["inductor reduce-overhead"] = lambda module: torch.compile(module, mode="reduce-overhead")
    return made


def seconds_of(function: Callable[[], object], calls: int) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


@torch.no_grad()
def measure_model(name: str, inductor: bool, rounds: int) -> None:
    torch.manual_seed(0)
    model = MODELS[name]
    module = model.build().to("cuda", model.dtype).eval()
    inputs = model.inputs()
    expected = [tensor.clone() for tensor in output_tensors(module(**inputs))]
    if inductor:
        common.warm_imports()
    candidates: dict[str, Callable[[], object]] = {"eager": lambda: module(**inputs)}
    first, error = {}, {}
    for compiler, make in compilers(inductor).items():
        compiled = make(module)
        candidates[compiler] = lambda compiled=compiled: compiled(**inputs)
        first[compiler] = seconds_of(candidates[compiler], 1)
        # A process has one CUDA context, whose clocks and caches the others share: each warms up for itself.
        for _ in range(WARM_UP):
            got = output_tensors(candidates[compiler]())
            torch.cuda.synchronize()
        error[compiler] = max(
            ((a.float() - b.float()).abs().max() / b.float().abs().max()).item()
            for a, b in zip(got, expected, strict=True)
        )
    steady = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for candidate, function in candidates.items():
            steady[candidate] = min(steady[candidate], seconds_of(function, CALLS))
    print(json.dumps({"first": first, "steady": steady, "error": error}))


@torch.no_grad()
def measure_tiny(rounds: int) -> None:
    """The calling thread's time of an addition of 16 elements."""
    import framejit

    x = torch.ones(16, device="cuda")
    functions = {"eager": lambda x: x + x, "framejit": framejit.compile(lambda x: x + x)}
    host = dict.fromkeys(functions, float("inf"))
    for _ in range(max(rounds, 20)):
        for name, function in functions.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(100):
                function(x)
            host[name] = min(host[name], (time.perf_counter() - start) / 100)
    print(json.dumps(host))


@torch.no_grad()
def measure_start(name: str) -> None:
    """Seconds of framejit's import and its first result, behind the import of torch and a first use of the GPU."""
    if name == "kernel":
        module = None
        inputs = {"x": torch.randn(64, 256, device="cuda", dtype=torch.bfloat16)}
    else:
        module = MODELS[name].build().to("cuda", MODELS[name].dtype).eval()
        inputs = MODELS[name].inputs()
        module(**inputs)
    torch.cuda.synchronize()
    start = time.perf_counter()
    import framejit

    function = framejit.compile(module or (lambda x: torch.softmax(torch.nn.functional.gelu(x) * x, -1)))
    function(**inputs)
    torch.cuda.synchronize()
    print(json.dumps({"seconds": time.perf_counter() - start}))


def child(arguments: list[str], rounds: int) -> None:
    what, name, inductor = arguments
    if what == "tiny":
        measure_tiny(rounds)
    elif what == "start":
        measure_start(name)
    else:
        measure_model(name, inductor == "inductor", rounds)


def report_models(arguments: argparse.Namespace, targets: common.Targets) -> None:
    table = common.GrowingTable(
        ["model, ms", "eager", "framejit", "graphs", "inductor", "graphs", "error", "first, s", "inductor"], 22
    )
    rounds = f"--rounds={3 if arguments.quick else arguments.rounds or 8}"
    for name in arguments.models.split(","):
        inductor = "none" if arguments.no_inductor else "inductor"
        with mock.patch.dict(os.environ, FRAMEJIT_CACHE_DIR=""):  # a first call compiles its kernels
            found = common.in_fresh_process("benchmarks.gpu_models", "model", name, inductor, rounds)
        steady, first, error = found["steady"], found["first"], found["error"]
        own = min(steady["framejit"], steady["framejit reduce-overhead"])
        names = ("eager", "framejit", "framejit reduce-overhead", "inductor", "inductor reduce-overhead")
        row = [f"{steady[key] * 1e3:.3f}" if key in steady else "-" for key in names]
        table.add([name, *row, f"{max(error['framejit'], error['framejit reduce-overhead']):.1e}",
                   f"{first['framejit']:.2f}", f"{first['inductor']:.2f}" if "inductor" in first else "-"])  # fmt: skip
        targets.at_most(f"{name}: against eager", own, steady["eager"])
        if "inductor" in steady:
            best = min(steady["inductor"], steady["inductor reduce-overhead"])
            targets.at_most(f"{name}: against Inductor's best", own, best)
            targets.at_most(f"{name}: first call", first["framejit"], first["inductor"] / 10)


def report_starts(arguments: argparse.Namespace, targets: common.Targets) -> None:
    tiny = common.in_fresh_process("benchmarks.gpu_models", "tiny", "", "")
    print(f"a tiny call, host: eager {tiny['eager'] * 1e6:.2f} us, framejit {tiny['framejit'] * 1e6:.2f} us")
    targets.at_most("a tiny call", tiny["framejit"], tiny["eager"])
    for name in ("kernel", *arguments.models.split(",")[:1]):
        with tempfile.TemporaryDirectory() as folder:
            with mock.patch.dict(os.environ, FRAMEJIT_CACHE_DIR=folder):
                cold, warm = (
                    common.in_fresh_process("benchmarks.gpu_models", "start", name, "")["seconds"] for _ in range(2)
                )
        print(f"first result of {name}: {cold:.2f} s, from kernels on disk {warm:.2f} s")
        targets.at_most(f"{name}: from disk", warm, DISK_CACHE_SECONDS)


def main() -> int:
    arguments = common.model_parser(__doc__.splitlines()[0], list(MODELS)).parse_args()
    if arguments.child is not None:
        child(arguments.child, arguments.rounds)
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    targets = common.Targets()
    report_models(arguments, targets)
    report_starts(arguments, targets)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
