"""The text of a graph break."""

from test_fx_export import testing


def test_text():
    assert testing.data_dependent_break("aten::item") == (
        "graph break: model.py:12 in forward: control flow or a Python value depends on tensor data: aten::item "
        "[DataDependent]; hint: use torch.where, or keep the value a tensor"
    )
