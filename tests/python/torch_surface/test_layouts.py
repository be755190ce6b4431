"""Where tensors lie in their memory: sizes and strides that the program changes in place, of inputs and of its own
tensors; storage offsets, which are part of a recording only where the program asks for them; `out=`."""

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import Cases, assert_same, check, counting, vector

import framejit

case = Cases()
X, CUBE = vector(3, 4, seed=1), vector(2, 1, 3, seed=2)


@case(X)
def transposed_input(x):
    x.t_()
    return x * 2, x.shape, x.stride()


@case(CUBE)
def squeezed_input(x):
    y = x.squeeze_(1)
    return y is x, x.unsqueeze_(-1).shape, y + 1


@case(CUBE)
def every_method(x):
    x.transpose_(0, 2)
    x.swapaxes_(0, 1).swapdims_(1, 2)
    x.squeeze_().unsqueeze_(0)
    return x


@case(X)
def restrided_input(x):
    x.as_strided_((2, 2), (4, 1))
    return x + 1


@case(X)
def moved_input(x):
    x.as_strided_((2, 2), (4, 1), 2)
    return x + 1


@case(X)
def views_from_before(x):
    row = x[1]
    flat = x.view(-1)
    x.t_()
    return row * 2, flat + 1, x[1], x.contiguous()


@case(X)
def there_and_back(x):
    return x.t_().t_().add_(1)


@case(X)
def written_and_transposed(x):
    x.add_(1)
    x.t_()
    return x.sum(0)


@case(X)
def own_tensors(x):
    y = (x + 1).t_()
    z = torch.zeros(2, 3).unsqueeze_(0)
    y.add_(1)
    return y, z, y.squeeze_(), F.dropout3d(z.clone(), 0.0, inplace=True)


@case(vector(1, 2, 2, 2, seed=3))
def layers_that_unsqueeze_their_input(x):
    return F.dropout3d(x, 0.5, training=True, inplace=True)


@case(X, X + 1)
def one_of_two(x, y):
    x.t_()
    return x.t() + y


class Holder:
    def __init__(self):
        self.state = vector(3, 4, seed=4)


def attribute_of_an_object(holder):
    holder.state.t_()
    return holder.state.sum(0)


@pytest.mark.parametrize(*case.table)
def test_layouts_changed_in_place(function, args, expectations):
    check(function, *args, **expectations)


def test_the_layout_of_an_attribute_changes_with_each_call():
    eager, holder = Holder(), Holder()
    compiled, backend = counting(attribute_of_an_object)
    for _ in range(4):
        assert_same(compiled(holder), attribute_of_an_object(eager))
        assert_same(holder.state, eager.state)
    assert backend.count == 2, "one recording for each of the two layouts"


def test_a_leaf_keeps_its_layout():
    def function(x):
        x.t_()
        return x * 2

    parameter = X.clone().requires_grad_()
    check(function, parameter, graphs=0, grad=True)  # eager raises
    check(function, parameter, graphs=1, breaks=1)


@pytest.mark.cpu
def test_an_exception_puts_the_layout_back():
    def function(x, index):
        x.t_()
        return x[index]

    index = torch.tensor([7])
    check(function, X, index)


# --- storage offsets -----------------------------------------------------------------


def parts(function, *expected_counts):
    """The function on two parts of one memory, which differ in nothing but where they begin."""
    compiled, backend = counting(function)
    native = framejit.compile(function)
    for begin in (0, 4, 0, 4):
        outcomes = []
        for target in (function, compiled, native):
            memory = torch.arange(12.0)
            part = memory[begin : begin + 8].view(2, 4)
            result = target(part)
            offset = result.storage_offset() if isinstance(result, torch.Tensor) else result
            outcomes.append((result, memory, offset))
        assert_same(outcomes[1], outcomes[0])
        assert_same(outcomes[2], outcomes[0])
    assert backend.count == expected_counts[0]


def test_a_view_of_a_written_input():
    def function(x):
        x.add_(1)
        return x[1:, 2:]

    parts(function, 1)


def test_an_absolute_view():
    parts(lambda x: x.as_strided((2, 2), (2, 1), 1) + 1, 2)
    parts(lambda x: torch.as_strided(x, (2, 4), (4, 1), 0), 2)
    parts(lambda x: torch.as_strided(x.mul_(2), (2, 2), (2, 1), 1), 2)


def test_a_view_from_where_the_tensor_begins():
    parts(lambda x: x.as_strided((2, 2), (2, 1)) + 1, 1)


def test_an_offset_that_is_asked_for():
    parts(lambda x: x + x.storage_offset(), 2)
    parts(lambda x: x[1].storage_offset(), 2)


def test_the_offset_of_an_own_tensor():
    parts(lambda x: (x + 1)[1:].storage_offset() * x, 1)


# --- out= -----------------------------------------------------------------

out = Cases()


@out(X)
def scans(x):
    values, indices = torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.long)
    torch.cummax(x, 0, out=(values, indices))
    sums = torch.logcumsumexp(x, 1, out=torch.zeros(3, 4))
    return values, indices, torch.cummin(x, 1, out=(values.clone(), indices.clone())), sums


@out(X)
def empty_tensors(x):
    values = torch.empty(0)
    return torch.msort(x, out=values), torch.cummax(x, 0, out=(torch.empty(0), torch.empty(0, dtype=torch.long)))


@out(X)
def factories(x):
    y = torch.zeros(2, 3)
    torch.randn(2, 3, out=y)
    return y, torch.rand(3, 4, out=x), torch.ones(3, out=torch.zeros(3)), torch.empty(3, 4, out=x.clone()).shape


@out(X)
def resized_to_the_same_sizes(x):
    return x.resize_(3, 4).mul_(2), x.resize_as_(torch.zeros(3, 4)), x.t().resize_(4, 3).stride()


@pytest.mark.parametrize(*out.table)
def test_out(function, args, expectations):
    check(function, *args, **expectations)


@pytest.mark.parametrize("size", [(2, 3), (6,), (5, 5)])
def test_other_sizes_break(size):
    check(lambda x: x.clone().resize_(*size).shape, X, graphs=0, breaks=1)


CONVERTING = {
    "add": lambda a, b: torch.add(a, b),
    "div": lambda a, b: torch.div(a, b),
    "atan2": lambda a, b: torch.atan2(a, b),
    "less": lambda a, b: torch.lt(a, b),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "addcmul": lambda a, b: torch.addcmul(a, b, b),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("name", CONVERTING)
def test_strides_behind_a_conversion(name, dtype):
    """The CPU converts a repeated operand to a tensor of its own, whose strides the result follows."""
    column, transposed = vector(4, 1, seed=1), vector(5, 4, seed=2).t().to(dtype)
    check(CONVERTING[name], column.to(torch.int64).expand(4, 5), transposed)
    check(CONVERTING[name], transposed, (column > 0).expand(4, 5))


def channels_last(*shape: int) -> torch.Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return vector(*shape, seed=3).contiguous(memory_format=formats[len(shape)])


def transposed(*shape: int) -> torch.Tensor:
    """The last two dimensions lie the other way around."""
    return vector(*shape, seed=4).mT.contiguous().mT


IMAGE, CUBES = channels_last(2, 4, 4, 6), channels_last(1, 2, 3, 3, 3)
SPECTRUM = torch.complex(vector(4, 5, 6, seed=5), vector(4, 5, 6, seed=6))

FOLLOWING = {
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), IMAGE),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), IMAGE),
    "reflection_pad": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), IMAGE),
    "replication_pad": (lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"), IMAGE),
    "max_unpool": (lambda x: torch._C._nn.max_unpool2d(x, (x < 0) * 24 + torch.arange(24).view(4, 6), [8, 9]), IMAGE),
    "floor_divide": (lambda x: torch.floor_divide(x.t(), x[:, 0]), vector(4, 4, seed=7)),
    "dropout_backward": (lambda x: torch.ops.aten.native_dropout_backward(x, x > 0, 2.0), transposed(4, 5)),
    "irfft": (lambda x: torch.fft.irfft2(x.transpose(0, 2)), SPECTRUM),
    "hfft": (lambda x: torch.fft.hfft(x.transpose(0, 2), dim=0), SPECTRUM),
    "conv1d": (lambda x: F.conv1d(x, transposed(5, 4, 3), padding=1), vector(2, 4, 7, seed=8)),
    "conv_transpose1d": (lambda x: F.conv_transpose1d(x, transposed(4, 5, 3)), vector(2, 4, 7, seed=8)),
    "conv3d": (lambda x: F.conv3d(x, vector(3, 2, 2, 2, 2)), CUBES),
    "conv_transpose3d": (lambda x: F.conv_transpose3d(x, vector(2, 3, 2, 2, 2)), CUBES),
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_layouts_that_follow_the_operands(name):
    """What comes behind such a result is laid out as it is, and views of it are possible where eager's are."""
    function, x = FOLLOWING[name]
    check(lambda x: (function(x) * 2, function(x).stride()), x)


def test_gradients_of_a_norms_weight():
    def gradient(x, w):
        (grad,) = torch.autograd.grad(F.layer_norm(x, w.shape, w).square().sum(), [w])
        return grad * 2, grad.stride()

    check(gradient, vector(3, 4, 5, seed=1), transposed(4, 5).requires_grad_(), grad=True)
