"""Models in train mode: twenty steps of SGD from one seed have eager's losses; one recording, one forward and one
backward graph."""

import copy

import pytest
import torch
from framejit_testing import TOLERANCE
from training import reports

import framejit
from benchmarks.training import NAMES, batch, build

STEPS = 20


def losses(module, loss, name: str) -> list[float]:
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2, momentum=0.9)
    torch.manual_seed(11)
    values = []
    for number in range(STEPS):
        optimizer.zero_grad()
        value = loss(**batch(name, True, number % 4))
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


@pytest.mark.parametrize("name", NAMES)
def test_losses(name):
    module = build(name, small=True)
    own = copy.deepcopy(module)
    compiled = framejit.compile(own)
    expected, actual = losses(module, module, name), losses(own, compiled, name)
    for number, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert abs(a - e) <= TOLERANCE * abs(e), f"step {number}: {a} instead of {e}"
    found = reports(compiled)
    assert len(found) == 1 and found[0].has_backward, found[0].graph_break or found[0].backend
    assert found[0].description.count("backward:") == 1
