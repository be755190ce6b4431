"""Faults of framejit itself, behind which a function runs in the interpreter: they are counted, and warned of once."""

import pytest
import torch

import framejit

X = torch.arange(6.0)


@pytest.mark.internal_errors(3)
def test_a_graph_that_fails_an_internal_assertion(caplog):
    """Here by an operator whose metadata is wrong."""
    library = torch.library.Library("framejit_tests", "FRAGMENT")
    library.define("misdescribed(Tensor x) -> Tensor")
    library.impl("misdescribed", framejit.disable(lambda x: x[:3] * 2), "CPU")
    library.impl("misdescribed", lambda x: torch.empty_like(x[:2]), "Meta")

    def function(x):
        return torch.ops.framejit_tests.misdescribed.default(x) + 1

    compiled = framejit.compile(function)
    for _ in range(3):
        assert torch.equal(compiled(X), X[:3] * 2 + 1)
    warnings = [record.getMessage() for record in caplog.records if "internal error" in record.getMessage()]
    assert len(warnings) == 1 and "returned another shape than was recorded" in warnings[0]


def test_other_errors_are_no_faults(caplog):
    """The program may have caused them: the interpreter tells."""

    def backend(graph, inputs):
        def run(*arguments):
            raise RuntimeError("out of memory")

        return run

    compiled = framejit.compile(lambda x: x * 2 + 1, backend=backend)
    for _ in range(3):
        assert torch.equal(compiled(X), X * 2 + 1)
    assert not any("internal error" in record.getMessage() for record in caplog.records)
