"""Nothing that a call or a recording made stays behind: memory, reference counts, objects the collector knows."""

import gc
import linecache
import resource
import sys
import weakref

import pytest
import torch
from framejit_testing import counting, vector
from torch import nn

import framejit

CALLS = 10_000
RECORDINGS = 200


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def settled_bytes() -> int:
    gc.collect()
    return resident_bytes()


class Holder:
    def __init__(self):
        self.scale = 2
        self.items = [1, 2]


def make_case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8)).eval()
    holder = Holder()

    def f(x):
        y = model(x) * holder.scale
        holder.last = y
        return {"out": y, "list": [y + i for i in holder.items]}

    return f, model, holder


def assert_stable(after: list[int], before: list[int]) -> None:
    """One leaked reference a call or a recording would be hundreds; CPython itself keeps one or two in its caches."""
    assert max(abs(a - b) for a, b in zip(after, before, strict=True)) <= 2, (after, before)


def counts(*objects) -> list[int]:
    return [sys.getrefcount(o) for o in objects]


@pytest.mark.parametrize("native", [False, True], ids=["fx", "native"])
def test_warm_calls(native):
    f, model, holder = make_case()
    compiled = framejit.compile(f) if native else counting(f)[0]
    x = vector(4, 8)
    watched = (f, f.__code__, model, model[0].weight, holder, holder.items, x)
    with torch.no_grad():
        for _ in range(500):
            compiled(x)
        before, objects, memory = counts(*watched), len(gc.get_objects()), settled_bytes()
        for _ in range(CALLS):
            compiled(x)
        gc.collect()
        assert_stable(counts(*watched), before)
        assert len(gc.get_objects()) - objects < 50
        assert settled_bytes() - memory < 8 << 20, "more than 8 MiB in 10,000 calls"


@pytest.mark.parametrize("native", [False, True], ids=["fx", "native"])
def test_recordings_after_reset(native):
    f, model, holder = make_case()
    # Unlike CountingBackend, this one keeps no modules.
    compiled = framejit.compile(f) if native else framejit.compile(f, backend=lambda gm, inputs: gm.forward)
    x = vector(4, 8)
    watched = (f, f.__code__, model, model[0].weight, holder, holder.items, x)
    with torch.no_grad():

        def rounds(count):
            for _ in range(count):
                framejit.reset()
                compiled(x)
            framejit.reset()
            # torch.fx registers the source of every GraphModule with linecache, which keeps it.
            linecache.clearcache()
            gc.collect()

        rounds(30)
        before, objects, memory = counts(*watched), len(gc.get_objects()), settled_bytes()
        rounds(RECORDINGS)
        assert_stable(counts(*watched), before)
        assert len(gc.get_objects()) - objects < 200
        assert settled_bytes() - memory < 16 << 20, f"more than 16 MiB in {RECORDINGS} recordings"


def test_recordings_that_break():
    items = []

    def f(x):
        items.append(x)
        framejit.graph_break()
        return x + 1

    compiled = framejit.compile(f)
    x = vector(4)
    for _ in range(20):
        framejit.reset()
        compiled(x)
    items.clear()
    gc.collect()
    before = counts(f, f.__code__, x, items)
    for _ in range(RECORDINGS):
        framejit.reset()
        compiled(x)
    items.clear()
    framejit.reset()
    gc.collect()
    assert_stable(counts(f, f.__code__, x, items), before)


def test_functions_that_raise():
    def f(x):
        y = x + 1
        raise ValueError(str(y.dim()))

    compiled = framejit.compile(f)
    x = vector(4)

    def call():
        with pytest.raises(ValueError):
            compiled(x)

    for _ in range(50):
        call()
    gc.collect()
    before = counts(x, f.__code__)
    for _ in range(500):
        call()
    gc.collect()
    assert_stable(counts(x, f.__code__), before)


def test_model_dies_with_its_last_reference():
    """Guards and graphs keep no user object alive: neither the module, nor its parameters, nor the arguments."""
    model = nn.Linear(8, 8)
    weight = weakref.ref(model.weight)
    module = weakref.ref(model)

    def f(x, module):
        return module(x)

    compiled = framejit.compile(f)
    x = vector(4, 8)
    argument = weakref.ref(x)
    with torch.no_grad():
        compiled(x, model)
        compiled(x, model)
    del model, x
    gc.collect()
    assert module() is None and weight() is None and argument() is None


def test_compiled_function_dies():
    def make():
        big = torch.zeros(1000)

        def f(x):
            return x + big[:4]

        return framejit.compile(f), weakref.ref(f), weakref.ref(big)

    compiled, function, tensor = make()
    compiled(vector(4))
    compiled(vector(4))
    del compiled
    gc.collect()
    assert function() is None and tensor() is None


def test_results_are_not_kept():
    compiled = framejit.compile(lambda x: [x + 1])
    compiled(vector(4))
    result = compiled(vector(4))
    tensor = weakref.ref(result[0])
    del result
    gc.collect()
    assert tensor() is None


@pytest.mark.long
def test_many_different_functions():
    def round_of_functions():
        for n in range(100):
            namespace = {"torch": torch}
            exec(f"def f(x):\n    return torch.relu(x * {n})", namespace)
            framejit.compile(namespace["f"])(vector(4))
        framejit.reset()

    round_of_functions()
    memory = settled_bytes()
    for _ in range(10):
        round_of_functions()
    assert settled_bytes() - memory < 16 << 20
