"""Finds the module framejit_fake_testing (tests/cpp/fake) in the folder that FRAMEJIT_FAKE_TESTING names."""

import os
import sys

import pytest

sys.path.insert(0, os.environ.get("FRAMEJIT_FAKE_TESTING", ""))
sys.path.insert(0, os.path.dirname(__file__))
collect_ignore_glob = []
try:
    import framejit_fake_testing  # noqa: F401
    import torch  # noqa: F401  (its libraries must be loaded first)
except ImportError as error:  # The C++ tests are not built: say so instead of failing to import each file.
    collect_ignore_glob = ["test_*.py"]
    IMPORT_ERROR = str(error)

    def pytest_terminal_summary(terminalreporter):
        terminalreporter.write_line(
            f"tests/python/fake skipped: {IMPORT_ERROR}; build framejit_fake_testing and set FRAMEJIT_FAKE_TESTING"
        )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
