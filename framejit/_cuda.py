"""Where NVRTC, CUDA's run-time compiler, may be found, and where compiled kernels are kept; captures of CUDA graphs.

Importing it loads nothing."""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Callable
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


class _Pool:
    """Memory of the graphs that are launched on one stream, for as long as there are any."""

    def __init__(self) -> None:
        self.handle = torch.cuda.graph_pool_handle()


_pools: weakref.WeakValueDictionary[tuple[int, int], _Pool] = weakref.WeakValueDictionary()


class Capture:
    """The work of the current stream, from now on, for a CUDA graph that is launched on another one.

    Graphs of the same (device, stream) share their memory. Either finish() or drop() is called once, with the same
    stream current. RuntimeError where torch cannot capture.
    """

    def __init__(self, device: int, stream: int) -> None:
        # A workspace that a library got for this stream before may be let go of while the graph lives; one that it gets
        # now is the graph's.
        torch._C._cuda_clearCublasWorkspaces()
        self._device = device
        self._pool = _pools.setdefault((device, stream), _Pool())
        self._graph = torch.cuda.CUDAGraph()
        self._graph.capture_begin(pool=self._pool.handle, capture_error_mode="thread_local")

    def finish(self) -> Callable[[], None]:
        """What launches the graph, which lives as long as that."""
        try:
            self._graph.capture_end()
        except RuntimeError:
            self._recover()
            raise
        torch._C._cuda_clearCublasWorkspaces()
        return functools.partial(_launch, self._graph, self._pool)

    def drop(self) -> None:
        """Ends a capture during which something failed."""
        try:
            self._graph.capture_end()
        except RuntimeError:
            self._recover()
        torch._C._cuda_clearCublasWorkspaces()

    def _recover(self) -> None:
        """Where a capture did not end well, torch leaves the allocator and the generator in the state of a capture."""
        for leave in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
            with contextlib.suppress(RuntimeError):
                leave(self._device, self._pool.handle)
        other = torch.cuda.CUDAGraph()
        other.capture_begin(capture_error_mode="thread_local")
        torch.zeros(1, device="cuda")  # an empty capture is warned of
        other.capture_end()


def _launch(graph: torch.cuda.CUDAGraph, pool: _Pool) -> None:
    """pool: held until the graph is gone, so that no other capture takes its handle for that of a new pool."""
    graph.replay()
