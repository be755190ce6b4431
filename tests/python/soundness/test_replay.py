"""The replay check: a recording whose guards hold is recorded again before it is replayed, and must be the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from framejit_testing import vector

import framejit

ROOT = Path(__file__).resolve().parents[3]
SCALE = 2
X = vector(4, 6, seed=1)


@pytest.fixture(autouse=True)
def replay():
    framejit.set_checks("replay")
    yield
    framejit._C._switch_off([])
    framejit.set_checks("")


def scaled(x):
    return x * SCALE


def test_what_is_guarded_passes():
    compiled = framejit.compile(scaled)
    for _ in range(3):
        assert torch.equal(compiled(X), X * 2)
    assert [trace["hits"] for trace in framejit._C.traces(compiled)] == [3]


@pytest.mark.internal_errors(1)
def test_a_missing_guard_is_named(monkeypatch, caplog):
    framejit._C._switch_off(["guard:ConstantIs"])
    compiled = framejit.compile(scaled)
    compiled(X)
    monkeypatch.setitem(globals(), "SCALE", 3)
    with pytest.raises(framejit.CheckError) as caught:
        compiled(X)
    text = str(caught.value)
    assert "scaled" in text and "a guard is missing" in text
    assert "recorded now: ConstantIs" in text and "['SCALE'] 3" in text and "['SCALE'] 2" in text
    assert "in the graph" in text and "wrapped = [2]" in text and "wrapped = [3]" in text
    assert text in caplog.text, "a program may catch the error: the log has it too"


def test_memory_that_is_only_read_may_be_shared():
    compiled = framejit.compile(lambda x, y: x * y)
    for y in (X, X.clone(), X[:], X.view(4, 6)):
        assert torch.equal(compiled(X, y), X * X)
    assert torch.equal(compiled(X[1:3], X[2:]), X[1:3] * X[2:])


@pytest.mark.internal_errors(1)
def test_effects_are_compared(monkeypatch):
    framejit._C._switch_off(["guard:ConstantIs"])

    def append(x, items):
        items.append(SCALE)
        return x + 1

    compiled = framejit.compile(append)
    compiled(X, [])
    monkeypatch.setitem(globals(), "SCALE", 3)
    with pytest.raises(framejit.CheckError, match="in the exit plan"):
        compiled(X, [])


@pytest.mark.internal_errors(1)
def test_nothing_of_the_call_has_happened_when_it_raises(monkeypatch):
    framejit._C._switch_off(["guard:ConstantIs"])
    items = []

    def append(x):
        items.append(SCALE)
        return x + 1

    compiled = framejit.compile(append)
    compiled(X)
    monkeypatch.setitem(globals(), "SCALE", 3)
    with pytest.raises(framejit.CheckError):
        compiled(X)
    assert items == [2]


def test_frames_behind_breaks_are_checked():
    def broken(x, n):
        y = x * n
        framejit.graph_break()
        return y + n

    compiled = framejit.compile(broken)
    for n in (1, 2, 1, 2):
        assert torch.equal(compiled(X, n), X * n + n)
    assert sum(trace["hits"] for trace in framejit._C.traces(compiled)) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replai", "FRAMEJIT_CHECK: unknown check 'replai'; known checks: replay"),
        ("replay:0.5", "replay takes no rate"),
        ("replay,:", "unknown check ''"),
    ],
)
def test_a_bad_value_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        framejit.set_checks(text)


def test_the_environment_variable():
    program = (
        "import framejit, torch\n"
        "framejit._C._switch_off(['guard:ConstantIs'])\n"
        "f = framejit.compile(lambda x, n: x * n)\n"
        "f(torch.ones(3), 2)\n"
        "try:\n    f(torch.ones(3), 3)\n"
        "except framejit.CheckError as error:\n    print('found', error)\n"
    )
    for value, expected in (("replay", "found FRAMEJIT_CHECK=replay"), ("", "")):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "FRAMEJIT_CHECK": value}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(expected)
    environment["FRAMEJIT_CHECK"] = "all"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "FRAMEJIT_CHECK: unknown check 'all'" in done.stderr
