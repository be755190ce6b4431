"""One recording for many sizes: models over 50 random batches and lengths (or image sizes), and the demo's texts of 200
lengths.

Targets: results equal to eager's at every size; at most two recordings behind the first, no break, no fallback; at most
10 demands on sizes; at a size of both, within 10 % of the time of a static recording; recording it takes at most three
times as long. A call of new sizes replays the recording, takes it through the passes, plans it and makes kernels: how
long each takes, and how many kernels were made for all sizes, is shown. --quick: small models, whose results and
recordings count, not their times.
usage: python -m benchmarks.dynamic_sizes [--check] [--quick] [--models NAME,...]
"""

import gc
import json
import random
import sys
from pathlib import Path

import torch

from benchmarks import common
from benchmarks.models_zoo import MODELS, minilm_directory, output_tensors

SIZES = 50
LENGTHS = 200
TEXTS = "texts"
IMAGES = {"vit-s": "pixel_values", "resnet18": "x"}
NAMES = ["minilm", "bert-base", "gpt2", "llama-60m", *IMAGES, TEXTS]
TOLERANCE = 2e-5  # of the largest magnitude
# Steps of a recording; what follows makes machine code, once for each set of sizes.
RECORDING = ("record", "guards", "replay")


def sizes_of(name: str, small: bool) -> list[tuple[int, ...]]:
    """(batch, length), or (batch, side) of images. The first two are recorded; 1, primes and larger ones follow."""
    generator = random.Random(name)
    longest = 48 if small else 160
    if name == "vit-s":  # its positions fix the size of images
        side = 32 if small else 224
        sizes = [(2, side), (3, side), (1, side), (7, side), (11, side)]
        return sizes + [(generator.randint(1, 12), side) for _ in range(SIZES - len(sizes))]
    if name == "resnet18":
        sides = range(33, 130) if small else range(64, 260)
        sizes = [(2, 64), (3, 96), (1, 67), (2, sides[0]), (2, sides[-1])]
        return sizes + [(generator.randint(1, 3), generator.choice(sides)) for _ in range(SIZES - len(sizes))]
    sizes = [(2, 8), (3, 13), (1, 1), (5, 1), (1, longest), (7, 31)]
    return sizes + [(generator.randint(1, 6), generator.randint(1, longest)) for _ in range(SIZES - len(sizes))]


def inputs_of(name: str, small: bool, size: tuple[int, ...]) -> dict[str, torch.Tensor]:
    batch, length = size
    generator = torch.Generator().manual_seed(1000 * batch + length)
    if name in IMAGES:
        return {IMAGES[name]: torch.randn(batch, 3, length, length, generator=generator)}
    vocabulary = 30522 if name == "minilm" else 100 if small else 30000
    ids = torch.randint(0, vocabulary, size, generator=generator)
    mask = torch.ones_like(ids)
    mask[0, length // 2 + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def text_inputs() -> list[dict[str, torch.Tensor]]:
    """The demo's sentences, put together to texts of LENGTHS different lengths, one text a batch."""
    import transformers

    lines = (common.ROOT / "examples" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    words = " ".join(line for line in lines if line and not line.startswith("#"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_directory())
    ids = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    order = random.Random(0).sample(range(1, LENGTHS + 1), LENGTHS)
    batches = []
    for i, length in enumerate(order):
        text = [tokenizer.cls_token_id, *ids[17 * i : 17 * i + length], tokenizer.sep_token_id]
        tokens = torch.tensor([text])
        batches.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    return batches


def text_model():
    """The function that the demo compiles."""
    sys.path.insert(0, str(Path(common.ROOT) / "examples"))
    import semantic_search

    return semantic_search.make_embed(MODELS["minilm"].build(False))


def traces_of(compiled) -> list[dict]:
    import framejit

    entry = compiled if isinstance(compiled, framejit._C.Entry) else object.__getattribute__(compiled, "_entry")
    return framejit._C.traces(entry)


def difference_of(actual, expected) -> float:
    return max(
        ((a - e).abs().max() / e.abs().max().clamp(min=1e-30)).item()
        for a, e in zip(output_tensors(actual), output_tensors(expected), strict=True)
    )


def recording_seconds(trace: dict) -> float:
    return sum(microseconds for step, microseconds in trace["timings"] if step in RECORDING) * 1e-6


def new_size_milliseconds(traces: list[dict]) -> dict[str, float]:
    """What a set of sizes takes that was not met before, by part."""
    made = sum(trace["sizes_made"] for trace in traces)
    total: dict[str, float] = {}
    for trace in traces:
        for step, microseconds in trace["size_timings"]:
            total[step] = total.get(step, 0.0) + microseconds
    replay, backend, kernels = (total.pop(step, 0.0) for step in ("replay", "backend", "kernels"))
    parts = {"replay": replay, "passes": sum(total.values()), "plan": backend - kernels, "kernels": kernels}
    return {part: microseconds * 1e-3 / max(1, made) for part, microseconds in parts.items()}


def child(name: str, small: bool, _: bool, threads: int, rounds: int) -> None:
    """Prints what was recorded, the largest difference from eager and the times of one size, as JSON."""
    import framejit

    torch.set_num_threads(threads)
    common.warm_imports()
    model = text_model() if name == TEXTS else MODELS[name].build(small)
    batches = text_inputs() if name == TEXTS else [inputs_of(name, small, size) for size in sizes_of(name, small)]
    compiled = framejit.compile(model)
    gc.collect()
    gc.freeze()  # else what Inductor's imports left is walked in the middle of a recording that is measured
    before = framejit._C.kernel_code()
    with torch.no_grad():
        difference = max(difference_of(compiled(**batch), model(**batch)) for batch in batches)
        code = framejit._C.kernel_code()
        static = framejit.compile(model, dynamic=False)
        static(**batches[0])
        best = common.minimum_seconds(
            {"static": lambda: static(**batches[0]), "dynamic": lambda: compiled(**batches[0])}, rounds
        )
    traces = traces_of(compiled)
    open_traces = [trace for trace in traces if trace["size_variants"]]
    print(
        json.dumps(
            {
                **best,
                "sizes": len(batches),
                "new_size": new_size_milliseconds(open_traces),
                "kernels": code["made"] - before["made"],
                "code": code["held_bytes"] - before["held_bytes"],
                "difference": difference,
                "recordings": len(traces),
                "captured": all(trace["captured"] for trace in traces),
                "demands": max(len(trace["demands"].splitlines()) for trace in traces),
                "record": max(map(recording_seconds, open_traces), default=0.0)
                / max(recording_seconds(trace) for trace in traces_of(static)),
            }
        )
    )


def main() -> int:
    arguments = common.model_parser(__doc__, NAMES).parse_args()
    if common.run_child(child, arguments):
        return 0
    targets = common.Targets()
    rows, new_sizes = [], []
    for name, found in common.each_model("benchmarks.dynamic_sizes", arguments, 30):
        rows.append(
            [
                name,
                found["sizes"],
                found["recordings"],
                found["demands"],
                f"{found['difference']:.1e}",
                common.milliseconds(found["static"]),
                common.milliseconds(found["dynamic"]),
                f"{found['record']:.1f}x",
            ]
        )
        parts = found["new_size"]
        new_sizes.append(
            [
                name,
                f"{sum(parts.values()):.2f}",
                *(f"{milliseconds:.2f}" for milliseconds in parts.values()),
                found["kernels"],
                f"{found['code'] / 1024:.0f}",
            ]
        )
        targets.at_most(f"{name}, difference from eager", found["difference"], TOLERANCE)
        targets.exactly(f"{name}, recordings without a graph", int(not found["captured"]), 0)
        targets.at_most(f"{name}, recordings", found["recordings"], 3)
        targets.at_most(f"{name}, demands", found["demands"], 10)
        if not arguments.quick:
            targets.at_most(f"{name}, dynamic/static", found["dynamic"] / found["static"], 1.1)
            targets.at_most(f"{name}, recording, dynamic/static", found["record"], 3)
    header = ["", "sizes", "recordings", "demands", "difference", "static ms", "dynamic ms", "recording"]
    common.print_table(header, rows)
    print("\nA call of new sizes, ms; kernels made for all sizes, and their code")
    common.print_table(["", "all", "replay", "passes", "plan", "kernels", "made", "KiB"], new_sizes)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
