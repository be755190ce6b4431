"""Random programs from seeds. Source text, so that a failing program can be read, shrunk and kept.

Here is how programs are put together: blocks, scopes, calls. What they consist of is in grammar.py."""

from __future__ import annotations

import re

from tests.fuzz import grammar
from tests.fuzz.choices import Choices
from tests.fuzz.program import Program
from tests.fuzz.training import TrainingGenerator
from tests.fuzz.world import CHANGES, GLOBALS, PARAMETERS, WORLD

HOLE = re.compile(r"\$(?:\[(?P<texts>[^\]]*)\]|\((?P<kinds>[^)]*)\)|(?P<same>=?)(?P<name>[A-Za-z]+))")

# The first size of a matrix.
ROWS = re.compile(r"\bT\(\d+, (?=\d)")
# An argument that is an int, by position or by name.
INT = re.compile(r"(?:(?<=^)|(?<==))-?\d+$")


class Scope:
    """The names that expressions may use, by kind."""

    def __init__(self, names: dict[str, list[str]]):
        self.names = {kind: list(values) for kind, values in names.items()}

    def copy(self) -> Scope:
        return Scope(self.names)

    def add(self, kind: str, name: str) -> None:
        if name not in self.names.setdefault(kind, []):
            self.names[kind].append(name)


def indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


class Templates(Choices):
    """Fills in templates."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.last: dict[str, str] = {}  # by kind: the name that was chosen last

    def name(self, scope: Scope, kind: str) -> str:
        own = scope.names.get(kind, [])
        options = own if own and (kind not in GLOBALS or self.chance(0.65)) else GLOBALS[kind]
        self.last[kind] = self.one(options)
        return self.last[kind]

    def row(self, scope: Scope, table: list, depth: int = 1) -> str:
        """A row of the table, filled in with expressions of that depth."""
        row = self.one(table)
        if isinstance(row, tuple):
            probability, row, otherwise = row
            row = row if self.chance(probability) else otherwise
        return self.fill(scope, row, depth)

    def fill(self, scope: Scope, template: str, depth: int = 1) -> str:
        return HOLE.sub(lambda hole: self.filling(scope, hole, depth), template)

    def filling(self, scope: Scope, hole: re.Match, depth: int) -> str:
        if hole["texts"] is not None:
            return self.one(hole["texts"].split("|"))
        if hole["kinds"] is not None:
            return self.name(scope, self.one(hole["kinds"].split("|")))
        name = hole["name"]
        if hole["same"]:
            return self.last[name]
        if name in GLOBALS:
            return self.name(scope, name)
        expressions = {"t": self.tensor, "n": self.number, "c": self.condition, "s": self.text, "a": self.any}
        if name in expressions:
            return expressions[name](scope, depth)
        return self.row(scope, grammar.TABLES[name], depth)

    def tensor(self, scope: Scope, depth: int = 2) -> str:
        if depth <= 0 or self.chance(0.2):
            return self.name(scope, "T")
        return self.row(scope, grammar.TENSORS, depth - 1)

    def number(self, scope: Scope, depth: int = 1) -> str:
        if self.chance(0.25):
            return self.one(["1", "2", "0.5", "-1", "3", "0"])
        if depth <= 0 or self.chance(0.4):
            return self.name(scope, "N")
        return self.row(scope, grammar.NUMBERS, depth - 1)

    def condition(self, scope: Scope, _: int = 0) -> str:
        return self.row(scope, grammar.CONDITIONS, 0)

    def text(self, scope: Scope, _: int = 0) -> str:
        return self.row(scope, grammar.TEXTS)

    def any(self, scope: Scope, depth: int = 2) -> str:
        if depth <= 0 or self.chance(0.45):
            return self.tensor(scope, 1)
        return self.row(scope, grammar.STRUCTURES, depth - 1)


class Statements(Templates):
    """Statements are lists of lines."""

    def block(self, scope: Scope, depth: int, count: int, loop: bool = False) -> list[str]:
        lines = []
        for _ in range(count):
            lines += self.statement(scope, depth, loop)
        return lines or ["pass"]

    def statement(self, scope: Scope, depth: int, loop: bool) -> list[str]:
        simple = [self.assign, self.assign, self.assign, self.update, self.write_tensor, self.container, self.attribute,
                  self.log, self.container, self.unpack]  # fmt: skip
        nested = [self.branch, self.branch, self.loop, self.loop, self.handler, self.context, self.local_function,
                  self.while_loop, self.generator]  # fmt: skip
        if loop and self.chance(0.1):
            return [f"if {self.condition(scope)}:", "    " + self.one(["break", "continue"])]
        if depth > 0 and self.chance(0.35):
            return self.one(nested)(scope, depth - 1, loop)
        return self.one(simple)(scope)

    def assign(self, scope: Scope) -> list[str]:
        if self.chance(0.7):
            name, kind, value = self.fresh("t"), "T", self.tensor(scope)
        elif self.chance(0.6):
            name, kind, value = self.fresh("n"), "N", self.number(scope)
        else:
            kind, template = self.one(grammar.VALUES_OF_KINDS)
            name, value = self.fresh(kind.lower()), self.fill(scope, template)
        scope.add(kind, name)
        return [f"{name} = {value}"]

    def update(self, scope: Scope) -> list[str]:
        return self.row(scope, grammar.UPDATES).split("; ")

    def write_tensor(self, scope: Scope) -> list[str]:
        return [self.row(scope, grammar.TENSOR_WRITES)]

    def container(self, scope: Scope) -> list[str]:
        own = scope.names.get("LT")  # += makes a name a local one
        if own and self.chance(0.04):
            return [f"{self.one(own)} += [{self.tensor(scope, 1)}]"]
        return [self.row(scope, grammar.CONTAINER_WRITES)]

    def attribute(self, scope: Scope) -> list[str]:
        return [self.row(scope, grammar.ATTRIBUTE_WRITES)]

    def log(self, scope: Scope) -> list[str]:
        return [f"LOG.append({self.row(scope, grammar.LOGGED)})"]

    def unpack(self, scope: Scope) -> list[str]:
        names = [self.fresh("u") for _ in range(2)]
        kind, template = self.one(grammar.UNPACKINGS)
        line = self.fill(scope, template.format(u0=names[0], u1=names[1]))
        scope.add(kind, names[0])
        return [line]

    def simple_statement(self, scope: Scope) -> list[str]:
        return self.one([self.log, self.container, self.attribute, self.update])(scope)

    def branch(self, scope: Scope, depth: int, loop: bool) -> list[str]:
        lines = [f"if {self.condition(scope)}:"]
        lines += indented(self.block(scope.copy(), depth, self.rng.randint(1, 2), loop))
        if self.chance(0.3):
            lines += [f"elif {self.condition(scope)}:"]
            lines += indented(self.block(scope.copy(), depth, 1, loop))
        if self.chance(0.5):
            lines += ["else:"] + indented(self.block(scope.copy(), depth, 1, loop))
        return lines

    def loop(self, scope: Scope, depth: int, _) -> list[str]:
        inner = scope.copy()
        v, w = self.fresh("v"), self.fresh("w")
        kind, template = self.one(grammar.LOOPS)
        head = self.fill(scope, template.format(v=v, w=w))
        inner.add(kind, v)
        lines = [head] + indented(self.block(inner, depth, self.rng.randint(1, 2), True))
        if self.chance(0.15):
            lines += ["else:"] + indented(self.log(scope))
        return lines

    def while_loop(self, scope: Scope, depth: int, _) -> list[str]:
        name = self.fresh("i")
        body = self.block(scope.copy(), depth, 1, True)
        return [f"{name} = 0", f"while {name} < {self.one(['2', '3', 'len(LN0)'])}:", f"    {name} += 1",
                f"    if {name} > 5:", "        break", *indented(body)]  # fmt: skip

    def handler(self, scope: Scope, depth: int, loop: bool) -> list[str]:
        body = self.block(scope.copy(), depth, 1, loop)
        if self.chance(0.6):
            body.append(self.row(scope, grammar.RAISING))
        lines = ["try:"] + indented(body)
        finishing = self.chance(0.3)
        if not finishing or self.chance(0.7):
            name = self.fresh("e")
            lines += [f"except {self.one(grammar.HANDLED)} as {name}:"]
            inner = self.block(scope.copy(), depth, 1, loop)
            inner.append(self.one(grammar.HANDLERS).format(e=name))
            lines += indented(inner)
            if self.chance(0.2):
                lines += ["else:"] + indented(self.log(scope))
        if finishing:
            lines += ["finally:"] + indented(self.simple_statement(scope))
        return lines

    def context(self, scope: Scope, depth: int, loop: bool) -> list[str]:
        body = self.block(scope.copy(), depth, 1, loop)
        if self.chance(0.25):
            body.append(self.one(grammar.RAISED_INSIDE))
        return [self.one(grammar.CONTEXTS)] + indented(body)

    def local_function(self, scope: Scope, depth: int, _) -> list[str]:
        name = self.fresh("g")
        inner = scope.copy()
        inner.add("T", "y")
        lines = [f"def {name}(y, k={self.number(scope)}):"]
        body = []
        captured = [n for n in scope.names.get("N", []) if n.startswith("n") and n[1:].isdigit()]
        if captured and self.chance(0.4):
            cell = self.one(captured)
            body += [f"nonlocal {cell}", f"{cell} = {self.number(inner)}"]
        body += self.block(inner, min(depth, 1), 1)
        body += [f"return {self.tensor(inner, 1)} * k"]
        lines += indented(body)
        scope.add("C", name)
        return lines

    def generator(self, scope: Scope, depth: int, _) -> list[str]:
        name = self.fresh("it")
        return [
            f"{name} = {self.fill(scope, '$[gen|outer]($(LT|LN))')}",
            self.one(grammar.GENERATOR_USES).format(it=name),
        ]


class Generator(Statements):
    """Whole programs."""

    def program(self, seed: int) -> Program:
        kinds = ["T"] + [
            self.one(["T", "T", "N", "LT", "LN", "DT", "DN", "O", "C", "X"]) for _ in range(self.rng.randint(0, 3))
        ]
        names = [f"{kind.lower()}_{index}" for index, kind in enumerate(kinds)]
        scope = Scope({})
        for name, kind in zip(names, kinds, strict=True):
            scope.add(kind, name)
        defaults = self.rng.randint(0, len(kinds) - 1)
        parameters = []
        for index, (name, kind) in enumerate(zip(names, kinds, strict=True)):
            default = self.argument(kind) if index >= len(kinds) - defaults else None
            parameters.append(name if default is None else f"{name}={default}")
        if defaults and self.chance(0.3):
            parameters.insert(len(kinds) - defaults, "*")
        body = self.block(scope, 2, self.rng.randint(2, 6))
        body.append(f"return {self.any(scope)}")
        source = WORLD.format(
            n0=self.one([1, 2, 0.5]), n1=self.one([3, -1]), flag=self.chance(0.5), mode=self.one(["add", "mul"]),
            eval=self.one(["", ".eval()"]),
        )  # fmt: skip
        lines = [line for text in body for line in self.split(text)]
        lines = self.hoist_globals(lines)
        source += f"\ndef f({', '.join(parameters)}):\n" + "\n".join(indented(lines)) + "\n"
        steps = self.steps(kinds, names, len(kinds) - defaults)
        backend = "auto" if seed % 4 == 3 else "interp"
        return Program(source, steps, backend, ["", "replay", "shadow"][seed % 3], f"seed {seed}")

    def split(self, text: str) -> list[str]:
        indent = text[: len(text) - len(text.lstrip())]
        first, *rest = text.split("\n")
        return [first] + [indent + line for line in rest]

    def hoist_globals(self, lines: list[str]) -> list[str]:
        """A name is declared global before it is used."""
        found = sorted({line.strip() for line in lines if line.strip().startswith("global ")})
        kept = [line.replace(line.strip(), "pass") if line.strip().startswith("global ") else line for line in lines]
        return found + kept

    def argument(self, kind: str) -> str:
        return self.one(PARAMETERS[kind]).format(s=self.rng.randrange(40))

    def arguments(self, kinds: list[str], names: list[str], required: int) -> list[str]:
        given = len(kinds) if self.chance(0.6) else self.rng.randint(required, len(kinds))
        texts = []
        for index in range(given):
            text = self.argument(kinds[index] if self.chance(0.93) else self.one(list(PARAMETERS)))
            texts.append(text if index < required else f"{names[index]}={text}")
        return texts

    def steps(self, kinds: list[str], names: list[str], required: int) -> list[str]:
        steps = []
        last = self.arguments(kinds, names, required)
        # Calls of other sizes: the second makes a recording with open sizes, which serves the others.
        resizes = self.chance(0.4)
        for index in range(self.rng.randint(3, 6) + 3 * resizes):
            lines = []
            if index and self.chance(0.3 if resizes else 0.75):
                lines.append(self.row(Scope({}), CHANGES))
            if index and self.chance(0.35):
                last = self.arguments(kinds, names, required) if self.chance(0.5) else self.alias(last)
            if resizes and self.chance(0.8):
                rows = self.one([1, 2, 3, 4, 5, 7, 8])
                last = [ROWS.sub(f"T({rows}, ", text) for text in last]
                last = [INT.sub(self.one(["1", "2", "3", "4", "6", "-2"]), text) for text in last]
            variables = [f"a{i} = {text.split('=', 1)[1] if i >= required else text}" for i, text in enumerate(last)]
            passed = [f"{names[i]}=a{i}" if i >= required else f"a{i}" for i in range(len(last))]
            lines += variables + [f"result = call({', '.join(passed)})"]
            if self.chance(0.15):
                lines.append("if isinstance(result, torch.Tensor) and result.requires_grad: result.sum().backward()")
            steps.append("\n".join(lines))
        return steps

    def alias(self, last: list[str]) -> list[str]:
        """The same arguments with one that shares memory with, or is, another."""
        if len(last) < 2:
            return last
        changed = list(last)
        index = self.rng.randrange(1, len(last))
        prefix = changed[index].split("=", 1)[0] + "=" if "=" in changed[index].split("(")[0] else ""
        changed[index] = prefix + self.one(["a0", "a0[..., :]", "a0.detach()", "[a0, a0]", "a0.view(-1)"])
        return changed


# By the name that `python -m tests.fuzz --kind` takes.
KINDS = {"general": Generator, "trained": TrainingGenerator}


def make(seed: int, kind: str = "general") -> Program:
    return KINDS[kind](seed).program(seed)
