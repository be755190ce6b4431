"""DistributedDataParallel over gloo, two processes: gradients are averaged as with an eager module."""

import sys
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

PROCESSES = 2


def gradients(wrap, rank: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    parallel = nn.parallel.DistributedDataParallel(wrap(module))
    torch.manual_seed(rank + 1)
    for _ in range(3):
        parallel(torch.randn(5, 8)).square().sum().backward()
    return [p.grad for p in module.parameters()]


def work(rank: int, directory: str) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    import framejit

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{directory}/store", rank=rank, world_size=PROCESSES)
    compiled = []

    def wrap(module):
        compiled.append(framejit.compile(module))
        return compiled[0]

    expected, actual = gradients(lambda module: module, rank), gradients(wrap, rank)
    for a, e in zip(actual, expected, strict=True):
        assert (a - e).abs().max() <= 1e-5 * e.abs().max()
    reports = framejit._explain.reports(framejit._C, framejit._entry_of(compiled[0]))
    assert [report.has_backward for report in reports] == [True]
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=PROCESSES)
