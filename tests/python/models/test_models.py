"""The models of the project's target, each with the native backend in no_grad: one graph, no break, outputs equal to
eager within 1e-5 of the largest value; the second call with other values hits the cache; another shape or dtype records
again and is right. Small sizes in every run, full sizes in the long one."""

import copy

import pytest
import torch
from framejit_testing import TOLERANCE, assert_same, counting

import framejit
from benchmarks.models_zoo import MODELS, output_tensors


def assert_close(actual, expected, what):
    actual, expected = output_tensors(actual), output_tensors(expected)
    assert len(actual) == len(expected) > 0
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == e.shape and a.dtype == e.dtype and a.stride() == e.stride()
        difference = (a - e).abs().max().item()
        scale = e.abs().max().item()
        assert difference <= TOLERANCE * scale, f"{what}: output {index} differs by {difference:.3g} of {scale:.3g}"


def check_model(name: str, small: bool) -> None:
    entry = MODELS[name]
    model = entry.build(small)
    compiled = framejit.compile(model)
    with torch.no_grad():
        report = framejit.explain(model)(**entry.inputs(small, 0, 0))
        assert report.break_count == 0, str(report)
        assert report.graph_count == 1
        assert report.graphs[0].captured and not report.graphs[0].fallback, str(report)
        for seed in (0, 1, 2):
            inputs = entry.inputs(small, seed, 0)
            assert_close(compiled(**inputs), model(**inputs), f"{name}, values {seed}")
        inputs = entry.inputs(small, 3, 1)
        assert_close(compiled(**inputs), model(**inputs), f"{name}, another shape")


@pytest.mark.parametrize("name", MODELS)
def test_small(name):
    check_model(name, small=True)


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_full(name):
    check_model(name, small=False)


@pytest.mark.parametrize("name", MODELS)
def test_recordings(name):
    """One for the first shape, none for other values, one for another shape, one for another dtype."""
    entry = MODELS[name]
    model = entry.build(True)
    compiled, backend = counting(model)
    with torch.no_grad():
        for seed in (0, 1):
            inputs = entry.inputs(True, seed, 0)
            assert_close(compiled(**inputs), model(**inputs), name)
            assert backend.count == 1
        inputs = entry.inputs(True, 0, 1)
        assert_close(compiled(**inputs), model(**inputs), f"{name}, another shape")
        assert backend.count == 2
        model.double()
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in entry.inputs(True, 0, 0).items()}
        expected = model(**inputs)
        assert output_tensors(expected)[0].dtype == torch.float64
        assert_close(compiled(**inputs), expected, f"{name}, double")
        assert backend.count == 3


@pytest.mark.parametrize("name", ["bert-base", "gpt2", "llama-60m", "vit-s"])
def test_output_object(name):
    """The same ModelOutput class, keys and order as eager."""
    entry = MODELS[name]
    model = entry.build(True)
    compiled = framejit.compile(model)
    inputs = entry.inputs(True, 0, 0)
    with torch.no_grad():
        expected = model(**inputs)
        for _ in range(2):
            actual = compiled(**inputs)
            assert type(actual) is type(expected)
            assert list(actual.keys()) == list(expected.keys())
            assert_same(actual.last_hidden_state, expected.last_hidden_state)


def test_weights_are_read_on_every_call():
    entry = MODELS["bert-base"]
    model = entry.build(True)
    compiled = framejit.compile(model)
    inputs = entry.inputs(True, 0, 0)
    with torch.no_grad():
        compiled(**inputs)
        for parameter in model.parameters():
            parameter.mul_(1.5)
        assert_close(compiled(**inputs), model(**inputs), "after the weights changed in place")


def test_two_models_of_one_class():
    entry = MODELS["resnet18"]
    first = entry.build(True)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(0.9)
        inputs = entry.inputs(True, 0, 0)
        one, two = framejit.compile(first), framejit.compile(second)
        for _ in range(2):
            assert_close(one(**inputs), first(**inputs), "first")
            assert_close(two(**inputs), second(**inputs), "second")
