"""Sessions: views, in-place operators, functionalization, modes, errors, life times."""

import gc
import weakref

import framejit_fake_testing as fk
import pytest
import torch
import torch.nn.functional as F
from recording import check, record


def f(*shape, **kwargs):
    """A real tensor, inside of a session too."""
    pause = fk.pause()
    try:
        return torch.randn(*shape, **kwargs)
    finally:
        del pause


def in_place_chain(x, y):
    x = x + 1
    x.mul_(2).add_(y)
    x[0] = 3.0
    return x


def write_through_view(x):
    y = x * 1
    view = y.view(-1)
    view[1:3].add_(5)
    return y, view


def mutate_input(x, y):
    x.add_(y)
    return x * 2


def mutate_input_view(x):
    x[1].zero_()
    return x.sum(), x[1], x.view(-1)


def copy_into(x, y):
    x[:, :2].copy_(y)
    return x + 0


def two_mutations(x, y):
    x.add_(1)
    y.copy_(x)
    x.mul_(2)
    return x, y


def metadata_in_place(x):
    y = x + 1
    y.unsqueeze_(0)
    y.transpose_(0, 1)
    return y


def out_argument(x):
    out = torch.empty(3, 4)
    torch.add(x, 1, out=out)
    return out


def dropout(x):
    return F.dropout(x, 0.5) + F.dropout(x * 2, 0.3) + torch.rand_like(x)


MUTATIONS = {
    "in_place_chain": (in_place_chain, lambda: [f(3, 4), f(4)]),
    "write_through_view": (write_through_view, lambda: [f(3, 4)]),
    "mutate_input": (mutate_input, lambda: [f(3, 4), f(4)]),
    "mutate_and_return": (lambda x: x.add_(1), lambda: [f(3, 4)]),
    "mutate_input_view": (mutate_input_view, lambda: [f(3, 4)]),
    "copy_into": (copy_into, lambda: [f(3, 4), f(3, 2)]),
    "two_mutations": (two_mutations, lambda: [f(3, 4), f(3, 4)]),
    "metadata_in_place": (metadata_in_place, lambda: [f(3, 4)]),
    "out_argument": (out_argument, lambda: [f(3, 4)]),
    "dropout": (dropout, lambda: [f(3, 4)]),
    "view_of_input": (lambda x: (x.view(-1), x.t(), x), lambda: [f(3, 4)]),
    "shared_inputs": (lambda x, y: (x + y, x[0]), lambda: (lambda t: [t[1:], t[:3]])(f(4, 3))),
    "index_put_": (lambda x: x.index_put_((torch.arange(2),), torch.ones(())), lambda: [f(3, 4)]),
    "masked_fill_": (lambda x: (x + 0).masked_fill_(x > 0, 0.0), lambda: [f(3, 4)]),
    "foreach": (lambda x, y: torch._foreach_add([x, y], 1), lambda: [f(3), f(4)]),
    "foreach_": (lambda x: (lambda y: (torch._foreach_mul_([y], 2.0), y)[1])(x + 1), lambda: [f(3)]),
    "detached": (lambda x: (x.detach().add_(1), x), lambda: [f(3)]),
    "uniform_": (lambda x: torch.empty(3, 4).uniform_(0, 1) + x, lambda: [f(4)]),
    "kv_cache": (
        lambda c, k, p: c.index_copy_(1, p, k).sum(),
        lambda: [torch.zeros(2, 5, 3), f(2, 1, 3), torch.tensor([2])],
    ),
}


@pytest.mark.parametrize("case", MUTATIONS)
def test_mutation(case):
    function, inputs = MUTATIONS[case]
    check(function, inputs())


def test_batch_norm_statistics_are_mutations():
    graph = record(lambda x, m, v: F.batch_norm(x, m, v, training=True), [f(2, 3, 4), f(3), torch.rand(3)])
    functional = graph.functionalize()
    assert "aten::_native_batch_norm_legit_functional" in functional.ops
    assert [i for i, _ in functional.mutations] == functional.inputs[1:]


def test_functional_graph_is_returned_as_it_is():
    graph = record(lambda x: x + 1, [f(3)])
    assert graph.functionalize().ops == graph.ops == ["aten::add.Tensor"]


def test_writes_to_an_input_of_another_layout_are_refused():
    graph = record(lambda x: x.t_().add_(1), [f(3, 4)])
    with pytest.raises(ValueError, match="UNIMPLEMENTED: an input is written and its metadata are changed in place"):
        graph.functionalize()
    graph = record(lambda x: x.t_() + 1, [f(3, 4)])  # its metadata are an effect of the recorder
    assert graph.functionalize().ops == ["aten::t", "aten::add.Tensor"] and not graph.functionalize().mutations


def test_strides_that_functional_operators_lose():
    """The functional result of a write is dense. Operators may read it if what they make is laid out as recorded; views
    of it, and results that take their strides from it, rest on the strides of the written tensor."""
    strided = [f(3, 8)[:, ::2], f(4)]
    check(mutate_input, strided)
    graph = record(lambda x, y: x.add_(y).view(3, 2, 2) * 1, strided)
    with pytest.raises(ValueError, match="UNIMPLEMENTED: a written tensor has another layout"):
        graph.functionalize()

    def write_a_transposed_copy(x):
        copy = x.t().clone(memory_format=torch.preserve_format)
        copy.cumsum_(0)
        return copy + 1

    graph = record(write_a_transposed_copy, [f(4, 6)])
    with pytest.raises(ValueError, match="UNIMPLEMENTED: what is made of a written tensor has another layout"):
        graph.functionalize()


def test_random_numbers_keep_their_order():
    graph = record(lambda x: F.dropout(x, 0.5), [f(4, 6).t()])
    with pytest.raises(ValueError, match="bernoulli_.float on a tensor that is not contiguous"):
        graph.functionalize()


def test_writing_inputs_that_share_memory_is_refused():
    t = f(4)
    graph = record(lambda x, y: x.add_(y), [t, t[:]])
    with pytest.raises(ValueError, match="shares memory"):
        graph.functionalize()


def test_storage_ids():
    graph = record(lambda x: (x.view(-1), x + 1, x), [f(3, 4)])
    view, fresh, same = (graph.values[v][4] for v in graph.outputs)
    assert view == same == graph.values[graph.inputs[0]][4] != fresh


def test_in_place_gives_a_new_value():
    with fk.Session() as s:
        x = s.input(f(3))
        before = s.value_of(x)
        y = x.add_(1)
        assert y is x and s.value_of(x) != before


def test_positions():
    with fk.Session() as s:
        x = s.input(f(3))
        s.position(4, 2)
        x = x + 1
        s.position(5, 3)
        x = x * 2
        assert s.graph.positions == [(4, 2), (5, 3)]


def test_numbers_are_constants():
    graph = record(lambda x: x + 2.5, [f(3)])
    assert graph.constants == 1 and graph.ops == ["aten::add.Tensor"]


def test_constant_is_cloned():
    real = f(3)
    with fk.Session() as s:
        c = s.constant(real)
        c.add_(1)
        graph, out = s.graph, s.value_of(c)
    graph.outputs = [out]
    for _ in range(2):
        assert torch.equal(graph.replay([])[0], real + 1)
    assert torch.equal(graph.functionalize().replay([])[0], real + 1)


def test_constant_keeps_its_value():
    real = f(3)
    expected = real.clone()
    with fk.Session() as s:
        c = s.constant(real)
        graph, out = s.graph, s.value_of(c)
    real.zero_()
    graph.outputs = [out]
    assert torch.equal(graph.replay([])[0], expected)


FAILURES = {
    "item": (lambda x: x.sum().item(), "TensorData"),
    "bool": (lambda x: bool(x.sum() > 0), "TensorData"),
    "nonzero": (lambda x: x.nonzero(), "DataDependent"),
    "mask": (lambda x: x[x > 0], "DataDependent"),
    "masked_select": (lambda x: x.masked_select(x > 0), "DataDependent"),
    "equal": (lambda x: x.equal(x), "DataDependent"),
    "unique": (lambda x: x.unique(), "DataDependent"),
    "set_": (lambda x: (x + 0).set_(x), "TensorMetadataMutation"),
    "resize_": (lambda x: (x + 0).resize_(2), "TensorMetadataMutation"),
    "unknown": (lambda x: x + UNKNOWN, "UnknownTensor"),
    "write_unknown": (lambda x: UNKNOWN.add_(x), "UnknownTensor"),
    "tolist": (lambda x: x.tolist(), None),
    "numpy": (lambda x: x.numpy(), None),
}
UNKNOWN = torch.ones(3)


@pytest.mark.parametrize("case", FAILURES)
def test_failure(case):
    function, code = FAILURES[case]
    with fk.Session() as s:
        x = s.input(f(3))
        with pytest.raises(RuntimeError):
            function(x)
        if code is not None:
            assert s.failure[0] == code
    assert torch.equal(UNKNOWN, torch.ones(3))


def test_eager_errors_are_raised_and_no_failure():
    with fk.Session() as s:
        x = s.input(f(3))
        with pytest.raises(RuntimeError, match="must match"):
            x + s.input(f(4))
        assert s.failure is None


def test_fake_outside_of_its_session():
    with fk.Session() as s:
        x = s.input(f(3))
    with pytest.raises(RuntimeError, match="outside of that recording"):
        x + 1
    with fk.Session(), pytest.raises(RuntimeError, match="another recording"):
        x + 1


def test_real_tensors_run_for_real():
    with fk.Session() as s:
        y = torch.ones_like(UNKNOWN).add_(UNKNOWN)
        assert not fk.is_fake(y) and y.tolist() == [2, 2, 2]
        assert s.graph.ops == []
        assert fk.is_fake(torch.zeros(2))


def test_pause():
    with fk.Session() as s:
        x = s.input(f(3))
        pause = fk.pause()
        assert torch.tensor([1.0]).item() == 1 and not fk.is_fake(torch.zeros(2))
        with pytest.raises(RuntimeError, match="paused"):
            x + 1
        del pause
        assert fk.is_fake(x + 1)


def test_unrecordable_inputs():
    sparse = torch.eye(2).to_sparse()
    with fk.Session() as s:
        for real in (sparse, torch.empty(2, device="meta"), s.input(f(2))):
            with pytest.raises(ValueError, match="UNIMPLEMENTED"):
                s.input(real)


def test_devices_of_results():
    """Fakes claim a GPU that need not be there. Numbers on the CPU go with them, in any order."""
    empty = torch.ops.aten.empty.memory_format
    with fk.Session() as s:
        vector, scalar = empty([3], device="cuda"), empty([], device="cuda:0")
        number = s.input(f(()))
        assert vector.device == scalar.device == torch.device("cuda", 0)
        add = torch.ops.aten.add.Tensor
        for left, right in ((vector, scalar), (vector, number), (scalar, number)):
            assert add(left, right).device == add(right, left).device == torch.device("cuda", 0)
        assert add(number, number).device == torch.device("cpu")
        assert vector.cpu().device == torch.device("cpu") and (vector.cpu() * number).device == torch.device("cpu")


def test_autograd_state():
    w = f(4, 4, requires_grad=True)
    with fk.Session() as s:
        x, p = s.input(f(2, 4)), s.input(w)
        y = F.linear(x, p)
        assert p.is_leaf and p.requires_grad and y.requires_grad and y.grad_fn is not None
        value = s.value_of(y)
        assert s.graph.values[value][5]
        assert not y.detach().requires_grad
        with torch.no_grad():
            assert not F.linear(x, p).requires_grad


def test_backward_is_recorded():
    w, x = f(4, 4, requires_grad=True), f(2, 4)
    with fk.Session() as s, torch.autograd.set_multithreading_enabled(False):
        fake_x, p = s.input(x), s.input(w)
        (g,) = torch.autograd.grad(F.gelu(F.linear(fake_x, p)).sum(), p)
        graph, out = s.graph, s.value_of(g)
    graph.outputs = [out]
    (expected,) = torch.autograd.grad(F.gelu(F.linear(x, w)).sum(), w)
    with torch.no_grad():
        torch.testing.assert_close(graph.replay([x, w])[0], expected)


def test_inference_mode():
    with torch.inference_mode():
        x = f(2, 4)
        graph = record(lambda a, b: F.layer_norm(F.linear(a, b), (4,)).view(-1).add_(1), [x, f(4, 4)])
        with fk.Session() as s:
            assert s.input(x).is_inference() and (s.input(x) + 1).is_inference()
    assert "aten::linear" not in graph.ops and "aten::layer_norm" not in graph.ops
    with fk.Session() as s:
        normal = s.input(f(3))
        with torch.inference_mode():
            assert not normal.view(-1).is_inference() and (normal + 1).is_inference()


def test_autocast():
    x, w = f(2, 4), f(4, 4)

    def function(a, b):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.linear(a, b)

    assert check(function, [x, w]).ops.count("aten::_to_copy") == 2


def test_data_property_shares_memory():
    with fk.Session() as s:
        x = s.input(f(3))
        d = x.data
        assert fk.is_fake(d) and fk.meta_of(d)[4] == fk.meta_of(x)[4]


def test_fakes_die_with_their_references():
    real = f(1000)
    with fk.Session() as s:
        x = s.input(real)
        y = x + 1
        refs = [weakref.ref(x), weakref.ref(y)]
        del x, y
    del s
    gc.collect()
    assert [r() for r in refs] == [None, None]


def test_nested_sessions():
    with fk.Session() as outer:
        x = outer.input(f(3))
        with fk.Session() as inner:
            inner.input(f(2)) + 1
        y = x + 1
        assert outer.value_of(y) >= 0 and outer.graph.ops == ["aten::add.Tensor"]


HOT = """
add.Tensor mul.Tensor div.Tensor sub.Tensor mm bmm addmm view transpose.int permute expand select.int
slice.Tensor _softmax native_layer_norm embedding gelu tanh relu where.self convolution cat stack clone
_to_copy mean.dim sum.dim_IntList rsqrt pow.Tensor_Scalar silu arange full masked_fill.Scalar unsqueeze t
split.Tensor native_batch_norm max_pool2d_with_indices index.Tensor gather
_scaled_dot_product_flash_attention_for_cpu copy_ add_.Tensor mul_.Tensor unbind.int detach alias _unsafe_view
cos sin neg bitwise_and.Tensor le.Tensor eq.Scalar logical_not any.dim cumsum tril triu argmax topk
""".split()


@pytest.mark.parametrize("op", HOT)
def test_hot_operators_need_no_python(op):
    name, _, overload = op.partition(".")
    assert fk.metadata_source("aten::" + name, overload) in ("own", "cpp")


def test_own_metas_name_operators():
    for op in fk.own_metas():
        name, _, overload = op.partition(".")
        assert fk.metadata_source(name, overload) == "own", op
