"""Training with sizes that vary: layers, losses and whole models over several batch sizes, with dynamic=True and by
themselves, where the second size opens them. Outputs, gradients and buffers equal eager's; one recording with open
sizes, whose forward and backward are graphs of our own at each size."""

import copy

import pytest
import torch
from framejit_testing import TOLERANCE, assert_same, vector
from training_tables import DIFFERENTIATED_BY_TORCH, LAYERS, LOSSES
from training_testing import reports, state_of, step

import framejit
from benchmarks.training import NAMES, batch, build

ROWS = (4, 7, 2, 5, 7)


def resized(argument: torch.Tensor, rows: int) -> torch.Tensor:
    """The first `rows` rows of the argument, repeated; a leaf like it."""
    index = torch.arange(rows) % argument.shape[0]
    taken = argument.detach()[index].clone()
    if taken.is_floating_point():  # no two rows are the same
        taken += 0.01 * vector(*taken.shape, seed=rows)
    return taken.requires_grad_(argument.requires_grad)


def check(target, arguments_of, dynamic, native: bool = True, tolerance: float = TOLERANCE) -> None:
    own = copy.deepcopy(target)
    compiled = framejit.compile(own, dynamic=dynamic)
    for number, rows in enumerate(ROWS):
        theirs = arguments_of(rows)
        ours = copy.deepcopy(theirs)
        expected, actual = step(target, target, theirs), step(compiled, own, ours)
        assert_same(actual, expected, f"step {number} of {rows} rows", tolerance)
    found = reports(compiled)
    assert all(report.captured for report in found), [report.graph_break or report.fallback for report in found]
    if native:
        assert len(found) <= (1 if dynamic else 2), [report.graph_break for report in found]
        assert all(report.has_backward for report in found)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, dynamic):
    make, shape = LAYERS[name]
    shapes = [shape] if shape is not None else [(4, 6), (4, 6)]
    examples = [vector(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes, 1)]
    native = name not in DIFFERENTIATED_BY_TORCH
    check(make(), lambda rows: tuple(resized(x, rows) for x in examples), dynamic, native)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", LOSSES)
def test_loss(name, dynamic):
    loss, *examples = LOSSES[name]

    def arguments_of(rows):
        made = [resized(x, rows) for x in examples]
        if name == "cross entropy, probabilities":
            made[1] = made[1].softmax(-1)
        if name.startswith(("bce", "hinge", "soft margin", "multi label", "cosine", "margin ranking")):
            made[-1] = examples[-1][torch.arange(rows) % len(examples[-1])].clone()
        return tuple(made)

    check(loss, arguments_of, dynamic, name not in DIFFERENTIATED_BY_TORCH)


def compare_states(actual: dict, expected: dict, where: str) -> None:
    """Against the largest gradient of all: those of biases in front of a softmax are nothing but rounding."""
    assert actual.keys() == expected.keys()
    largest = max(t.abs().max().item() for name, t in expected.items() if name.startswith("gradient") and t is not None)
    for name, theirs in expected.items():
        ours = actual[name]
        assert (ours is None) == (theirs is None), f"{where}: {name}"
        if theirs is None or not theirs.is_floating_point():
            assert theirs is None or torch.equal(ours, theirs), f"{where}: {name}"
            continue
        assert ours.stride() == theirs.stride(), f"{where}: {name}"
        scale = largest if name.startswith("gradient") else theirs.abs().max().item()
        difference = (ours - theirs).abs().max().item()
        assert difference <= TOLERANCE * scale, f"{where}: {name} differs by {difference:.3g} of {scale:.3g}"


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", NAMES)
def test_model(name, dynamic):
    module = build(name, small=True)
    own = copy.deepcopy(module)
    compiled = framejit.compile(own, dynamic=dynamic)
    whole = batch(name, True, 0)
    count = len(whole["targets"])
    for rows in (count, max(count - 1, 1), 2 * count + 1, count):
        index = torch.arange(rows) % count
        inputs = {key: value[index].contiguous() for key, value in whole.items()}
        found = []
        for callee, target in ((module, module), (compiled, own)):
            target.zero_grad()
            torch.manual_seed(5)
            loss = callee(**inputs)
            loss.backward()
            found.append((loss.detach(), state_of(target, ())))
        assert_same(found[1][0], found[0][0], f"loss of {rows} rows")
        compare_states(found[1][1], found[0][1], f"{rows} rows")
    report = reports(compiled)
    assert len(report) <= (1 if dynamic else 2), [one.graph_break for one in report]
    assert all(one.has_backward for one in report)
