"""Helpers: record a function on fakes, replay it, compare with eager."""

import framejit_fake_testing as fk
import torch
import torch.utils._pytree as pytree


def record(function, inputs, grad=False):
    """Records `function(*inputs)`; returns the graph, whose outputs are the tensors of the result in pytree order."""
    with fk.Session() as session, torch.set_grad_enabled(grad):
        result = function(*[session.input(x) for x in inputs])
        assert session.failure is None, session.failure
        leaves = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
        values = [session.value_of(x) for x in leaves]
        del result, leaves
    graph = session.graph
    graph.outputs = values
    return graph


def copies(inputs):
    """Copies with the same strides, offsets and sharing of memory."""
    storages = {}
    result = []
    for x in inputs:
        key = x.untyped_storage().data_ptr()
        if key not in storages:
            storages[key] = x.untyped_storage().clone()
        copy = torch.empty(0, dtype=x.dtype).set_(storages[key], x.storage_offset(), x.size(), x.stride())
        result.append(copy.requires_grad_(x.requires_grad))
    return result


def leaves(result):
    return [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]


def aliasing(tensors):
    """For each tensor the index of the first one in the same memory."""
    pointers = [x.untyped_storage()._cdata for x in tensors]
    return [pointers.index(p) for p in pointers]


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        assert a.dtype == e.dtype and a.shape == e.shape and a.stride() == e.stride(), (a.stride(), e.stride(), a.shape)
        assert torch.equal(torch.nan_to_num(a.detach()), torch.nan_to_num(e.detach()))


def check(function, inputs, functionalize=True):
    """Eager, the recorded graph and its functional form agree: values, strides, mutations, aliasing, metadata."""
    with torch.no_grad():
        eager_inputs = copies(inputs)
        torch.manual_seed(1)
        eager = leaves(function(*eager_inputs))
        graph = record(function, copies(inputs))
        torch.manual_seed(1)
        assert graph.check_metadata(copies(inputs)) == []
        graphs = [graph]
        if functionalize:
            graphs.append(graph.functionalize())
            assert not graphs[1].mutates
        for g in graphs:
            replay_inputs = copies(inputs)
            torch.manual_seed(1)
            outputs = g.replay(replay_inputs)
            assert_same(outputs, eager)
            assert_same(replay_inputs, eager_inputs)
            assert aliasing(replay_inputs + outputs) == aliasing(eager_inputs + eager)
    return graph
