"""Hugging Face architectures: equal to eager on calls with the recorded and with other values, in one graph, but where
the model's own code depends on tensor data. One or two of each kind in every run, all in the long one; the table of all
is docs/coverage.md."""

import pytest
import torch

import framejit
from benchmarks import coverage
from benchmarks.architectures import ARCHITECTURES
from benchmarks.models_zoo import output_tensors

SELECTION = (
    "modernbert",
    "deberta-v2",
    "gemma3",
    "falcon",
    "mixtral",
    "gpt-oss",
    "mamba",
    "rwkv",
    "wav2vec2",
    "swin",
    "detr",
    "clip",
)


def check_architecture(name: str) -> "framejit._explain.Explanation":
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    compiled = framejit.compile(model)
    with torch.no_grad():
        for seed in range(3):
            inputs = architecture.inputs(seed)
            actual, expected = (output_tensors(coverage.seeded(f, inputs)) for f in (compiled, model))
            assert len(expected) > 0
            assert coverage.difference(actual, expected) <= coverage.TOLERANCE
        return framejit.explain(model)(**architecture.inputs(0))


@pytest.mark.parametrize("name", SELECTION)
def test_single_graph(name):
    report = check_architecture(name)
    assert (report.graph_count, report.break_count) == (1, 0), str(report)
    assert report.graphs[0].captured and not report.graphs[0].fallback


@pytest.mark.filterwarnings("ignore:framejit.trace.*also changes")  # counters and caches of the models
@pytest.mark.parametrize("name", SELECTION)
def test_traced(name):
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    with torch.no_grad():
        module = framejit.trace(model, **architecture.inputs(0))
        module.graph.lint()
        for seed in range(2):
            inputs = architecture.inputs(seed)
            actual, expected = (output_tensors(coverage.seeded(f, inputs)) for f in (module, model))
            assert len(expected) > 0
            assert coverage.difference(actual, expected) <= coverage.TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in SELECTION])
def test_equal_to_eager(name):
    check_architecture(name)
