"""NumPy scalars and arrays used as constants; torch.Size, dtypes, devices and the like as Python values; generators of
random numbers; tensor subclasses and modes."""

import numpy as np
import pytest
import torch
from framejit_testing import Cases, check, vector

case = Cases()
X, Y = vector(seed=1), vector(seed=2)
TABLE = np.arange(6).reshape(2, 3)
WEIGHTS = np.array([0.5, 1.5, 2.5])
SCALE = np.float32(2.5)
COUNT = np.int64(3)
FLAG = np.bool_(True)


@case(X)
def numpy_scalars_from_outside(x):
    return x * float(SCALE) + int(COUNT), x * COUNT.item(), bool(FLAG), int(COUNT) + 1


@case(X)
def tensor_times_numpy_scalar(x):
    return x * SCALE, x + COUNT


@case(X, np.float64(0.5), np.int32(2))
def numpy_scalars_as_arguments(x, a, n):
    return x * float(a) + int(n), float(a * 2), int(n + 1)


@case(X)
def numpy_arrays_from_outside(x):
    return (
        x * float(WEIGHTS[1]) + int(TABLE[1, 2]),
        TABLE.shape,
        TABLE.tolist(),
        len(WEIGHTS),
        WEIGHTS.dtype == np.float64,
    )


@case(X)
def numpy_arrays_made_inside(x):
    steps = np.linspace(0, 1, 3)
    total = np.sum(steps * 2)
    return (
        x * float(total),
        steps.tolist(),
        np.prod((2, 3)).item(),
        np.cumsum([1, 2]).tolist(),
        int(np.ceil(2.1)),
        float(np.sqrt(4.0)),
    )


@case(X)
def tensor_of_a_numpy_array(x):
    return x[:3] + torch.tensor(WEIGHTS, dtype=torch.float32)


# Shares its memory with the array.
@case(X, graphs=2, breaks=1)
def tensor_over_the_memory_of_an_array(x):
    return x[:3] + torch.from_numpy(WEIGHTS).float()


@case(X)
def numpy_constants(x):
    return x * np.pi, x.shape[0] * np.e, isinstance(COUNT, np.integer), np.inf > 1


@case(vector(2, 3, 4))
def sizes(x):
    s = x.shape
    b, *rest = s
    return (
        x.view(b, -1), s, s[1:], s[-1], len(s), s.numel(), tuple(s), list(s), s == (2, 3, 4), s + (5,),
        torch.Size([1, 2]), rest, 3 in s, s.index(3), s.count(4), max(s), hash(s) == hash((2, 3, 4)),
        x.size(), x.size(-1), x.size(dim=0), x.dim(), x.ndim, x.stride(), x.numel(), x.nelement(), x.element_size(),
        isinstance(s, tuple), s[0] * s[1], {s: 1}[s], f"{s}", str(s),
    )  # fmt: skip


@case(torch.Size([2, 2]), X)
def size_as_argument(s, x):
    return x.view(s), x.reshape(*s), torch.zeros(s), s.numel()


@case(X)
def dtypes(x):
    d = x.dtype
    return (
        x.to(torch.float64), d, d is torch.float32, d == torch.float, d.is_floating_point, d.itemsize,
        torch.int64.is_signed, d.is_complex, str(d), {d: 1}[d], d in (torch.float16, torch.float32),
        torch.finfo(d).eps, torch.finfo(d).max, torch.iinfo(torch.int8).min, torch.promote_types(d, torch.float64),
        torch.get_default_dtype(), torch.result_type(x, 1), torch.can_cast(torch.int8, d),
        torch.zeros(2, dtype=d).dtype, x.is_floating_point(), d.to_complex(), repr(d), f"{d}",
        hash(d) == hash(torch.float32),
    )  # fmt: skip


@case(torch.float64, X)
def dtype_as_argument(d, x):
    return x.to(d), x.type(d).dtype is d


@case(X)
def devices(x):
    d = x.device
    return (
        x.to(d), d.type, d.index, d == torch.device("cpu"), torch.device("cpu", 0), str(d), d.type == "cpu",
        x.is_cuda, x.is_cpu, torch.zeros(2, device=d), {d: 1}[d], isinstance(d, torch.device), f"{d}",
        torch.device("meta").type, d != "cpu", hash(d) == hash(torch.device("cpu")), x.get_device(),
    )  # fmt: skip


@case(torch.device("cpu"), X)
def device_as_argument(d, x):
    return x.to(d) + torch.ones(4, device=d)


@case(X)
def layouts_and_memory_formats(x):
    y = x.view(1, 4, 1, 1).contiguous(memory_format=torch.channels_last)
    return (
        y,
        y.is_contiguous(memory_format=torch.channels_last),
        x.layout,
        x.layout is torch.strided,
        str(torch.preserve_format),
    )


@case(X)
def tensor_attributes(x):
    return (
        x.shape,
        x.dtype,
        x.requires_grad,
        x.is_leaf,
        x.grad,
        x.T,
        x.mT if x.dim() > 1 else None,
        x.real,
        x.itemsize,
        x.nbytes,
        x.names,
        x.is_sparse,
        x.is_quantized,
        x.data,
        x.ndim,
        x.layout,
    )


@case(X, breaks=1)
def generator_made_inside(x):
    g = torch.Generator().manual_seed(3)
    return x + torch.rand(4, generator=g), g.initial_seed()


def seeded():
    return torch.Generator().manual_seed(3)


class Logged(torch.Tensor):
    """A subclass that notes the functions called on it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        return result


class Wrapper:
    """Not a tensor, but understood by torch functions."""

    def __init__(self, x, log=None):
        self.x, self.log = x, [] if log is None else log

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        args = [a.x if isinstance(a, Wrapper) else a for a in args]
        return ("wrapped", func.__name__, func(*args, **(kwargs or {})))


@case(X)
def torch_function_of_another_object(x):
    w = Wrapper(x)
    return torch.add(w, 1), torch.mul(x, w), torch.nn.functional.relu(w), torch.cat([x, x])


@case(X)
def torch_function_operator(x):
    return x + Wrapper(x), x @ Wrapper(x)


@case(X)
def torch_function_subclass_made_inside(x):
    y = x.as_subclass(Logged) + 1
    return y.as_subclass(torch.Tensor) * 2, isinstance(y, Logged)


class Mode(torch.overrides.TorchFunctionMode):
    def __init__(self, log):
        super().__init__()
        self.log = log

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.log.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


@case(X)
def torch_function_mode(x):
    log = []
    with Mode(log):
        y = torch.sin(x) + 1
        z = y.cos()
    return z * 2, log


@pytest.mark.parametrize(*case.table)
def test_values(function, args, expectations):
    check(function, *args, **expectations)
