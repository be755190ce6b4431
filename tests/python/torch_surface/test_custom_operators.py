"""Operators that a program registers: in Python and in C++, with and without a kernel for metadata."""

import subprocess
import sys
import sysconfig

import pytest
import torch
from framejit_testing import assert_same, check, counting, vector

import framejit

X, Y = vector(4, 6, seed=1), vector(4, 6, seed=2)


@torch.library.custom_op("framejit_tests::scale", mutates_args=())
def scale(x: torch.Tensor, factor: float = 2.0) -> torch.Tensor:
    return torch.from_numpy(x.detach().numpy() * factor)  # nothing that could be recorded


@scale.register_fake
def _(x, factor=2.0):
    return torch.empty_like(x)


@torch.library.custom_op("framejit_tests::split_signs", mutates_args=())
def split_signs(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.clamp(min=0), x.clamp(max=0)


@split_signs.register_fake
def _(x):
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op("framejit_tests::add_into", mutates_args={"out"})
def add_into(out: torch.Tensor, x: torch.Tensor) -> None:
    out.copy_(torch.from_numpy(out.numpy() + x.numpy()))


@torch.library.custom_op("framejit_tests::without_fake", mutates_args=())
@framejit.disable
def without_fake(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.numpy() + 1)


@torch.library.custom_op("framejit_tests::data_dependent", mutates_args=())
@framejit.disable
def data_dependent(x: torch.Tensor) -> torch.Tensor:
    return x[x > 0].clone()


@data_dependent.register_fake
def _(x):
    return x.new_empty(torch.library.get_ctx().new_dynamic_size())


@torch.library.custom_op("framejit_tests::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.detach().numpy() ** 3)


cube.register_fake(torch.empty_like)
cube.register_autograd(
    lambda ctx, grad: 5 * ctx.saved_tensors[0] * grad,  # not the derivative: tells whose backward ran
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


@pytest.mark.cpu
def test_with_a_fake_kernel():
    check(lambda x: scale(x) + scale(x * 2, 3.0) + torch.ops.framejit_tests.scale(x, factor=0.5), X)
    check(lambda x: torch.ops.framejit_tests.scale.default(x) * 2, X)
    check(lambda x: split_signs(x.sin())[0] + split_signs(x)[1], X)


def test_that_writes_its_argument():
    def function(x, y):
        z = x.clone()
        add_into(z, y)
        add_into(y, x)
        return z + 1, y * 2

    check(function, X, Y)


@pytest.mark.cpu
def test_without_a_fake_kernel():
    check(lambda x: without_fake(x * 2) * 3, X, graphs=2, breaks=1)


def test_with_sizes_that_depend_on_data():
    check(lambda x: data_dependent(x * 2).sum() * 3, X, graphs=2, breaks=1)


@pytest.mark.cpu
def test_that_returns_a_number_beside_tensors():
    """As attention does on GPUs. A number that depends on sizes holds for these alone."""
    library = torch.library.Library("framejit_tests", "FRAGMENT")
    library.define("with_length(Tensor x) -> (Tensor, SymInt, Tensor)")
    library.impl("with_length", framejit.disable(lambda x: (x * 2, x.shape[0], x + 1)), "CPU")
    library.impl("with_length", lambda x: (torch.empty_like(x), x.shape[0], torch.empty_like(x)), "Meta")

    def function(x):
        doubled, length, more = torch.ops.framejit_tests.with_length.default(x)
        return doubled * length + more

    check(function, X)
    for backend in ("interp", "cpu", "eager"):
        compiled = framejit.compile(function, backend=backend, dynamic=True, fullgraph=True)
        for length in (4, 7, 9, 4):
            x = vector(length, 6, seed=length)
            assert_same(compiled(x), function(x))


@pytest.mark.cpu
def test_the_backward_is_the_operators():
    def function(x):
        return (cube(x * 2) + 1).sum()

    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(x), x)
    compiled, backend = counting(function)
    for target in (compiled, framejit.compile(function)):
        for _ in range(3):
            value = target(x)
            assert_same(value.detach(), function(x).detach())
            assert torch.equal(torch.autograd.grad(value, x)[0], expected)
    assert backend.count == 1


@pytest.mark.cpu
def test_registered_by_hand():
    library = torch.library.Library("framejit_tests", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", framejit.disable(lambda x: torch.from_numpy(x.numpy() * 2)), "CPU")
    check(lambda x: torch.ops.framejit_tests.twice(x * 3) + 1, X, graphs=2, breaks=1)
    library.impl("twice", lambda x: torch.empty_like(x), "Meta")
    framejit.reset()
    check(lambda x: torch.ops.framejit_tests.twice(x) + 1, X)
    library.define("thrice(Tensor x) -> Tensor")
    library.impl("thrice", lambda x: x * 3, "CompositeImplicitAutograd")
    check(lambda x: torch.ops.framejit_tests.thrice(x) + 1, X)


def test_a_kernel_that_raises():
    @torch.library.custom_op("framejit_tests::picky", mutates_args=())
    def picky(x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1000:
            raise ValueError("too large")
        return x.clone()

    picky.register_fake(torch.empty_like)
    compiled = framejit.compile(lambda x: picky(x * 2) + 1)
    assert torch.equal(compiled(X), X * 2 + 1)
    with pytest.raises(ValueError, match="too large"):
        compiled(X + 1000)
    assert torch.equal(compiled(X), X * 2 + 1)


SOURCE = """
#include <ATen/ATen.h>
#include <torch/library.h>
static at::Tensor Shifted(const at::Tensor& x, double by) { return x.contiguous() + by; }
static at::Tensor Unknown(const at::Tensor& x) { return x * x.flatten()[0].item(); }
static at::Tensor& Increase(at::Tensor& x) { return x.add_(1); }
TORCH_LIBRARY(framejit_native_tests, m) {
  m.def("shifted(Tensor x, float by=1.0) -> Tensor");
  m.def("unknown(Tensor x) -> Tensor");
  m.def("increase(Tensor(a!) x) -> Tensor(a!)");
}
TORCH_LIBRARY_IMPL(framejit_native_tests, CPU, m) {
  m.impl("shifted", &Shifted);
  m.impl("unknown", &Unknown);
  m.impl("increase", &Increase);
}
static at::Tensor ShiftedMeta(const at::Tensor& x, double) { return at::empty(x.sizes(), x.options()); }
TORCH_LIBRARY_IMPL(framejit_native_tests, Meta, m) {
  m.impl("shifted", &ShiftedMeta);
  m.impl("increase", &Increase);
}
"""


@pytest.fixture(scope="module")
def native_operators(tmp_path_factory):
    """Compiled with the compiler that Python was made with; a few seconds."""
    from torch.utils import cpp_extension

    folder = tmp_path_factory.mktemp("operators")
    source, library = folder / "operators.cc", folder / "liboperators.so"
    source.write_text(SOURCE)
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    compiler = (sysconfig.get_config_var("CXX") or "c++").split()[0]
    libraries = [part for path in cpp_extension.library_paths() for part in (f"-L{path}", f"-Wl,-rpath,{path}")]
    command = [
        compiler, "-std=c++20", "-O0", "-shared", "-fPIC", abi, *includes, str(source), *libraries, "-lc10",
        "-ltorch_cpu", "-o", str(library),
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no C++ compiler")
    torch.ops.load_library(str(library))
    return torch.ops.framejit_native_tests


@pytest.mark.cpu
@pytest.mark.skipif(sys.platform != "linux", reason="the flags are those of Linux compilers")
def test_of_a_library_in_cpp(native_operators):
    operators = native_operators

    def with_metadata(x):
        return operators.shifted(x.t(), 2.0) + operators.shifted(x).t()

    def writes(x):
        y = x * 2
        operators.increase(y)
        return operators.increase(x) + 1, y

    def without_metadata(x):
        return operators.unknown(x * 2) + 1

    check(with_metadata, X)
    check(writes, X)
    check(without_metadata, X, graphs=2, breaks=1)
