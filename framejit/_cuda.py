"""Where NVRTC, CUDA's run-time compiler, may be found, and where compiled kernels are kept. Loads nothing."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from framejit import _config


def nvrtc_libraries() -> list[str]:
    """Names and paths for dlopen, in the order to try: those of torch's CUDA version first.

    torch's wheels have it in a package beside torch; other builds use the system's."""
    version = torch.version.cuda
    majors = [version.split(".")[0]] if version else []
    majors += [major for major in ("13", "12") if major not in majors]
    packages = Path(torch.__file__).parent.parent / "nvidia"
    libraries = []
    for major in majors:
        name = f"libnvrtc.so.{major}"
        folder = "cu13" if major == "13" else "cuda_nvrtc"
        libraries += [str(packages / folder / "lib" / name), name]
    return libraries


def cache_folder() -> str:
    """The folder of FRAMEJIT_CACHE_DIR for compiled kernels; empty where they are not kept."""
    folder = _config.read("FRAMEJIT_CACHE_DIR")
    return os.path.join(os.path.expanduser(folder), "cubins") if folder else ""
