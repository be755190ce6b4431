"""Writes through views of every kind, of inputs of every layout: what they leave in the memory is eager's to the bit,
whatever range of magnitudes it has."""

import itertools

import pytest
import torch
from framejit_testing import check, vector

VIEWS = {
    "reshape": lambda t: t.reshape(t.shape[0], -1),
    "flatten": lambda t: t.flatten(),
    "view": lambda t: t.view(-1),
    "view_of_other_dtype": lambda t: t.view(torch.int32),
    "expand": lambda t: t.expand(t.shape),
    "expand_by_one": lambda t: t.expand(1, *t.shape),
    "expand_and_select": lambda t: t.expand(2, *t.shape)[1],
    "unfold": lambda t: t.unfold(0, 2, 1)[0],
    "unfold_with_gaps": lambda t: t.unfold(0, 1, 2),
    "unfold_apart": lambda t: t.unfold(0, 2, 2),
    "diagonal": lambda t: t.diagonal(1),
    "transpose": lambda t: t.transpose(0, -1),
    "movedim": lambda t: t.movedim(0, -1),
    "select": lambda t: t[1],
    "select_last": lambda t: t[..., 0],
    "slice": lambda t: t[1::2],
    "slice_last": lambda t: t[..., 1::2],
    "unsqueeze": lambda t: t[None, ..., None],
    "squeeze": lambda t: t.squeeze(),
    "split": lambda t: t.split(1)[1],
    "chunk": lambda t: t.chunk(2)[0],
    "tensor_split": lambda t: t.tensor_split(2, -1)[1],
    "unsafe_chunk": lambda t: t.unsafe_chunk(2)[0],
    "unsafe_split": lambda t: (t * 1).unsafe_split(1)[1],
    "unbind": lambda t: t.unbind()[0],
    "detach": lambda t: t.detach(),
    "real": lambda t: t.real,
    "imag": lambda t: t.imag,
    "view_as_real": lambda t: torch.view_as_real(t),
    "conj": lambda t: t.conj(),
    "as_strided": lambda t: t.as_strided((2, 2), (1, 2)),
    "as_strided_overlapping": lambda t: t.as_strided((2, 2), (1, 1))[0],
    "unflatten": lambda t: t.unflatten(0, (t.shape[0], 1)),
    "contiguous": lambda t: t.contiguous(),
}


def wide(*shape: int) -> torch.Tensor:
    """Numbers of which each vanishes beside its neighbours' sum."""
    return vector(*shape) * torch.logspace(-6, 6, shape[-1])


LAYOUTS = {
    "contiguous": lambda: wide(4, 6),
    "every_other_row": lambda: wide(8, 6)[::2],
    "every_other_column": lambda: wide(4, 12)[:, ::2],
    "transposed": lambda: wide(6, 4).t(),
    "one_row": lambda: wide(3, 6)[1:2],
    "three_dimensions": lambda: wide(2, 4, 6).transpose(0, 1),
    "infinite": lambda: torch.tensor([[1.0, float("inf")], [-float("inf"), 3.0]]),
    "complex": lambda: torch.complex(wide(8, 6), wide(8, 6))[::2],
}


def fill(view):
    view.fill_(2)


def scale(view):
    view.mul_(3)


def set_first(view):
    view[0] = 5


WRITES = (fill, scale, set_first)


def written(view, write, layout):
    """The function, or None where eager raises, and a tensor of the layout."""

    def function(base):
        part = VIEWS[view](base)
        write(part)
        return part, base * 2, part * 2

    try:
        function(LAYOUTS[layout]())
    except (RuntimeError, IndexError):
        return None, None
    return function, LAYOUTS[layout]()


@pytest.mark.parametrize("view", VIEWS)
def test_written_view(view):
    cases = [written(view, write, layout) for write, layout in itertools.product(WRITES, LAYOUTS)]
    cases = [(function, base) for function, base in cases if function is not None]
    assert len(cases) >= 3
    for function, base in cases:
        check(function, base, graphs=1, breaks=0, calls=2, tolerance=0.0)
