"""Every layer and loss of torch.nn that torch's own tests know, in training: outputs, gradients of inputs and
parameters, and buffers equal eager's within 1e-5 relative. Of each, the first inputs of its table."""

import copy

import pytest
import torch
from framejit_testing import assert_same, leaves
from torch.utils._pytree import tree_map
from training_testing import backward, reports

import framejit

common_modules = pytest.importorskip("torch.testing._internal.common_modules")

INPUTS = 3
# Their derivatives look at data or have no metadata: torch's own autograd differentiates.
DIFFERENTIATED_BY_TORCH = {"nn.MultiMarginLoss", "nn.MultiLabelMarginLoss", "nn.FractionalMaxPool3d"}
# They look at data themselves, between two graphs: whether a variance is negative, the lengths of the sequences.
ASK_FOR_DATA = {"nn.GaussianNLLLoss", "nn.CTCLoss"}


def info_name(info) -> str:
    return info.name.replace("_", ".", 1)


def drawn(info):
    torch.manual_seed(0)
    rows = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=True, training=True)
    return [row for row in rows if row.forward_input is not None][:INPUTS]


def made(info, row):
    torch.manual_seed(0)
    module = info.module_cls(*row.constructor_input.args, **row.constructor_input.kwargs).float()
    if info.is_lazy:
        module(*copy.deepcopy(row.forward_input.args), **copy.deepcopy(row.forward_input.kwargs))
    return module.train()


def trained(call, module, row, steps=2):
    own = lambda t: t.detach().clone().requires_grad_(t.requires_grad) if torch.is_tensor(t) else copy.deepcopy(t)  # noqa: E731
    args, kwargs = tree_map(own, (row.forward_input.args, row.forward_input.kwargs))
    results = []
    for _ in range(steps):
        torch.manual_seed(1)
        result = call(*args, **kwargs)
        if any(t.requires_grad for t in leaves(result)):
            backward(result)
        results.append(copy.deepcopy([t.detach() for t in leaves(result)]))
    gradients = [t.grad for t in leaves((args, kwargs)) if t.is_leaf]
    return results, gradients, [p.grad for p in module.parameters()], list(module.buffers())


@pytest.mark.parametrize("info", common_modules.module_db, ids=info_name)
def test_module(info):
    for row in drawn(info):
        module = made(info, row)
        try:
            expected = trained(module, module, row)
        except NotImplementedError:
            pytest.skip("eager has no such kernel on the CPU")
        framejit.reset()
        own = made(info, row)
        compiled = framejit.compile(own)
        assert_same(trained(compiled, own, row), expected, str(row.constructor_input.args))
        found = reports(compiled)
        # A momentum of None: a mean over all batches, whose number is asked for.
        if info_name(info) in ASK_FOR_DATA or getattr(own, "momentum", 0) is None:
            assert found[0].graph_break.code in ("DataDependent", "TensorData"), found[0].graph_break
            continue
        (report,) = found
        assert report.captured and report.graph_break is None, report.graph_break or report.fallback
        assert report.has_backward == (info_name(info) not in DIFFERENTIATED_BY_TORCH), report.backend
