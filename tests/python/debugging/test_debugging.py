"""Logs, explain(), and errors for wrong names: what a person reads when something is not as expected."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from framejit_testing import vector

import framejit

ROOT = Path(__file__).resolve().parents[3]
REQUIRED_LOGS = ["breaks", "guards", "recompiles", "graph", "aten", "loops", "asm", "timing"]
X = vector(4, 6, seed=1)


def good(x):
    return torch.softmax(x * 2, dim=-1)


def bad(x):
    y = x + 1
    if y.sum() > 0:
        return y
    return -y


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


PROGRAM = """
import torch, framejit
@framejit.compile
def f(x):
    return torch.softmax(x * 2, dim=-1)
@framejit.compile
def g(x):
    if x.sum() > 0:
        return x
    return -x
with torch.no_grad():
    f(torch.ones(4, 6)); f(torch.ones(3, 6)); g(torch.ones(3))
"""


@pytest.fixture
def messages(caplog):
    """messages(names) -> the texts logged for those artifacts while a function ran."""

    def collect(names, call):
        framejit.set_logs(names)
        try:
            with caplog.at_level("DEBUG", logger="framejit"):
                caplog.clear()
                call()
                return [(record.name, record.getMessage()) for record in caplog.records]
        finally:
            framejit.set_logs("")

    return collect


@pytest.mark.parametrize("name", REQUIRED_LOGS)
def test_each_log_prints_under_its_own_name(name, messages):
    def call():
        f, g = framejit.compile(good), framejit.compile(bad)
        with torch.no_grad():
            f(X), f(X[:2].clone()), g(X)

    records = messages(name, call)
    assert records, f"FRAMEJIT_LOG={name} printed nothing"
    assert {logger for logger, _ in records} == {f"framejit.{name}"}


def test_what_the_logs_say(messages):
    def call():
        f, g = framejit.compile(good), framejit.compile(bad)
        with torch.no_grad():
            f(X), f(X[:2].clone()), g(X)

    text = {name: "\n".join(m for _, m in messages(name, call)) for name in REQUIRED_LOGS}
    assert "test_debugging.py" in text["breaks"] and "DataDependent" in text["breaks"]
    assert "softmax" in text["graph"] and "aten" in text["aten"]
    assert "x" in text["guards"] and "4" in text["recompiles"] and "2" in text["recompiles"]


def test_nothing_is_printed_by_default():
    result = run_python(PROGRAM, FRAMEJIT_LOG="")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "" and result.stdout == ""


def test_environment_variable_selects_logs():
    result = run_python(PROGRAM, FRAMEJIT_LOG="breaks,recompiles")
    assert result.returncode == 0, result.stderr
    assert "DataDependent" in result.stderr
    assert "recompiles" in result.stderr


def test_unknown_log_name_is_an_error_that_lists_the_known_ones():
    result = run_python(PROGRAM, FRAMEJIT_LOG="braeks")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "braeks" in last
    for name in REQUIRED_LOGS:
        assert name in last


def test_unknown_log_name_in_set_logs():
    with pytest.raises(ValueError, match="braeks.*breaks"):
        framejit.set_logs("braeks")


def test_a_graph_that_raises_says_what(messages):
    def backend(module, inputs):
        def run(*tensors):
            raise ValueError("no such kernel")

        return run

    compiled = framejit.compile(good, backend=backend)
    records = messages("breaks", lambda: torch.testing.assert_close(compiled(X), good(X)))
    assert [name for name, _ in records] == ["framejit.breaks"]
    assert "runs in the interpreter instead: ValueError: no such kernel" in records[0][1]


def test_unknown_backend_lists_the_known_ones():
    with pytest.raises(Exception, match="no_such_backend") as info:
        framejit.compile(good, backend="no_such_backend")(X)
    for name in ("cpu", "eager", "interp"):
        assert name in str(info.value)


def test_list_backends():
    assert {"cpu", "eager", "interp"} <= set(framejit.list_backends())


def test_register_backend():
    calls = []

    def mine(graph_module, example_inputs):
        calls.append(graph_module)
        return graph_module.forward

    framejit.register_backend("mine_for_test", mine)
    assert "mine_for_test" in framejit.list_backends()
    assert torch.equal(framejit.compile(good, backend="mine_for_test")(X), good(X))
    assert len(calls) == 1
    with pytest.raises(ValueError, match="mine_for_test"):
        framejit.register_backend("mine_for_test", mine)


def test_explain_of_a_captured_function():
    with torch.no_grad():
        report = framejit.explain(good)(X)
    assert report.graph_count == 1 and report.break_count == 0 and list(report.breaks) == []
    text = str(report)
    assert "graph" in text and "guard" in text


def test_explain_of_a_break():
    report = framejit.explain(bad)(X)
    assert report.graph_count == 1 and report.break_count == 1
    found = report.breaks[0]
    assert found.code == "DataDependent"
    assert found.stack[-1] == (__file__, bad.__code__.co_firstlineno + 2, "bad")
    assert found.hint and found.hint in str(report)
    assert os.path.basename(__file__) in str(report)


def test_disable_by_environment():
    code = PROGRAM + "\nprint(framejit.explain(lambda x: x + 1)(torch.ones(2)).graph_count)"
    result = run_python(code, FRAMEJIT_DISABLE="1", FRAMEJIT_LOG="graph")
    assert result.returncode == 0, result.stderr
    assert "softmax" not in result.stderr


def test_is_compiling_is_false_outside():
    assert framejit.is_compiling() is False

    def f(x):
        return x + 1 if framejit.is_compiling() else x - 1

    assert torch.equal(framejit.compile(f)(X), X + 1)


def _ignore_bidirectional_mask_sdpa(padding_mask):
    """As in transformers, where a mask would have torch's attention draw other random numbers."""
    return not torch.compiler.is_compiling()


def test_masks_are_made_as_in_eager_mode_where_nothing_is_padded():
    def f(x, mask):
        return x + 1 if _ignore_bidirectional_mask_sdpa(mask) else x - 1

    assert torch.equal(framejit.compile(f)(X, None), X + 1)
    assert torch.equal(framejit.compile(f)(X, X), X - 1)


def test_compiled_function_looks_like_the_function():
    def documented(x: int, y=2):
        """Adds."""
        return x + y

    compiled = framejit.compile(documented)
    assert compiled.__name__ == "documented" and compiled.__doc__ == "Adds."
    assert compiled.__wrapped__ is documented and callable(compiled)
    assert compiled.__annotations__ == {"x": int}
    assert "documented" in repr(compiled)


def test_compile_accepts_options_as_decorator():
    @framejit.compile(backend="eager", fullgraph=True)
    def f(x):
        return x * 2

    assert torch.equal(f(X), X * 2)


def test_compile_refuses_what_is_not_callable():
    with pytest.raises(TypeError):
        framejit.compile(3)


def test_compiled_function_can_be_pickled_by_reference_and_weakly_referenced():
    import pickle
    import weakref

    compiled = framejit.compile(good)
    assert weakref.ref(compiled)() is compiled
    assert pickle.loads(pickle.dumps(framejit.explain)) is framejit.explain


def test_two_threads_at_once():
    import threading

    compiled = framejit.compile(good)
    wrong = []

    def work(seed):
        with torch.no_grad():
            for length in (2, 3, 4):
                x = vector(length, 6, seed=seed)
                for _ in range(20):
                    if not torch.allclose(compiled(x), good(x), rtol=1e-5, atol=1e-6):
                        wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
