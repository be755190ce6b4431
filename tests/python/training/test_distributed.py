"""Data-parallel training over gloo, two processes: with DistributedDataParallel and with both forms of FSDP, around a
compiled module and inside one. Losses and parameters are those of the same wrapper around an eager module."""

import sys
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

PROCESSES = 2
CPU = torch.device("cpu")


def replicated(module, compiler):
    return nn.parallel.DistributedDataParallel(compiler(module))


def sharded(module, compiler):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(compiler(module), device_id=CPU)


def sharded_with_original_parameters(module, compiler):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(compiler(module), use_orig_params=True, device_id=CPU)


def compiled_around_sharded(module, compiler):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return compiler(FullyShardedDataParallel(module, use_orig_params=True, device_id=CPU))


def sharded_by_layer(module, compiler):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (PROCESSES,))
    for layer in module:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return compiler(fully_shard(module, mesh=mesh))


def train(strategy, compiler, rank: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    module = strategy(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), compiler)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    torch.manual_seed(rank + 1)
    results = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = module(torch.randn(5, 8)).square().mean()
        loss.backward()
        optimizer.step()
        results.append(loss.detach())
    shards = [getattr(p, "_local_tensor", p).detach() for p in module.parameters()]
    return results + shards


def check(strategy, rank: int) -> None:
    import framejit

    compiled = []

    def compiler(module):
        compiled.append(framejit.compile(module))
        return compiled[0]

    name = strategy.__name__
    expected, actual = train(strategy, lambda module: module, rank), train(strategy, compiler, rank)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape, name
        assert a.numel() == 0 or (a - e).abs().max() <= 1e-5 * e.abs().max(), name
    reports = framejit._explain.reports(framejit._C, framejit._entry_of(compiled[0]))
    if strategy is replicated:
        assert [report.has_backward for report in reports] == [True]


def work(rank: int, directory: str) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{directory}/store", rank=rank, world_size=PROCESSES)
    for strategy in (
        replicated,
        sharded,
        sharded_with_original_parameters,
        compiled_around_sharded,
        sharded_by_layer,
    ):
        check(strategy, rank)
    torch.distributed.barrier()  # neither leaves while the other still talks to it
    torch.distributed.destroy_process_group()


def test_data_parallel(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=PROCESSES)
