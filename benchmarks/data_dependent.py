"""Functions whose sizes and numbers come of data: one graph each, beside eager mode, on one thread.

`again`: a few sizes that come again and again, for which sections of the graph are compiled. `once`: each call has data
of its own, and with it other sizes, most of which come once.
Targets: one recording without a break; as fast as eager, within the noise band.
usage: python -m benchmarks.data_dependent [--check] [--quick]
"""

import sys

import torch

from benchmarks import common

AGAIN = 4


def filtered(x):
    kept = x[x[:, 0] > 0]
    return (kept * 2 + 1).relu().sum(0), kept.shape[0]


def scaled(x):
    scale = x.abs().max().item()
    return (x / (scale + 1)).tanh() * scale


def gathered(x):
    found = (x[:, 0] > 0.5).nonzero().squeeze(1)
    return x[found].softmax(-1) + found.numel()


def padded(x):
    lengths = (x > 0).sum(1)
    longest = int(lengths.max())
    mask = torch.arange(longest + 1)[None, :] < lengths[:, None]
    return mask.float().softmax(-1)


def repeated(x):
    rows = torch.repeat_interleave(x, (x[:, 0] > 0).long() + 1, dim=0)
    return rows.exp().mean(0)


def counted(x):
    values, counts = torch.unique(x.round(), return_counts=True)
    return values * counts / counts.sum()


FUNCTIONS = [filtered, scaled, gathered, padded, repeated, counted]


def once_seconds(function, batches: list[torch.Tensor]) -> float:
    """The median of a call's time, each with a batch that it has not seen."""
    times = sorted(common.seconds(lambda batch=batch: function(batch)) for batch in batches)
    return times[len(times) // 2]


def main() -> int:
    import framejit

    arguments = common.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    common.warm_imports()
    targets = common.Targets()
    rows = []
    for function in FUNCTIONS:
        for count in (16, 512) if arguments.quick else (16, 512, 20000):
            generator = torch.Generator().manual_seed(count)
            batches = [torch.randn(count, 16, generator=generator) for _ in range(120)]
            compiled = framejit.compile(function, data_dependent=True, fullgraph=True)
            with torch.no_grad():
                for batch in batches[:AGAIN] * 3:
                    torch.testing.assert_close(compiled(batch), function(batch))
                again = {
                    name: lambda run=run, some=batches[:AGAIN]: [run(batch) for batch in some]
                    for name, run in (("eager", function), ("own", compiled))
                }
                best = common.minimum_seconds(again, 20)
                eager_once = once_seconds(function, batches[AGAIN:])
                own_once = once_seconds(compiled, batches[AGAIN:])
            traces = framejit._C.traces(compiled)
            label = f"{function.__name__}, {count} rows"
            rows.append(
                [
                    label,
                    common.microseconds(best["eager"] / AGAIN),
                    common.microseconds(best["own"] / AGAIN),
                    common.microseconds(eager_once),
                    common.microseconds(own_once),
                ]
            )
            targets.exactly(f"{label}, recordings", len(traces), 1)
            targets.at_most(f"{label}, again, own/eager", best["own"] / best["eager"], 1.0)
            targets.at_most(f"{label}, once, own/eager", own_once / eager_once, 1.0)
    common.print_table(["", "again, eager us", "again, own us", "once, eager us", "once, own us"], rows)
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
