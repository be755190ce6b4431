"""Finds the module framejit_cuda_testing (tests/cpp/cuda) in the folder that FRAMEJIT_CUDA_TESTING names."""

import os
import sys

sys.path.insert(0, os.environ.get("FRAMEJIT_CUDA_TESTING", ""))
collect_ignore_glob = []
try:
    import framejit_cuda_testing  # noqa: F401  (before torch asks for its GPUs)
except ImportError as error:  # The C++ tests are not built: say so instead of failing to import each file.
    collect_ignore_glob = ["test_*.py"]
    IMPORT_ERROR = str(error)

    def pytest_terminal_summary(terminalreporter):
        terminalreporter.write_line(
            f"tests/python/training_graphs skipped: {IMPORT_ERROR}; build framejit_cuda_testing and set "
            "FRAMEJIT_CUDA_TESTING"
        )
