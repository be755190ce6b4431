"""The option `mode`: what it accepts, and that it changes nothing on the CPU."""

import pytest
import torch

import framejit


@pytest.mark.parametrize("mode", [None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"])
def test_results_are_eagers(mode):
    compiled = framejit.compile(lambda x: torch.softmax(x @ x, -1), mode=mode, fullgraph=True)
    x = torch.arange(16.0).reshape(4, 4) / 16
    for _ in range(5):
        torch.testing.assert_close(compiled(x), torch.softmax(x @ x, -1))


@pytest.mark.parametrize("mode", ["fast", "", True, 3])
def test_unknown_modes_are_errors(mode):
    names = "default, reduce-overhead, max-autotune, max-autotune-no-cudagraphs"
    with pytest.raises(ValueError, match=f"framejit.compile: mode: expected None or one of {names}, got"):
        framejit.compile(lambda x: x, mode=mode)
