"""Where an input begins in its memory, and what came before it: neither is what a recording saw."""

import pytest
import torch

import framejit
from tests.fuzz.program import Program, difference

STEPS = [f"whole = torch.arange(8.0)\nresult = call(whole[{k}:{k} + 3])" for k in (0, 1, 4, 1)]
BODIES = [
    "x[1:].add_(1)\n    return x[1:]",
    "x.add_(1)\n    return x[:2]",
    "x[1:].mul_(2)\n    return x[1:], x.view(3, 1), torch.split(x, 1)",
    "x.mul_(2)\n    return x, x.detach(), x.t()",
    "return x.as_strided((2,), (1,)), x.as_strided((2,), (1,), 2)",
    "y = x[1:]\n    return y.storage_offset(), y + 1",
    "return x._is_view(), x + 1",
]


@pytest.mark.parametrize("backend", ["interp", "auto"])
@pytest.mark.parametrize("body", BODIES)
def test_parts_of_one_tensor(body, backend):
    found = difference(Program(f"def f(x):\n    {body}\n", STEPS, backend=backend))
    assert found is None, found


@pytest.mark.parametrize("body", ["return x * 2", "x.mul_(2)\n    return x", "x[1:].mul_(2)\n    return x.sum()"])
def test_most_recordings_hold_for_every_part(body):
    namespace = {}
    exec(f"def f(x):\n    {body}\n", namespace)
    compiled, whole = framejit.compile(namespace["f"]), torch.arange(8.0)
    for k in range(4):
        compiled(whole[k : k + 3])
    assert [trace["hits"] for trace in framejit._C.traces(compiled)] == [4]


@pytest.mark.parametrize("backend", ["interp", "auto"])
def test_numbers_stay_numbers_where_inputs_share_memory(backend):
    setup = "def f(x, y):\n    x[...] = 1\n    return x * 0.5, y + 2\n"
    found = difference(Program(setup, ["a = T()\nresult = call(a, a.detach())"] * 2, backend=backend))
    assert found is None, found


def test_which_inputs_share_memory_is_no_difference_to_the_replay_check():
    setup = "def f(x, y, z, v):\n    torch.add(x, 1, out=y)\n    return z + v\n"
    steps = ["a = T(3)\nw = T(2)\nresult = call(a, a.detach(), w, T(2))", "result = call(a, a.detach(), w, w.detach())"]
    found = difference(Program(setup, steps, backend="interp", checks="replay"))
    assert found is None, found


def test_how_far_apart_written_inputs_begin_is_no_difference_to_the_replay_check():
    """A recording of inputs that share memory runs operator by operator, wherever in it they lie."""
    setup = "def f(x, y):\n    x[-1].mul_(y)\n"
    steps = ["a = torch.tensor([1., 2., 3.])\ncall(a, a[0])\nresult = a", "call(a, a[1])", "call(a, a[2])"]
    found = difference(Program(setup, steps, backend="interp", checks="replay"))
    assert found is None, found


@pytest.mark.parametrize("name", ["is_leaf", "retains_grad", "_grad"])
def test_how_an_input_came_to_require_grad(name):
    setup = f"def f(x):\n    return x.{name}, x + 1\n"
    steps = [
        "a = T(3, grad=True)\nresult = call(a)",
        "result = call(a * 2)",
        "b = a * 2\nb.retain_grad()\nresult = call(b)",
        "a.grad = T(3)\nresult = call(a)",
        "result = call(torch.nn.Parameter(T(3)))",
        "result = call(T(3))",
    ]
    found = difference(Program(setup, steps))
    assert found is None, found
