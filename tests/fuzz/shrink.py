"""Makes a failing program small: what can be left out without losing the difference is left out."""

from __future__ import annotations

import ast
import copy
import time

from tests.fuzz.program import Invalid, Program, difference


def kind_of(found: str) -> str:
    """Numbers that differ may differ in other numbers of the smaller program; an exception stays the one it was."""
    kind = found.split(":", 1)[0]
    return found.rsplit(" (step ", 1)[0] if kind == "exception" else kind


class Shrinker:
    def __init__(self, program: Program, found: str, seconds: float = 60.0):
        self.best, self.found = program, found
        self.until = time.monotonic() + seconds
        self.tries = 0

    def still(self, setup: str, steps: list[str], **changes) -> bool:
        if time.monotonic() > self.until:
            return False
        self.tries += 1
        values = {"backend": self.best.backend, "checks": self.best.checks, **changes}
        values |= {"recompile_limit": self.best.recompile_limit, "tolerance": self.best.tolerance}
        candidate = Program(setup, steps, name=self.best.name, **values)
        try:
            found = difference(candidate)
        except (Invalid, SyntaxError):
            return False
        if found is None or kind_of(found) != kind_of(self.found):
            return False
        self.best, self.found = candidate, found
        return True

    def run(self) -> tuple[Program, str]:
        self.still(self.best.setup, self.best.steps, backend="interp")
        if kind_of(self.found) != "check" and self.best.checks:
            self.still(self.best.setup, self.best.steps, checks="")
        changed = True
        while changed and time.monotonic() < self.until:
            changed = self.drop_steps() | self.reduce_setup() | self.reduce_steps()
        return self.best, self.found

    def drop_steps(self) -> bool:
        changed = False
        for index in reversed(range(len(self.best.steps))):
            steps = self.best.steps[:index] + self.best.steps[index + 1 :]
            changed |= bool(steps) and self.still(self.best.setup, steps)
        return changed

    def reduce_setup(self) -> bool:
        return self.reduce(lambda: self.best.setup, lambda text: self.still(text, self.best.steps))

    def reduce_steps(self) -> bool:
        changed = False
        for index in range(len(self.best.steps)):

            def put(text, index=index):
                steps = list(self.best.steps)
                steps[index] = text
                return self.still(self.best.setup, steps)

            changed |= self.reduce(lambda index=index: self.best.steps[index], put)
        return changed

    def reduce(self, get, put) -> bool:
        """Tries every smaller form of a source text, largest parts first."""
        changed, position = False, 0
        while time.monotonic() < self.until:
            tree = ast.parse(get())
            edits = list(smaller(tree))
            if position >= len(edits):
                return changed
            text = edits[position]()
            if text is not None and text != get() and put(text):
                changed = True
            else:
                position += 1
        return changed


def smaller(tree: ast.Module):
    """Functions that each give the source of a smaller tree, or None."""
    for node in ast.walk(tree):
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                yield from _without_statements(tree, node, name, value)
    for node in list(ast.walk(tree)):
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.expr):
                yield from _simpler_expressions(tree, node, name, value)
            if isinstance(value, list) and value and isinstance(value[0], ast.expr | ast.keyword | ast.ExceptHandler):
                for index in range(len(value)):
                    yield _edit(tree, node, name, value[:index] + value[index + 1 :])


def _edit(tree, node, name, value):
    def apply():
        old = getattr(node, name)
        setattr(node, name, value)
        try:
            return ast.unparse(ast.fix_missing_locations(copy.deepcopy(tree))) + "\n"
        except Exception:  # a tree that is none
            return None
        finally:
            setattr(node, name, old)

    return apply


def _without_statements(tree, node, name, statements):
    size = len(statements)
    while size >= 1:
        for start in range(0, len(statements), size):
            rest = statements[:start] + statements[start + size :]
            yield _edit(
                tree, node, name, rest or ([] if isinstance(node, ast.Module) or name != "body" else [ast.Pass()])
            )
        size //= 2
    for index, statement in enumerate(statements):
        inner = [s for part in ("body", "orelse", "finalbody") for s in getattr(statement, part, [])]
        if inner and not isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield _edit(tree, node, name, statements[:index] + inner + statements[index + 1 :])


def _simpler_expressions(tree, node, name, value):
    if isinstance(value, ast.Constant | ast.Name):
        return
    for child in ast.iter_child_nodes(value):
        if isinstance(child, ast.expr):
            yield _edit(tree, node, name, child)
        if isinstance(child, ast.keyword):
            yield _edit(tree, node, name, child.value)
    yield _edit(tree, node, name, ast.Constant(1))
