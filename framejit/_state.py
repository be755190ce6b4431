"""What stands for torch's own C++ objects that set its state, in Python that can be recorded."""

from __future__ import annotations

from framejit._C import exchange_autograd_modes


class InferenceMode:
    """torch._C._InferenceMode: torch.inference_mode makes one each time it is entered."""

    def __init__(self, mode: bool = True) -> None:
        self.mode = mode

    def __enter__(self) -> None:
        mode = self.mode
        self.before = exchange_autograd_modes(not mode, mode, not mode, not mode)

    def __exit__(self, *exception: object) -> None:
        exchange_autograd_modes(*self.before)
