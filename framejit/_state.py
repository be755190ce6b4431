"""What stands for torch's own C++ objects that set its state, in Python that can be recorded."""

from __future__ import annotations

import torch.utils._device  # noqa: F401  (torch imports it where a device is first entered, and an import is a break)

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
