"""A program for each row of breaks.def that a program can reach. tools/breaks_page.py makes docs/breaks.md of them.

It reads this file as text: an example's docstring says why (first paragraph) and what to do (second), `shows` names
what else of this file the reader has to see. test_break_examples.py runs them.
"""

import asyncio
import contextvars
import itertools
import time

import torch
from torch import nn

import framejit

EXAMPLES = {}
# Why there is no example of a row.
WITHOUT_EXAMPLE = {
    "UnsupportedOpcode": (
        "All instructions that functions are made of are supported on each supported Python. What remains are those of "
        "class bodies whose namespace, made by `__prepare__` of a metaclass, is no dict.",
        "Move such a class statement out of the compiled function.",
    ),
    "UnknownTensor": (
        "A net beneath the recording: a tensor came out of C code that the recording did not see it go into. Nothing "
        "is wrong with the result, since the recording is given up.",
        "Please report it, with the function that the message names.",
    ),
    "InternalError": (
        "Recording or compiling failed because of an error of framejit's own. The function ran in the interpreter.",
        "Please report it, with the text of the message. `FRAMEJIT_LOG=breaks` shows where it happened.",
    ),
}

X = torch.tensor([1.0, -2.0, 3.0, -4.0])
counter = itertools.count()
user = contextvars.ContextVar("user", default=1.0)
weight = nn.Parameter(torch.ones(4))
optimizer = torch.optim.SGD([weight], lr=0.1)


def example(code, *calls, shows=(), grad=False):
    """Each of `calls` is the arguments of one call; the break is to be met in one of them."""

    def add(function):
        EXAMPLES[code] = (function, calls or ((X,),), grad)
        return function

    return add


@example("UnsupportedCallable")
def reads_the_clock(x):
    """C functions are opaque. Only those that are known to read nothing but their arguments are called while recording;
    what any other one would return on the next call, nothing can guard.

    Call it outside and pass the result in. A Python function around it that computes on tensors alone may be registered
    with `framejit.allow_in_graph`; a custom operator (`torch.library.custom_op`) is captured as it is.
    """
    return x * (time.time() > 0)


@example("UnsupportedObject", shows=("user",))
def reads_a_context_variable(x):
    """The value was read from a place that has no guard: there is no cheap way to see on the next call that it is
    still the same.

    Pass the value as an argument, or read it before the function is called.
    """
    return x * user.get()


@example("UnsupportedTensor", (X.to_sparse(),))
def takes_a_sparse_tensor(x):
    """Sparse, quantised and nested tensors, and tensor subclasses with a `__torch_dispatch__` of their own, are not
    recorded: their memory and their operators are not those of plain tensors.

    Convert to a plain tensor first (`to_dense`, `dequantize`), or leave such code in eager mode.
    """
    return x + x


@example("UnsupportedEffect", shows=("counter",))
def advances_an_iterator(x):
    """The function changes something outside that a later call would have to change in the same way, and cannot: an
    iterator that existed before is advanced, say. (Attributes, items, globals and prints are replayed.)

    Make the iterator inside the function, or move the change out of it.
    """
    return x + next(counter)


@example("UnsupportedOutput")
def returns_a_generator(x):
    """A result has to be made afresh on each call. A generator is a frame that waits in the middle, which cannot.

    Return a list or a tuple: `[x * i for i in range(3)]`.
    """
    return (x * i for i in range(3))


@example("DataDependent")
def branches_on_data(x):
    """Which instruction comes next, or how large a result is, depends on the numbers in a tensor, which a recording
    does not know. The graph ends here; the interpreter decides, and what comes after is another graph.

    Let both sides be computed and chosen from: `torch.where(x.sum() > 0, x + 1, x - 1)`.
    """
    if x.sum() > 0:
        return x + 1
    return x - 1


@example("TensorData")
def asks_for_an_item(x):
    """`item`, `tolist`, `numpy`, `float(tensor)` or formatting a tensor need its numbers at that moment, and with them
    all work before it done.

    Keep the value a tensor (`x * x[0]`), or ask for it after the function has returned.
    """
    return x * x[0].item()


@example("VaryingValue", (X,), (X + 1,), (X + 2,))
def uses_an_item(x):
    """Behind a break (here `item`), a number or a text was another one than in the recording before. It is not guarded
    by its value, which would mean a recording per value: the instruction that uses it runs in the interpreter.

    Keep the value a tensor, so that there is no break before it.
    """
    scale = x[0].item()
    y = x.sin()
    return y * scale


@example("TensorMetadataMutation")
def resizes_in_place(x):
    """The tensor object itself becomes another one: `resize_`, `t_`, `set_`, writing to `.data`. All that was recorded
    of it so far would have to be looked at again.

    Make a new tensor: `y = x[:2]`, `y = x.t()`.
    """
    y = x.clone()
    y.resize_(2)
    return y + 1


@example("TorchState")
def sets_the_number_of_threads(x):
    """A setting of torch that stays changed when the call is over, and that no guard covers.

    Set it once, before the function is called.
    """
    torch.set_num_threads(torch.get_num_threads())
    return x + 1


@example("Autograd", shows=("weight",), grad=True)
def hooks_a_parameter(x):
    """A hook on a tensor from outside stays there when the call is over. Hooks on tensors that the function makes,
    `backward` and `torch.autograd.grad` are part of the graph.

    Register it outside of the function.
    """
    handle = weight.register_hook(lambda gradient: gradient * 2)
    (x * weight).sum().backward()
    handle.remove()
    return weight.grad * 1


@example("Optimizer", shows=("weight", "optimizer"))
def steps(x):
    """What an optimizer, a learning-rate scheduler or a gradient scaler goes by changes with each step, and nothing of
    it is guarded: it runs between two graphs. The steps of the usual optimizers are native code there.

    Nothing, usually. Under `fullgraph=True`, call it outside.
    """
    weight.grad = x * 2
    optimizer.step()
    return x + 1


@example("Coroutine", shows=("load",))
def runs_a_coroutine(x):
    """Coroutines and asynchronous generators are entered and left by an event loop, again and again; they are not
    recorded.

    Decorate the plain functions that they call.
    """
    return asyncio.new_event_loop().run_until_complete(load(x))


async def load(x):
    return x + 1


@example("Disabled", shows=("in_eager_mode",))
def calls_a_disabled_function(x):
    """The function was marked with `framejit.disable`, so it runs in the interpreter. This is what was asked for.

    Remove `framejit.disable`, or call the function before or after all else, so that there is one graph.
    """
    return in_eager_mode(x + 1) * 2


@framejit.disable
def in_eager_mode(x):
    return x.sin()


@example("ExplicitBreak")
def asks_for_a_break(x):
    """`framejit.graph_break()` was called. This is what was asked for.

    Remove the call.
    """
    y = x + 1
    framejit.graph_break()
    return y * 2


@example("TooManyInstructions")
def counts(x):
    """A recording executes a function's Python once, instruction by instruction, and is given up after twenty
    million of them: what is recorded would be as long.

    Decorate a smaller function: the one that computes on tensors, rather than the loop around it.
    """
    n = 0
    while n < 4_000_000:
        n += 1
    return x * n


@example("TooDeep", shows=("nested",))
def recurses(x):
    """Frames within frames, each recorded into the one before, up to a limit that is below Python's recursion limit.

    Decorate the function that the recursion calls, or write a loop.
    """
    return nested(x, 700)


def nested(x, n):
    return x if n == 0 else nested(x, n - 1) + 1


@example("Raised")
def raises(x):
    """The function raised an exception that nothing in it caught. The graph ends before the instruction that raised
    it, which the interpreter executes, so that the exception and its traceback are eager's.

    Nothing. Where this is the usual way out of the function, return a value instead.
    """
    y = x + 1
    if len(y) < 8:
        raise ValueError("too short")
    return y
