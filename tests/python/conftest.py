"""Paths, seeds and the `long` marker for all Python tests. The helpers are in framejit_testing.py."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for directory in (ROOT, HERE):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))

import pytest
import torch

# The tensors are small: more threads only wait for each other on a busy machine.
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--check", default="", help="run the tests under these checks, as FRAMEJIT_CHECK takes them")
    parser.addoption("--device", default=None, help="the default device of all tests that choose none")
    parser.addoption("--dynamic", action="store_true", help="compile with dynamic=True where a test says nothing of it")


def pytest_configure(config):
    torch.set_default_device(config.getoption("--device"))  # modules make tensors as they are imported


def pytest_collection_modifyitems(config, items):
    if config.getoption("--device"):
        of_the_cpu = pytest.mark.skip(reason="of the CPU")
        for item in items:
            if item.get_closest_marker("cpu") is not None:
                item.add_marker(of_the_cpu)
    if os.environ.get("FRAMEJIT_LONG_TESTS") == "1":
        return
    skip = pytest.mark.skip(reason="long; set FRAMEJIT_LONG_TESTS=1")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def device(request):
    """A test that uses it runs on each device, which is the default one."""
    if request.param == "cuda":
        torch.set_default_device("cuda")
    yield request.param
    torch.set_default_device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def open_sizes(request, monkeypatch):
    import framejit

    if request.config.getoption("--dynamic"):
        original = framejit.compile
        monkeypatch.setattr(framejit, "compile", lambda *args, **named: original(*args, **{"dynamic": True} | named))


@pytest.fixture(autouse=True)
def clean_state(request):
    """Every test starts with no compiled code, the same random numbers and torch's default state.

    No check of framejit itself may fail in it, whatever became of the error: a test of the checks says how often."""
    import framejit

    framejit.reset()
    checks = request.config.getoption("--check")
    if checks:
        framejit.set_checks(checks)
    failures = framejit._C.internal_errors()
    torch.manual_seed(0)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(request.config.getoption("--device"))
    yield
    framejit.reset()
    expected = request.node.get_closest_marker("internal_errors")
    found = framejit._C.internal_errors() - failures
    assert found == (expected.args[0] if expected else 0), f"{found} faults of framejit; the log says which"
