"""These tests run other interpreters and use no framejit state of this one."""

import pytest


@pytest.fixture(autouse=True)
def clean_state():
    """In place of the suite's own, which needs the built extension module and torch."""
