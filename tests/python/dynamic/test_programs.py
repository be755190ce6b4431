"""What programs do with sizes: each is compared with eager at many sizes, and the number of recordings is stated. A
size that the program branches on, or computes with out of the recorder's sight, is demanded of later calls, which are
recorded again where it is another one."""

import collections
import functools
import itertools
import math
import operator

import pytest
import torch
from dynamic_testing import assert_same_as_eager, demands, recordings, traces

import framejit

LENGTHS = (3, 4, 2, 7, 1, 9, 16, 5, 31, 12, 6)


def data(length: int, width: int = 4) -> torch.Tensor:
    return torch.arange(length * width, dtype=torch.float32).reshape(length, width).sin()


class Sizes:
    def __init__(self, x):
        self.batch, self.width = x.shape
        self.total = self.batch * self.width

    def __len__(self):
        return self.batch

    def __eq__(self, other):
        return self.batch == other

    __hash__ = None


Pair = collections.namedtuple("Pair", ["rows", "columns"])


@functools.lru_cache
def cached_double(n):
    return 2 * n


def generated(x):
    def halves():
        for n in x.shape:
            yield n // 2

    return sum(halves())


def keyword_sizes(x, **sizes):
    return x.view(sizes["rows"] * sizes["columns"])


def stored(x):
    sizes = Sizes(x)
    return x.view(sizes.total) + sizes.batch


def in_list(x):
    shape = list(x.shape)
    shape.append(1)
    shape[1] = -1
    return x.reshape(shape) * 2


def in_dict(x):
    sizes = {"n": x.shape[0]}
    sizes["m"] = sizes["n"] + 1
    return x.sum() * sizes["m"]


def in_closure(x):
    n = x.shape[0]

    def scale(y):
        return y * n

    return scale(x)


def through_calls(x):
    def double(n, by=2, *rest, **more):
        return n * by

    return x * double(*(x.shape[0],), **{"by": len(x)})


def zipped(x):
    return x * sum(a * b for a, b in zip(x.shape, x.size(), strict=True))


def unpacked(x):
    n, m = x.shape
    *front, last = x.shape
    return x.view(m, n) * last + front[0]


def comprehension(x):
    return x.reshape([n for n in x.shape] + [1])


def exception_of_sizes(x):
    try:
        return x * (1 // (x.shape[0] - 4))
    except ZeroDivisionError:
        return x + 100


def accumulated_later(x):
    items = [1]
    totals = itertools.accumulate(items)
    items.append(x.shape[0])
    return x * list(totals)[1]


def zipped_later(x):
    items = [1]
    pairs = zip(itertools.accumulate(items), range(2), strict=True)
    items.append(x.shape[0])
    return x * [total for total, _ in pairs][1]


# (function, recordings): of these no more is demanded than what every size gives.
SERVED = {
    "returned": (lambda x: (x + 1, x.shape[0], x.numel() / 2, x.shape), 2),
    "product": (lambda x: x.sum() * math.prod(x.shape), 2),
    "root": (lambda x: x / math.sqrt(x.size(-1) + x.size(0)), 2),
    "min_max": (lambda x: x * max(x.shape[0], 1) + min(x.shape[0], x.shape[1], 1000) * 0 + min(x.shape), 2),
    "stored": (stored, 2),
    "in_list": (in_list, 2),
    "in_dict": (in_dict, 2),
    "in_closure": (in_closure, 2),
    "through_calls": (through_calls, 2),
    "keywords": (lambda x: keyword_sizes(x, rows=x.shape[0], columns=x.shape[1]), 2),
    "named_tuple": (lambda x: x * Pair(*x.shape).rows, 2),
    "returned_named_tuple": (lambda x: Pair(x.shape[0] + 1, x * 1), 2),
    "sliced_shape": (lambda x: x.new_ones(x.shape[:1] + (3,)) * 2, 2),
    "divmod": (lambda x: x * divmod(x.shape[0], 3)[1] + x.shape[0] % 2, 2),
    "converted": (lambda x: x * float(int(x.shape[0])) + round(x.shape[0] / 3), 2),
    "reduced": (lambda x: x * functools.reduce(operator.mul, x.shape, 1), 2),
    "attribute_getter": (lambda x: x * operator.attrgetter("batch")(Sizes(x)), 2),
    "zipped": (zipped, 2),
    "sorted": (lambda x: x * sorted(x.shape)[0], 2),
    "generated": (lambda x: x * generated(x), 2),
    "unpacked": (unpacked, 2),
    "comprehension": (comprehension, 2),
    "length": (lambda x: x * len(x), 2),
    "compared_sizes": (lambda x: x + 1 if x.shape == x.cos().shape else x, 2),
    "negative": (lambda x: x * -x.shape[0] + (~x.shape[0]), 2),
    "power": (lambda x: x * x.shape[0] ** 2, 2),
    "is_not_none": (lambda x: x + 1 if x.shape[0] is not None else x, 2),
    "size_type": (lambda x: x + 1 if isinstance(x.shape[0], int) and type(x.shape[0]) is int else x, 2),
}

# What C code out of sight, text or control flow does with sizes fixes what it uses.
FIXED = {
    "two_ways": lambda x: x + 1 if x.shape[0] > 4 else x - 1,
    "parity": lambda x: x + 1 if x.shape[0] % 2 else x - 1,
    "elif": lambda x: x + 1 if x.shape[0] < 4 else x - 1 if x.shape[0] < 9 else x * 2,
    "truth": lambda x: x + 1 if x.shape[0] - 1 else x - 1,
    "membership": lambda x: x + 1 if x.shape[0] in (3, 7) else x - 1,
    "any_all": lambda x: x + 1 if all(n > 3 for n in x.shape) else x - 1,
    "contiguous": lambda x: x + 1 if x.t().is_contiguous() else x - 1,
    "exception": exception_of_sizes,
    "sign_of_zero": lambda x: x if str((x.shape[0] - 5) * 0.0).startswith("-") else x + 1,
}
# The same, for each size.
SPECIALISED = {
    "own_length": lambda x: x + 1 if len(Sizes(x)) > 4 else x - 1,
    "own_equality": lambda x: x + 1 if [Sizes(x)].count(x.shape[0]) else x - 1,
    "own_in_list": lambda x: x + 1 if [Sizes(x)].count(4) else x - 1,
    "mapped": lambda x: x * list(map(lambda n: n, x.shape))[0],
    "loop": lambda x: sum(x[i] for i in range(x.shape[0])),
    "rows": lambda x: sum(row for row in x),
    "text": lambda x: x + len(f"{x.shape[0]:04d}") + int(f"{x.shape[0]}"),
    "percent": lambda x: x * int("%d" % x.shape[0]),
    "text_of_shape": lambda x: (x, str(x.shape)),
    "dict_key": lambda x: x * {n: n * 2 for n in range(40)}[x.shape[0]],
    "list_index": lambda x: x * list(range(40))[x.shape[0]],
    "list_slice": lambda x: x * sum(list(range(40))[: x.shape[0]]),
    "set": lambda x: x * len({x.shape[0], 3, 4}),
    "accumulated": lambda x: x * list(itertools.accumulate(x.shape))[-1],
    "islice": lambda x: x * len(list(itertools.islice(range(100), x.shape[0]))),
    "repeated_list": lambda x: x * len([0] * x.shape[0]),
    "cached": lambda x: x * cached_double(x.shape[0]),
    "bits": lambda x: x * x.shape[0].bit_length(),
    "tensor_of_sizes": lambda x: x * torch.tensor([x.shape[0], 1, 1, 1]),
    "index_list": lambda x: x[[x.shape[0] - 1, 0]],
    "partial": lambda x: x * functools.partial(range, x.shape[0])()[-1],
    "sort_by_attribute": lambda x: x * sorted([Sizes(x), Sizes(x)], key=operator.attrgetter("batch"))[0].batch,
    "accumulated_later": accumulated_later,
    "zipped_later": zipped_later,
    "max_with_key": lambda x: x * max(x.shape, key=lambda n: -n),
}


@pytest.mark.parametrize("backend", ["cpu", "interp"])
@pytest.mark.parametrize("name", SERVED)
def test_served(name, backend):
    function, expected = SERVED[name]
    compiled = framejit.compile(function, backend=backend)
    for length in LENGTHS:
        assert_same_as_eager(compiled, function, data(length))
    assert recordings(compiled) == expected


@pytest.mark.parametrize("name", FIXED)
def test_fixed_by_a_condition(name):
    compiled = framejit.compile(FIXED[name], backend="cpu")
    for length in (*LENGTHS, *LENGTHS):
        assert_same_as_eager(compiled, FIXED[name], data(length))
    assert recordings(compiled) <= 5
    assert demands(compiled) or name in ("contiguous", "exception")


@pytest.mark.parametrize("name", SPECIALISED)
def test_fixed_to_each_size(name):
    """Correct at every size, at most one recording for each, and not one for all."""
    compiled = framejit.compile(SPECIALISED[name], backend="cpu", options={"recompile_limit": 64})
    for length in (*LENGTHS, *LENGTHS):
        assert_same_as_eager(compiled, SPECIALISED[name], data(length))
    assert 2 < recordings(compiled) <= len(LENGTHS)


def test_demands_are_readable():
    def function(x):
        if x.shape[0] * 2 > 8:
            return x + 1
        return x - 1

    compiled = framejit.compile(function)
    for length in (3, 4, 5, 6):
        assert_same_as_eager(compiled, function, data(length))
    assert demands(compiled) == ["((L['x'].shape[0] * 2) > 8)", "not ((L['x'].shape[0] * 2) > 8)"]
    assert recordings(compiled) == 3


def test_sizes_cross_a_break():
    def function(x):
        n = x.shape[0]
        y = x * n
        framejit.graph_break()
        return y + n

    compiled = framejit.compile(function)
    for length in LENGTHS:
        assert_same_as_eager(compiled, function, data(length))


def test_effects_of_sizes():
    class Counter:
        rows = 0
        shapes = []

    counter = Counter()

    def function(x):
        counter.rows = x.shape[0] * 2
        counter.shapes = [x.shape, x.numel()]
        return x + 1

    compiled = framejit.compile(function)
    for length in LENGTHS:
        compiled(data(length))
        assert counter.rows == length * 2
        assert counter.shapes == [torch.Size([length, 4]), length * 4]
        assert type(counter.shapes[0]) is torch.Size
    assert recordings(compiled) == 2


def test_effects_that_are_none_at_the_recorded_size():
    """What is written is what was there, at the sizes of the recording alone."""

    class Kept:
        rows = 0

        def __init__(self):
            self.size, self.sizes, self.table = 4, [4], {"rows": 4}

    kept = Kept()

    def function(x):
        kept.size = x.shape[0]
        kept.sizes[0] = x.shape[0]
        kept.table["rows"] = x.shape[0]
        return x + kept.size

    compiled = framejit.compile(function, dynamic=True)
    for length in (4, 7, 4, 5):
        kept.__init__()
        compiled(data(length))
        assert (kept.size, kept.sizes, kept.table) == (length, [length], {"rows": length})
    assert recordings(compiled) == 1


def test_written_inputs():
    def function(x, y):
        x.mul_(x.shape[0])
        return x + y

    compiled = framejit.compile(function)
    for length in LENGTHS:
        ours, theirs = data(length), data(length)
        assert torch.equal(compiled(ours, data(length)), function(theirs, data(length)))
        assert torch.equal(ours, theirs)
    assert recordings(compiled) == 2


def test_copies_where_eager_copies():
    """contiguous() is its operand at some sizes and a copy at others; what is written shows it."""

    def function(x):
        y = x.t().contiguous()
        y.add_(1)
        return x + 1

    compiled = framejit.compile(function)
    for length in (3, 4, 1, 5, 2, 1):
        ours, theirs = data(length, 1 if length == 5 else 3), data(length, 1 if length == 5 else 3)
        assert torch.equal(compiled(ours), function(theirs))
        assert torch.equal(ours, theirs)


def test_results_that_are_inputs():
    def function(x):
        return x.t().contiguous()

    compiled = framejit.compile(function)
    for length in (3, 4, 1, 5, 1):
        x = data(length, 3)
        result = compiled(x)
        assert (result.data_ptr() == x.data_ptr()) == (function(x).data_ptr() == x.data_ptr())
        assert torch.equal(result, function(x))


def test_identity_of_tensors():
    def function(x):
        return x + 1 if x.contiguous() is x else x - 1

    compiled = framejit.compile(function)
    for x in (data(3), data(4), data(4, 5).t(), data(6).t(), data(7), data(1).t()):
        assert torch.equal(compiled(x), function(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * len({x, x.contiguous()}),
        lambda x: x * len({x: 1, x.contiguous(): 2}),
        lambda x: x * {x: 1}.get(x.contiguous(), 5),
    ],
)
def test_tensors_as_keys(function):
    compiled = framejit.compile(function)
    for x in (data(5).t(), data(4).t(), data(3), data(1).t(), data(6).t()):
        assert torch.equal(compiled(x), function(x))


def test_strides_vary():
    def function(x):
        return x.transpose(0, 1) * 2, x.reshape(-1)

    compiled = framejit.compile(function)
    for x in (data(3), data(5), data(6).t(), data(8)[::2], data(4)[:, 1:], data(2).expand(2, 4)):
        assert_same_as_eager(compiled, function, x)


def test_another_rank_or_dtype_is_another_recording():
    def function(x):
        return x * 2 + x.shape[0]

    compiled = framejit.compile(function)
    for x in (data(3), data(4), data(5), data(3)[0], data(4)[0][:2], data(3).double(), data(5).double()):
        assert_same_as_eager(compiled, function, x)
    assert recordings(compiled) == 4


@pytest.mark.parametrize("dynamic, expected", [(None, 2), (True, 1), (False, 5)])
def test_option(dynamic, expected):
    def function(x):
        return x * x.shape[0]

    compiled = framejit.compile(function, dynamic=dynamic)
    for length in (3, 4, 5, 6, 7):
        assert_same_as_eager(compiled, function, data(length))
    assert recordings(compiled) == expected


def test_more_sizes_than_are_kept():
    def function(x):
        return x * x.shape[0] + 1

    compiled = framejit.compile(function)
    for length in [*range(2, 300), *range(2, 20), *range(290, 300), *range(290, 300)]:
        assert_same_as_eager(compiled, function, data(length, 2))
    assert recordings(compiled) == 2
    assert traces(compiled)[0]["size_variants"] == 128
