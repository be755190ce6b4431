"""What frames carry over a break is guarded behind it; objects with much state are compared, not walked each time."""

import gc

import pytest
import torch
from framejit_testing import counting, vector
from torch import nn

X = vector(seed=7)


class Sink:
    @staticmethod
    def write(text):
        pass


def show():
    print("", end="", file=Sink)


class Holder:
    def __init__(self, scale=2.0):
        torch.manual_seed(0)
        self.scale = scale
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).requires_grad_(False)
        self.table = {"list": [X, X + 1], "number": 3}
        self.pair = (X * 2, self.table)

    def __call__(self, x):
        y = x * self.scale
        show()
        z = self.inner(y) * self.scale
        return z + self.table["list"][0] * self.table["number"] + self.pair[0]


class Outer:
    """The break is in an inner frame, so that both frames carry the holder."""

    def __init__(self):
        self.holder = Holder()
        self.offset = 1.0

    def __call__(self, x):
        y = self.holder(x + self.offset)
        return y * self.offset + self.holder.table["list"][1]


def set_scale(holder):
    holder.scale += 0.5


def set_number(holder):
    holder.table["number"] += 1


def replace_item(holder):
    holder.table["list"][0] = X * 5


def replace_table(holder):
    holder.table = {"list": [X * 7, X], "number": 2}


def replace_pair(holder):
    holder.pair = (X * 3, None)


def write_weight(holder):
    with torch.no_grad():
        holder.inner[0].weight.mul_(2)


def replace_weight(holder):
    holder.inner[2].weight = nn.Parameter(torch.eye(4), requires_grad=False)


def replace_module(holder):
    holder.inner[1] = nn.Tanh()


def change_type(holder):
    holder.__class__ = type("Changed", (Holder,), {"__call__": lambda self, x: Holder.__call__(self, x) * 2})


CHANGES = [
    set_scale, set_number, replace_item, replace_table, replace_pair, write_weight, replace_weight, replace_module,
    change_type,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_a_change_is_seen_behind_the_break(change, nested):
    def call(target, x):
        return target(x)

    target = Outer() if nested else Holder()
    holder = target.holder if nested else target
    compiled, backend = counting(call)
    for _ in range(3):
        torch.testing.assert_close(compiled(target, X), call(target, X))
    recorded = backend.count
    compiled(target, X)
    assert backend.count == recorded
    change(holder)
    for _ in range(3):
        torch.testing.assert_close(compiled(target, X), call(target, X))


def test_other_objects_at_the_same_place():
    def call(target, x):
        return target(x)

    compiled, _ = counting(call)
    kept = [Holder(), Holder(3.0)]
    for k in range(12):
        torch.testing.assert_close(compiled(kept[k % 2], X), kept[k % 2](X))
    for k in range(12):
        fresh = Holder(float(k % 3))
        torch.testing.assert_close(compiled(fresh, X), fresh(X))
        del fresh
        gc.collect()
