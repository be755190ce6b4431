"""Checks C++ files for what the compiler does not: line and file length, header guards, the opening comment, where
PY_VERSION_HEX may appear, and leftover markers. Prints one line per finding and exits 1 where there is one."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPONENTS = ("base", "bytecode", "graph", "frame_eval", "backends", "tests")
SUFFIXES = {".cc", ".h", ".c", ".def"}
MAX_COLUMNS = 120
MAX_LINES = 800
# Tables may be longer and wider.
UNLIMITED_SUFFIXES = {".def"}
# Version differences live in one place; see docs/design.md.
VERSION_CHECKS = re.compile(
    r"frame_eval/cpython/|bytecode/opcodes|graph/capture/(frame_)?evaluator|tests/cpp/(bytecode|frame_eval)/|tests/python/interpreters/"
)
MARKERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def findings(path: Path, name: str):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS and path.suffix not in UNLIMITED_SUFFIXES:
            yield number, f"{len(line)} columns, at most {MAX_COLUMNS}"
        if "\t" in line:
            yield number, "a tab"
        if line != line.rstrip():
            yield number, "trailing white space"
        if MARKERS.search(line):
            yield number, "a marker for unfinished work"
        if re.match(r"\s*#\s*(el)?if.*PY_VERSION_HEX", line) and not VERSION_CHECKS.search(name):
            yield number, "PY_VERSION_HEX outside frame_eval/cpython, the opcode tables and the recorder's opcodes"
    if len(lines) > MAX_LINES and path.suffix not in UNLIMITED_SUFFIXES:
        yield len(lines), f"{len(lines)} lines, at most {MAX_LINES}"
    if not text.endswith("\n"):
        yield len(lines), "no newline at the end"
    # A .cc file may leave that to its header, a test to its name.
    described = path.name.endswith("_test.cc") or (path.suffix == ".cc" and path.with_suffix(".h").exists())
    if not described and not re.match(r"//|/\*", text):
        yield 1, "no opening comment that says what the file is responsible for"
    if path.suffix == ".h":
        guard = "FRAMEJIT_" + re.sub(r"[/.]", "_", name).upper() + "_"
        if f"#ifndef {guard}\n#define {guard}\n" not in text:
            yield 1, f"header guard is not {guard}"


def main() -> int:
    failed = 0
    for component in COMPONENTS:
        for path in sorted((ROOT / component).rglob("*")):
            if path.suffix not in SUFFIXES:
                continue
            name = path.relative_to(ROOT).as_posix()
            for line, message in findings(path, name):
                print(f"{name}:{line}: {message}")
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
