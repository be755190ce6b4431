"""Each row of breaks.def has a section in docs/breaks.md, and the example there gives that break and eager's result."""

import subprocess
import sys
import types
from pathlib import Path

import break_examples
import pytest
import torch
from framejit_testing import assert_same, run

import framejit

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def outside_state():
    """Every run begins with what the file's own objects were."""
    break_examples.weight.grad = None
    with torch.no_grad():
        break_examples.weight.fill_(1)
    yield


def outcome_of(function, arguments, grad):
    break_examples.counter = break_examples.itertools.count()
    break_examples.weight.grad = None
    with torch.set_grad_enabled(grad):
        result = run(function, arguments, {})
    if isinstance(result.value, types.GeneratorType):
        result.value = list(result.value)
    return result


@pytest.mark.parametrize("code", break_examples.EXAMPLES)
def test_example_gives_its_break(code, caplog):
    function, calls, grad = break_examples.EXAMPLES[code]
    framejit.set_logs("breaks")
    try:
        compiled = framejit.compile(function)
        for arguments in calls:
            expected = outcome_of(function, arguments, grad)
            actual = outcome_of(compiled, arguments, grad)
            assert type(actual.error) is type(expected.error)
            assert_same(actual.value, expected.value)
    finally:
        framejit.set_logs("")
    messages = [record.getMessage() for record in caplog.records if record.name == "framejit.breaks"]
    assert any(f"[{code}]" in message for message in messages), messages


def test_page_is_up_to_date():
    """Also fails where a row has no section, or a section no row."""
    command = [sys.executable, str(ROOT / "tools" / "breaks_page.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
