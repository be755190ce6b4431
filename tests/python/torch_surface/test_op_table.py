"""The table of benchmarks/coverage_ops.py: a sample of it in every run, all of it in the long one."""

import logging
import warnings

import pytest
import torch

pytest.importorskip("torch.testing._internal.common_methods_invocations")

from benchmarks import coverage_ops

# Every seventeenth cell, and the families that had to be taught.
STEP = 17
TAUGHT = """
    add cummax cummin logcumsumexp geqrf histogram histogramdd linspace_tensor_overload logspace_tensor_overload
    mode quantile nanquantile cov corrcoef nn_functional_one_hot nn_functional_max_pool1d nn_functional_ctc_loss
    abs pow bitwise_left_shift remainder broadcast_shapes unravel_index masked_sum masked_softmax complex
    __getitem__
""".split()
# What breaks because the result depends on data, by design.
DATA = "nonzero unique masked_select item".split()


@pytest.fixture(scope="module", autouse=True)
def prepared():
    """What it silences and replaces is put back: tests of other files read the log."""
    from torch.testing._internal import common_methods_invocations

    level, seeding, threads = (
        logging.root.manager.disable,
        common_methods_invocations.wrapper_set_seed,
        torch.get_num_threads(),
    )
    with warnings.catch_warnings():
        coverage_ops.prepare()
        yield
    logging.disable(level)
    torch.set_num_threads(threads)
    common_methods_invocations.wrapper_set_seed = seeding


def cells():
    keys = coverage_ops.keys_of("ops", "")
    taught = [key for key in keys if key.split(" ")[1] in TAUGHT]
    modules = coverage_ops.keys_of("modules", "")
    return list(dict.fromkeys(taught + keys[::STEP] + modules[::STEP]))


@pytest.mark.parametrize("key", cells())
def test_never_wrong(key):
    results = coverage_ops.evaluate(key, 2)
    bad = [result for result in results if result[0] in ("wrong", "internal", "crash")]
    assert not bad
    if key.split(" ")[1] in TAUGHT:
        assert any(status == "captured" for status, _ in results), results


@pytest.mark.parametrize("name", DATA)
def test_data_dependent_operators_break_cleanly(name):
    results = coverage_ops.evaluate(f"ops {name} float32", 2)
    assert {status for status, _ in results} == {"data"}


@pytest.mark.long
def test_the_whole_table():
    table = coverage_ops.measure(("ops", "modules"), "", coverage_ops.SAMPLES)
    bad = {key: results for key, cells in table.items() for results in cells.values()
           if results and coverage_ops.worst(results)[0] in ("wrong", "internal", "crash")}  # fmt: skip
    assert not bad
    for what, _, _, _, share_without_data in coverage_ops.summary_rows(table):
        assert share_without_data >= 0.95, f"{what}: {share_without_data}"
