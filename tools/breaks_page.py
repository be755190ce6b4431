"""Makes docs/breaks.md of graph/capture/breaks.def and the examples in tests/python/break_examples.py, which are
read as text: neither framejit nor torch is needed. Every row has a section; a row without an example says why.

usage: breaks_page.py [--check]   (--check: exit 1 where the page is not what it would be)
"""

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "graph" / "capture" / "breaks.def"
EXAMPLES = ROOT / "tests" / "python" / "break_examples.py"
PAGE = ROOT / "docs" / "breaks.md"
ROW = re.compile(r'^BREAK\((\w+),\s*(\w+),\s*"([^"]*)",\s*"([^"]*)"\)', re.MULTILINE)
CLASSES = {
    "unsupported": "unsupported: framejit cannot record this",
    "limit": "limit: the recording became too large",
    "raise": "raise: the program raised an exception",
    "internal": "internal: an error of framejit's own",
}
INTRODUCTION = """# Graph breaks

<!-- Made by tools/breaks_page.py of graph/capture/breaks.def and tests/python/break_examples.py. -->

Where a function cannot be recorded, its graph *breaks*: what comes before is a graph, the instruction at which it
breaks runs in the interpreter, and what comes after is another graph. The result is always eager's.
`FRAMEJIT_LOG=breaks` and `framejit.explain` name each break as below; `fullgraph=True` raises it. The tests run the
examples.

"""


class Examples:
    """The examples of the file: code of the row -> (why, what to do, source or None)."""

    def __init__(self, text: str):
        self.lines = text.splitlines()
        self.named = {}
        self.sections = {}
        functions = []
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign):
                self.named[node.targets[0].id] = node
                if node.targets[0].id == "WITHOUT_EXAMPLE":
                    for code, (why, advice) in ast.literal_eval(node.value).items():
                        self.sections[code] = (why, advice, None)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.named[node.name] = node
                functions.append(node)
        for function in functions:
            for decorator in function.decorator_list:
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "example":
                    self._add(function, decorator)

    def _add(self, function: ast.FunctionDef, decorator: ast.Call) -> None:
        why, advice = inspect.cleandoc(ast.get_docstring(function)).split("\n\n")
        shown = next((ast.literal_eval(k.value) for k in decorator.keywords if k.arg == "shows"), ())
        before = [self._source(self.named[name]) for name in shown]
        parts = ["\n".join(part) for part in self._grouped(before)]
        header = self.lines[function.lineno - 1]
        body = self.lines[function.body[1].lineno - 1 : function.end_lineno]
        parts.append("\n".join(["@framejit.compile", header, *body]))
        self.sections[ast.literal_eval(decorator.args[0])] = (why, advice, "\n\n".join(parts))

    @staticmethod
    def _grouped(sources: list[list[str]]) -> list[list[str]]:
        """Assignments stand together, functions alone."""
        groups = []
        for source in sources:
            if groups and len(source) == 1 and len(groups[-1][-1].split("\n")) == 1:
                groups[-1] += source
            else:
                groups.append(list(source))
        return groups

    def _source(self, node: ast.stmt) -> list[str]:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        return self.lines[first - 1 : node.end_lineno]


def paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def page() -> str:
    examples = Examples(EXAMPLES.read_text())
    table = TABLE.read_text()
    rows = ROW.findall(table)
    if len(rows) != len(re.findall(r"^BREAK\(", table, re.MULTILINE)):
        raise ValueError(f"{TABLE}: a row that this script cannot read")
    codes = [row[0] for row in rows]
    if sorted(codes) != sorted(examples.sections):
        raise ValueError(f"rows and examples differ: {sorted(set(codes) ^ set(examples.sections))}")
    lines = [INTRODUCTION + "\n".join(f"- [{code}](#{code.lower()}): {message}" for code, _, message, _ in rows), ""]
    for code, kind, message, hint in rows:
        why, advice, source = examples.sections[code]
        lines += [f"## {code}", "", f"*{message}* ({CLASSES[kind]})", "", paragraph(why), ""]
        if source is not None:
            lines += ["```python", source, "```", ""]
        lines += [paragraph(f"**What to do.** {advice}"), ""]
        if hint:
            lines += [f"The message's hint: {hint}.", ""]
    return "\n".join(lines[:-1]) + "\n"


def main() -> int:
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        print(f"{PAGE.relative_to(ROOT)} is not up to date: run python tools/breaks_page.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
