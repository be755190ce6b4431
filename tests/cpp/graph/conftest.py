"""Finds the module framejit_graph_testing, which the C++ test build makes, and the helpers beside this file."""

import os
import sys

import torch  # noqa: F401  (its libraries must be loaded before the module)

sys.path[:0] = [path for path in [os.environ.get("FRAMEJIT_TEST_MODULES"), os.path.dirname(__file__)] if path]
