"""Runs the file tests of this directory (format: ../README.md)."""

import os
import pathlib

import pytest

testing = pytest.importorskip("framejit_graph_testing", reason="built by the C++ tests; set FRAMEJIT_TEST_MODULES")

FILES = sorted(pathlib.Path(__file__).parent.glob("*.test"))


def run_command(command: str, text: str) -> str:
    name, _, passes = command.partition(":")
    if name == "run":
        names = [each for word in passes.split() for each in (testing.pass_names() if word == "pipeline" else [word])]
        return testing.run_passes(text, names)
    try:
        if name == "verify":
            return (testing.verify(text) or "ok") + "\n"
        if name == "parse":
            return testing.parse_print(text)
    except ValueError as error:
        return f"{error}\n"
    raise AssertionError(f"unknown command {command!r}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file(path: pathlib.Path) -> None:
    head, text, expected = path.read_text().split("---\n")
    command = [line for line in head.splitlines() if not line.startswith("#")][-1]
    output = run_command(command, text)
    if os.environ.get("FRAMEJIT_BLESS"):
        path.write_text("---\n".join([head, text, output]))
        return
    assert output == expected


def test_there_are_files() -> None:
    assert len(FILES) >= 20
