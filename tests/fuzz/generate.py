"""Random programs from seeds. Source text, so that a failing program can be read, shrunk and kept."""

from __future__ import annotations

import random

from tests.fuzz.program import Program

# What the programs' module holds besides `f`: names by kind. T: tensor, N: number, LT / LN: list of tensors / numbers,
# DT / DN: dict by text, S: set of numbers, Q: deque of numbers, O: object, C: callable from a tensor to a tensor.
WORLD = """\
W0 = T(2, 3, seed=1)
W1 = T(3, seed=2)
N0 = {n0}
N1 = {n1}
FLAG = {flag}
MODE = {mode!r}
NOTHING = None
LT0 = [T(2, 3, seed=3), T(3, seed=4)]
LN0 = [1, 2.5, 3]
DT0 = {{"a": T(2, 3, seed=5), "b": T(3, seed=6)}}
DN0 = {{"a": 2, "b": 0.5}}
S0 = {{1, 2}}
Q0 = collections.deque([1, 2], maxlen=4)
OD0 = collections.OrderedDict(x=1, y=2)
NS = types.SimpleNamespace(scale=2.0, inner=types.SimpleNamespace(shift=1))
user = types.ModuleType("user")
user.gain = 3
Point = collections.namedtuple("Point", "x y")
P0 = Point(1.5, T(3, seed=7))

class Mode(enum.Enum):
    ADD = 1
    MUL = 2

class Base:
    kind = "base"
    factor = 2
    def __init__(self, scale, weight):
        self.scale = scale
        self.weight = weight
        self.count = 0
        self.items = []
    def forward(self, x):
        self.count += 1
        return x * self.scale + self.weight
    def __call__(self, x):
        return self.forward(x) * self.factor
    @property
    def double(self):
        return self.scale * 2
    @classmethod
    def make(cls, scale):
        return cls(scale, T_ONE)
    @staticmethod
    def shift(x):
        return x + 1
    def __add__(self, other):
        return self.weight + (other.weight if isinstance(other, Base) else other)
    def __len__(self):
        return len(self.items)
    def __contains__(self, item):
        return item in self.items
    def __getitem__(self, index):
        return self.items[index]

class Derived(Base):
    kind = "derived"
    def forward(self, x):
        return super().forward(x) - 1
    def __getattr__(self, name):
        if name == "virtual":
            return self.scale + 1
        raise AttributeError(name)

class Slotted:
    __slots__ = ("a", "b")
    def __init__(self, a, b):
        self.a, self.b = a, b

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        self.drop = torch.nn.Dropout(0.5)
        self.norm = torch.nn.LayerNorm(3)
        self.register_buffer("seen", torch.zeros(3))
        self.gain = 2.0
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(3, 3)])
    def forward(self, x):
        if self.training:
            self.seen += 1
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.drop(self.norm(self.linear(x))) * self.gain

@dataclasses.dataclass
class Config:
    width: int = 3
    name: str = "c"
    use: bool = True
    extra: list = dataclasses.field(default_factory=list)

@contextlib.contextmanager
def logged(name):
    LOG.append("enter " + name)
    try:
        yield len(LOG)
    finally:
        LOG.append("leave " + name)

class Counted:
    def __init__(self, swallow=False):
        self.swallow = swallow
        self.entered = 0
    def __enter__(self):
        self.entered += 1
        return self
    def __exit__(self, kind, error, trace):
        LOG.append(kind.__name__ if kind else "none")
        return self.swallow

class Oops(Exception):
    pass

T_ONE = T(3, seed=8)
B0 = Base(2.0, T(3, seed=9))
B1 = Derived(3, T(2, 3, seed=10))
B2 = B0
S1 = Slotted(2, T(3, seed=11))
torch.manual_seed(3)
M0 = Net(){eval}
CFG = Config()

def gen(items):
    for item in items:
        received = yield item * 2
        if received:
            LOG.append(received)
    return "done"

def outer(items):
    result = yield from gen(items)
    LOG.append(result)

def make_counter(start):
    count = start
    def step(x, by=1):
        nonlocal count
        count += by
        return x + count
    def reset(value):
        nonlocal count
        count = value
    return step, reset

step, reset = make_counter(1)
scaled = functools.partial(torch.mul, W1)
cached = lambda x, k=2: x * k + N0

def variadic(x, *args, key=1, **kwargs):
    total = x * key
    for a in args:
        total = total + a
    for name, value in kwargs.items():
        LOG.append(name)
        total = total * value
    return total

def recurse(x, depth):
    return x if depth <= 0 else recurse(x * 0.5, depth - 1) + 1

def pick(x, mode):
    match mode:
        case "add":
            return x + 1
        case ("mul", k):
            return x * k
        case {{"scale": s, **rest}}:
            return x * s + len(rest)
        case Mode.ADD:
            return x - 1
        case Base(scale=k) if k:
            return x * k
        case None:
            return x
        case _:
            return -x
"""

PARAMETERS = {
    "T": ["T(2, 3, seed={s})", "T(3, seed={s})", "T(2, 3, seed={s}, dtype=torch.float64)", "T(1, 3, seed={s})",
          "T(2, 3, seed={s}, dtype=torch.int64)", "T(2, 3, seed={s}, grad=True)", "T(3, 2, seed={s}).t()",
          "W0", "W1", "T(4, 3, seed={s})[::2]", "LT0[0]", "B0.weight"],
    "N": ["1", "2", "0", "-1", "True", "False", "1.5", "0.0", "-0.0", "3", "float('nan')", "N0"],
    "LT": ["[T(2, 3, seed={s})]", "[T(2, 3, seed={s}), T(3)]", "LT0", "[W0, W0]", "[W0, T(2, 3, seed={s})]", "[]"],
    "LN": ["[1, 2]", "[3, 1, 2]", "LN0", "[]", "[0.5]", "(1, 2)"],
    "DT": ["{{'a': T(2, 3, seed={s}), 'b': W1}}", "DT0", "{{'b': T(3), 'a': W0}}", "{{'a': W0, 'b': W0}}"],
    "DN": ["{{'a': 1, 'b': 2}}", "DN0", "{{'b': 2, 'a': 1}}", "{{'a': 1.5, 'b': True, 'c': 3}}", "OD0"],
    "O": ["B0", "B1", "Base(1, T(3, seed={s}))", "Derived(2.5, W0)", "B2"],
    "C": ["cached", "step", "scaled", "torch.relu", "B0", "M0", "lambda x: x - 1", "B1.forward", "Base.shift",
          "F.gelu"],
    "X": ["None", "'add'", "('mul', 2)", "{{'scale': 2, 'z': 0}}", "Mode.ADD", "Mode.MUL", "B0", "'none'", "CFG", "S1",
          "P0", "W1", "torch.float64", "torch.Size([2, 3])", "slice(0, 1)", "range(3)", "frozenset({{1, 2}})", "NS"],
}  # fmt: skip


class Scope:
    """The names that expressions may use, by kind."""

    def __init__(self, names: dict[str, list[str]]):
        self.names = {kind: list(values) for kind, values in names.items()}

    def copy(self) -> Scope:
        return Scope(self.names)

    def add(self, kind: str, name: str) -> None:
        if name not in self.names.setdefault(kind, []):
            self.names[kind].append(name)


GLOBALS = {
    "T": ["W0", "W1", "LT0[0]", "DT0['a']", "B0.weight", "P0.y", "M0.seen"],
    "N": ["N0", "N1", "NS.scale", "NS.inner.shift", "user.gain", "B0.scale", "B0.count", "B1.scale", "Base.factor",
          "CFG.width", "DN0['a']", "LN0[0]", "P0.x", "S1.a", "len(LT0)", "len(Q0)", "M0.gain", "FLAG", "B0.double",
          "B1.virtual", "OD0['x']", "len(S0)", "len(B0)", "Q0[0]", "M0.training", "math.pi", "len(LOG)"],
    "LT": ["LT0"],
    "LN": ["LN0", "Q0"],
    "DT": ["DT0"],
    "DN": ["DN0", "OD0"],
    "O": ["B0", "B1", "B2"],
    "C": ["cached", "step", "scaled", "B0", "M0", "torch.relu", "torch.tanh", "Base.shift", "B1.forward"],
    "X": ["MODE", "NOTHING", "CFG", "Mode.ADD"],
}  # fmt: skip


UNARY = [
    "sin()", "abs()", "tanh()", "relu()", "neg()", "float()", "clone()", "detach()", "double()", "contiguous()",
    "exp()",
]  # fmt: skip
REDUCTIONS = [
    "sum(-1, keepdim=True)", "mean()", "sum()", "amax()", "softmax(-1)", "cumsum(-1)", "flip(-1)", "sort(-1)[0]",
    "max(-1).values",
]  # fmt: skip
VIEWS = [
    "unsqueeze(0)", "view(-1)", "reshape(-1)", "expand(2, 3)", "view_as(W0)", "squeeze()", "T", "flatten()",
    "select(-1, 0)", "narrow(-1, 0, 1)",
]  # fmt: skip
PROPERTIES = [
    "shape[-1]", "dim()", "numel()", "size(-1)", "stride(-1)", "requires_grad", "is_contiguous()", "element_size()",
]  # fmt: skip
CLASSES = [
    "Base", "Derived", "int", "(str, tuple)", "torch.Tensor", "float",
]  # fmt: skip


class Generator:
    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.counter = 0

    # --- choosing ---------------------------------------------------------------------------------------------------

    def one(self, options):
        return options[self.rng.randrange(len(options))]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def fresh(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    # --- expressions ------------------------------------------------------------------------------------------------

    def name(self, scope: Scope, kind: str) -> str:
        own = scope.names.get(kind, [])
        if own and (kind not in GLOBALS or self.chance(0.65)):
            return self.one(own)
        return self.one(GLOBALS[kind])

    def tensor(self, scope: Scope, depth: int = 2) -> str:
        if depth <= 0 or self.chance(0.2):
            return self.name(scope, "T")
        t = lambda: self.tensor(scope, depth - 1)
        n = lambda: self.number(scope, depth - 1)
        return self.one([
            lambda: f"({t()} {self.one('+-*')} {t()})",
            lambda: f"({t()} {self.one(['+', '-', '*', '/'])} {n()})",
            lambda: f"({n()} {self.one('+-*')} {t()})",
            lambda: f"{t()}.{self.one(UNARY)}",
            lambda: f"{t()}.{self.one(REDUCTIONS)}",
            lambda: f"torch.{self.one(['sigmoid', 'relu', 'tanh', 'ones_like', 'zeros_like', 'square'])}({t()})",
            lambda: f"{t()}[..., :{self.one(['1', '2', 'None', '-1'])}]",
            lambda: f"{t()}[..., {self.one(['0', '-1', 'None'])}]",
            lambda: f"{t()}.{self.one(VIEWS)}",
            lambda: f"torch.where({t()} > {n()}, {t()}, {t()})",
            lambda: f"torch.cat([{t()}, {t()}], -1)",
            lambda: f"torch.stack([{t()}, {t()}])",
            lambda: f"{self.name(scope, 'C')}({t()})",
            lambda: f"F.linear({t()}, M0.linear.weight)",
            lambda: f"variadic({t()}, {t()}, *{self.name(scope, 'LT')}, key={n()}, **{self.name(scope, 'DN')})",
            lambda: f"recurse({t()}, {self.one(['1', '2', 'N0'])})",
            lambda: f"pick({t()}, {self.name(scope, 'X')})",
            lambda: f"step({t()}, {n()})",
            lambda: f"({self.name(scope, 'O')} + {self.one([t, n])()})",
            lambda: f"{self.name(scope, 'O')}({t()})",
            lambda: f"{self.name(scope, 'O')}.{self.one(['forward', 'shift'])}({t()})",
            lambda: f"({t()} if {self.condition(scope)} else {t()})",
            lambda: f"sum({self.name(scope, 'LT')}, {t()})",
            lambda: f"{self.name(scope, 'DT')}[{self.one(chr(97) + chr(98))!r}]",
            lambda: f"{self.name(scope, 'DT')}.get({self.one('abc')!r}, {t()})",
            lambda: f"functools.reduce(lambda a, b: a + b, {self.name(scope, 'LT')}, {t()})",
            lambda: f"torch.tensor([{n()}, 1.0, 2.0])",
            lambda: f"torch.full((3,), float({n()}))",
            lambda: f"getattr({t()}, {self.one(['sin', 'abs'])!r})()",
            lambda: f"(lambda a, b={n()}: a * b)({t()})",
            lambda: f"{t()}.to({self.one(['torch.float64', 'torch.float32', 'W1', 'W0.dtype'])})",
            lambda: "torch.rand(3)",
        ])()  # fmt: skip

    def number(self, scope: Scope, depth: int = 1) -> str:
        if self.chance(0.25):
            return self.one(["1", "2", "0.5", "-1", "3", "0"])
        if depth <= 0 or self.chance(0.4):
            return self.name(scope, "N")
        n = lambda: self.number(scope, depth - 1)
        return self.one([
            lambda: f"({n()} {self.one(['+', '-', '*'])} {n()})",
            lambda: f"{self.one(['abs', 'int', 'float', 'bool', 'round'])}({n()})",
            lambda: f"{self.one(['min', 'max'])}({n()}, {n()})",
            lambda: f"{self.tensor(scope, 0)}.{self.one(PROPERTIES)}",
            lambda: f"len({self.name(scope, self.one(['LT', 'LN', 'DT', 'DN']))})",
            lambda: f"sum({self.name(scope, 'LN')})",
            lambda: f"({n()} if {self.condition(scope)} else {n()})",
            lambda: f"getattr({self.name(scope, 'O')}, {self.one(['scale', 'count', 'missing', 'factor'])!r}, {n()})",
            lambda: f"{self.name(scope, 'DN')}.get({self.one('abcx')!r}, {n()})",
            lambda: f"sum(v for v in {self.name(scope, 'LN')} if v > {n()})",
            lambda: f"len([k for k, v in {self.name(scope, 'DN')}.items() if v])",
            lambda: f"math.{self.one(['floor', 'ceil', 'sqrt'])}(abs({n()}))",
            lambda: f"len({self.text(scope)})",
            lambda: f"sum(gen({self.name(scope, 'LN')}))",
            lambda: f"(q := {n()}) * q",
            lambda: f"dict(zip('abc', {self.name(scope, 'LN')})).get('a', 1)",
            lambda: f"max({self.name(scope, 'LN')}, key=lambda v: -v, default=0)",
        ])()  # fmt: skip

    def condition(self, scope: Scope) -> str:
        n = lambda: self.number(scope, 0)
        return self.one([
            lambda: f"{n()} {self.one(['>', '<', '==', '!=', '>='])} {n()}",
            lambda: n(),
            lambda: f"not {n()}",
            lambda: f"{self.name(scope, 'X')} is {self.one(['', 'not '])}None",
            lambda: f"{self.name(scope, 'O')} is {self.name(scope, 'O')}",
            lambda: f"{self.tensor(scope, 0)} is {self.tensor(scope, 0)}",
            lambda: f"isinstance({self.name(scope, self.one(['X', 'O', 'N', 'T']))}, {self.one(CLASSES)})",
            lambda: f"{n()} in {self.one(['S0', 'LN0', self.name(scope, 'LN'), 'Q0', 'B0'])}",
            lambda: f"{self.one('abcz')!r} in {self.name(scope, self.one(['DN', 'DT']))}",
            lambda: f"hasattr({self.name(scope, 'O')}, {self.one(['extra', 'scale', 'virtual'])!r})",
            lambda: f"MODE == {self.one(['add', 'mul'])!r}",
            lambda: f"{self.name(scope, 'LT')}",
            lambda: f"{self.tensor(scope, 0)}.shape == {self.tensor(scope, 0)}.shape",
            lambda: f"{self.tensor(scope, 0)}.dtype is torch.float32",
            lambda: f"({self.condition(scope)} and {self.condition(scope)})" if self.chance(0.5) else "FLAG",
            lambda: "torch.is_grad_enabled()",
            lambda: f"any(v > 1 for v in {self.name(scope, 'LN')})",
            lambda: f"{self.tensor(scope, 0)}.sum() > 0" if self.chance(0.3) else "M0.training",
            lambda: f"callable({self.name(scope, self.one(['C', 'X']))})",
            lambda: f"type({self.name(scope, 'O')}) is Base",
            lambda: "CFG == Config()",
            lambda: f"{self.name(scope, 'O')}.kind == 'base'",
        ])()  # fmt: skip

    def text(self, scope: Scope) -> str:
        return self.one([
            lambda: "MODE",
            lambda: f'f"{{{self.name(scope, "N")}}}"',
            lambda: f'f"{{{self.name(scope, "N")}:.2f}}-{{MODE}}"',
            lambda: f"str({self.name(scope, 'N')})",
            lambda: f"{self.name(scope, 'O')}.kind",
            lambda: "MODE.upper()",
            lambda: "'-'.join(sorted(DN0))",
            lambda: "'%s/%d' % (MODE, len(LT0))",
        ])()  # fmt: skip

    def any(self, scope: Scope, depth: int = 2) -> str:
        """What may be returned or stored: a structure of what there is."""
        if depth <= 0 or self.chance(0.45):
            return self.tensor(scope, 1)
        a = lambda: self.any(scope, depth - 1)
        return self.one([
            lambda: f"[{a()}, {a()}]",
            lambda: f"({a()}, {self.number(scope)})",
            lambda: f"{{'r': {a()}, 's': {self.number(scope)}}}",
            lambda: self.number(scope),
            lambda: self.text(scope),
            lambda: self.name(scope, self.one(["LT", "DT", "O", "LN", "X"])),
            lambda: f"Base({self.number(scope)}, {self.tensor(scope, 1)})",
            lambda: f"Point({self.number(scope)}, {a()})",
            lambda: f"[v + 1 for v in {self.name(scope, 'LT')}]",
            lambda: f"{{k: v * 2 for k, v in {self.name(scope, 'DT')}.items()}}",
            lambda: f"tuple({self.name(scope, 'LT')})",
            lambda: f"{self.tensor(scope, 1)}.shape",
            lambda: f"(lambda y, k={self.number(scope)}: y + k)",
            lambda: f"functools.partial(cached, k={self.number(scope)})" if self.chance(0.3) else "None",
            lambda: f"{{{self.number(scope)}, 2}}",
            lambda: f"collections.deque([{a()}], maxlen=3)",
            lambda: f"Config(width={self.number(scope)}, extra=[{a()}])",
            lambda: f"list(zip({self.name(scope, 'LT')}, {self.name(scope, 'LN')}))",
            lambda: f"sorted({self.name(scope, 'LN')}, reverse=FLAG)",
            lambda: f"Slotted({a()}, {self.number(scope)})",
            lambda: f"slice({self.number(scope)}, None)",
            lambda: f"torch.split({self.tensor(scope, 1)}, 1)",
            lambda: f"copy.copy({self.name(scope, self.one(['LT', 'DN', 'O']))})",
        ])()  # fmt: skip

    # --- statements -------------------------------------------------------------------------------------------------

    def block(self, scope: Scope, depth: int, count: int, loop: bool = False) -> list[str]:
        lines = []
        for _ in range(count):
            lines += self.statement(scope, depth, loop)
        return lines or ["pass"]

    def indented(self, lines: list[str]) -> list[str]:
        return ["    " + line for line in lines]

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
            kind, value = self.one([
                ("LT", f"[{self.tensor(scope, 1)}, {self.tensor(scope, 0)}]"),
                ("DT", f"{{'a': {self.tensor(scope, 1)}, 'b': {self.tensor(scope, 0)}}}"),
                ("LN", f"[{self.number(scope)}, {self.number(scope)}]"),
                ("DN", f"{{'a': {self.number(scope)}, 'b': 2}}"),
                ("O", f"{self.one(['Base', 'Derived'])}({self.number(scope)}, {self.tensor(scope, 0)})"),
                ("LT", f"list({self.name(scope, 'LT')})"),
                ("DN", f"dict({self.name(scope, 'DN')})"),
                ("O", self.name(scope, "O")),
                ("LT", self.name(scope, "LT")),
            ])  # fmt: skip
            name = self.fresh(kind.lower())
        lines = [f"{name} = {value}"]
        scope.add(kind, name)
        return lines

    def update(self, scope: Scope) -> list[str]:
        return self.one([
            lambda: f"global N0; N0 = {self.number(scope)}",
            lambda: f"global N1; N1 = {self.number(scope)}",
            lambda: f"reset({self.number(scope)})",
            lambda: f"NS.inner.shift = {self.number(scope)}",
            lambda: f"user.gain = {self.number(scope)}",
            lambda: f"Base.factor = {self.number(scope)}" if self.chance(0.3) else f"S1.a = {self.number(scope)}",
            lambda: f"S1.b = {self.tensor(scope, 1)}",
            lambda: f"CFG.width = {self.number(scope)}",
            lambda: f"torch.set_grad_enabled({self.one(['True', 'False'])})" if self.chance(0.2) else "pass",
            lambda: f"print({self.number(scope)})" if self.chance(0.2) else "pass",
        ])().split("; ")  # fmt: skip

    def write_tensor(self, scope: Scope) -> list[str]:
        target = self.name(scope, "T")
        t = lambda: self.tensor(scope, 1)
        n = lambda: self.number(scope)
        return [self.one([
            lambda: f"{target}.{self.one(['add_', 'mul_', 'sub_'])}({n()})",
            lambda: f"{target}.add_({t()})",
            lambda: f"{target}[..., 0] = {n()}",
            lambda: f"{target}[..., :1] = {t()}",
            lambda: f"{target}.{self.one(['zero_()', 'sin_()', 'clamp_(0, 1)', 'neg_()', 'relu_()', 'fill_(2)'])}",
            lambda: f"{target}.copy_({t()})",
            lambda: f"{target}[..., -1].mul_({n()})",
            lambda: f"{target}.view(-1)[0] = {n()}",
            lambda: f"torch.add({t()}, 1, out={target})",
            lambda: f"{target}.requires_grad_()" if self.chance(0.2) else f"{target}.detach().add_(1)",
            lambda: f"{target}.data = {t()}" if self.chance(0.1) else f"{target}.mul_(2)",
            lambda: f"{target}.t_()" if self.chance(0.1) else f"{target}.add_({target})",
        ])()]  # fmt: skip

    def container(self, scope: Scope) -> list[str]:
        lt, ln, dt, dn = (self.name(scope, kind) for kind in ("LT", "LN", "DT", "DN"))
        t = lambda: self.tensor(scope, 1)
        n = lambda: self.number(scope)
        key = self.one("abcd")
        return [self.one([
            lambda: f"{lt}.append({t()})",
            lambda: f"{lt}[0] = {t()}",
            lambda: f"{lt}.pop()",
            lambda: f"{lt}.insert(0, {t()})",
            lambda: f"{lt}.extend([{t()}])",
            lambda: f"{lt}[:] = [{t()}, {t()}]",
            lambda: f"{lt}.reverse()",
            lambda: f"{lt} += [{t()}]" if "." not in lt and lt not in GLOBALS["LT"] else f"{lt}.append({t()})",
            lambda: f"del {lt}[{self.one(['0', '-1', ':1'])}]",
            lambda: f"{ln}.append({n()})",
            lambda: f"{ln}.sort()",
            lambda: f"{ln}[-1] = {n()}",
            lambda: f"{ln}.remove({n()})",
            lambda: f"{ln}.clear()" if self.chance(0.3) else f"{ln}.append({n()})",
            lambda: f"Q0.appendleft({n()})",
            lambda: f"Q0.{self.one(['rotate(1)', 'popleft()', 'append(5)'])}",
            lambda: f"{dt}[{key!r}] = {t()}",
            lambda: f"del {dt}[{key!r}]",
            lambda: f"{dt}.pop({key!r}, None)",
            lambda: f"{dt}.update({{{key!r}: {t()}}})",
            lambda: f"{dt}.setdefault({key!r}, {t()})",
            lambda: f"{dn}[{key!r}] = {n()}",
            lambda: f"{dn}[{key!r}] += {n()}",
            lambda: f"{dn}.clear()" if self.chance(0.3) else f"{dn}.update(a={n()})",
            lambda: f"OD0.move_to_end({self.one('xy')!r})",
            lambda: f"S0.add({n()})",
            lambda: f"S0.{self.one(['discard(1)', 'clear()', 'update({3, 4})', 'remove(2)'])}",
            lambda: f"{self.name(scope, 'O')}.items.append({self.one([t, n])()})",
            lambda: f"CFG.extra.append({n()})",
        ])()]  # fmt: skip

    def attribute(self, scope: Scope) -> list[str]:
        o = self.name(scope, "O")
        return [self.one([
            lambda: f"{o}.scale = {self.number(scope)}",
            lambda: f"{o}.weight = {self.tensor(scope, 1)}",
            lambda: f"{o}.count += 1",
            lambda: f"{o}.extra = {self.any(scope, 1)}",
            lambda: f"setattr({o}, 'extra', {self.number(scope)})",
            lambda: f"del {o}.extra",
            lambda: f"{o}.items = [{self.number(scope)}]",
            lambda: f"{o}.forward = lambda x: x + {self.number(scope, 0)}" if self.chance(0.2) else f"{o}.count = 0",
            lambda: f"M0.gain = {self.number(scope)}",
            lambda: f"M0.{self.one(['train()', 'eval()'])}" if self.chance(0.3) else "M0(W1)",
            lambda: f"NS.fresh = {self.any(scope, 1)}",
            lambda: f"{o}.me = {o}" if self.chance(0.3) else f"{o}.other = {self.name(scope, 'O')}",
        ])()]  # fmt: skip

    def log(self, scope: Scope) -> list[str]:
        return [f"LOG.append({self.one([self.number, self.text, self.any, self.condition])(scope)})"]

    def unpack(self, scope: Scope) -> list[str]:
        names = [self.fresh("u") for _ in range(2)]
        line, kind = self.one([
            (f"{names[0]}, *{names[1]} = {self.name(scope, 'LN')}", "N"),
            (f"{names[0]}, {names[1]} = {self.tensor(scope, 1)}, {self.tensor(scope, 1)}", "T"),
            (f"{names[0]}, {names[1]} = {self.name(scope, 'LT')}", "T"),
            (f"{names[0]}, {names[1]} = P0", "N"),
            (f"({names[0]}, {names[1]}) = torch.unbind({self.name(scope, 'T')})[:2]", "T"),
        ])  # fmt: skip
        scope.add(kind, names[0])
        return [line]

    def branch(self, scope: Scope, depth: int, loop: bool) -> list[str]:
        lines = [f"if {self.condition(scope)}:"]
        lines += self.indented(self.block(scope.copy(), depth, self.rng.randint(1, 2), loop))
        if self.chance(0.3):
            lines += [f"elif {self.condition(scope)}:"]
            lines += self.indented(self.block(scope.copy(), depth, 1, loop))
        if self.chance(0.5):
            lines += ["else:"] + self.indented(self.block(scope.copy(), depth, 1, loop))
        return lines

    def loop(self, scope: Scope, depth: int, _) -> list[str]:
        inner = scope.copy()
        v, w = self.fresh("v"), self.fresh("w")
        head, kind = self.one([
            (f"for {v} in {self.name(scope, 'LT')}:", "T"),
            (f"for {v} in {self.name(scope, 'LN')}:", "N"),
            (f"for {v} in range({self.one(['2', '3', 'len(LT0)', 'N0', 'W1.dim()'])}):", "N"),
            (f"for {w}, {v} in {self.name(scope, 'DT')}.items():", "T"),
            (f"for {w}, {v} in enumerate({self.name(scope, 'LT')}):", "T"),
            (f"for {v}, {w} in zip({self.name(scope, 'LN')}, {self.name(scope, 'LT')}):", "N"),
            (f"for {v} in gen({self.name(scope, 'LN')}):", "N"),
            (f"for {v} in outer({self.name(scope, 'LT')}):", "T"),
            (f"for {v} in {self.name(scope, 'T')}:", "T"),
            (f"for {v} in reversed({self.name(scope, 'LN')}):", "N"),
            (f"for {v} in map(lambda y: y * 2, {self.name(scope, 'LT')}):", "T"),
            (f"for {v} in itertools.islice(itertools.count(1), {self.one(['2', 'len(LT0)'])}):", "N"),
            (f"for {v} in {self.name(scope, 'DN')}.values():", "N"),
            (f"for {v} in sorted(S0):", "N"),
            (f"for {v} in filter(None, {self.name(scope, 'LN')}):", "N"),
            (f"for {v} in M0.parameters():", "T"),
        ])  # fmt: skip
        inner.add(kind, v)
        lines = [head] + self.indented(self.block(inner, depth, self.rng.randint(1, 2), True))
        if self.chance(0.15):
            lines += ["else:"] + self.indented(self.log(scope))
        return lines

    def while_loop(self, scope: Scope, depth: int, _) -> list[str]:
        name = self.fresh("i")
        body = self.block(scope.copy(), depth, 1, True)
        return [f"{name} = 0", f"while {name} < {self.one(['2', '3', 'len(LN0)'])}:", f"    {name} += 1",
                f"    if {name} > 5:", "        break", *self.indented(body)]  # fmt: skip

    def handler(self, scope: Scope, depth: int, loop: bool) -> list[str]:
        body = self.block(scope.copy(), depth, 1, loop)
        if self.chance(0.6):
            body.append(self.one([
                f"if {self.condition(scope)}: raise Oops({self.number(scope)}, MODE)",
                "DN0['missing']",
                "LT0[99]",
                "B0.absent",
                f"assert {self.condition(scope)}, MODE",
                f"1 / {self.number(scope)}",
                "next(iter([]))",
                "int('x')",
                f"{self.tensor(scope, 1)} @ T_ONE.expand(5, 3)",
                "raise Oops from KeyError(1)",
            ]))  # fmt: skip
        lines = ["try:"] + self.indented(body)
        kinds = self.one(["Oops", "(KeyError, IndexError)", "Exception", "LookupError", "ZeroDivisionError"])
        finishing = self.chance(0.3)
        if not finishing or self.chance(0.7):
            name = self.fresh("e")
            lines += [f"except {kinds} as {name}:"]
            inner = self.block(scope.copy(), depth, 1, loop)
            inner.append(self.one([f"LOG.append({name}.args)", f"LOG.append(type({name}).__name__)",
                                   f"LOG.append(str({name}))", f"raise Oops(2) from {name}", "raise", "pass",
                                   f"LOG.append({name})"]))  # fmt: skip
            lines += self.indented(inner)
            if self.chance(0.2):
                lines += ["else:"] + self.indented(self.log(scope))
        if finishing:
            lines += ["finally:"] + self.indented(self.simple_statement(scope))
        return lines

    def simple_statement(self, scope: Scope) -> list[str]:
        return self.one([self.log, self.container, self.attribute, self.update])(scope)

    def context(self, scope: Scope, depth: int, loop: bool) -> list[str]:
        head = self.one([
            "with torch.no_grad():", "with torch.enable_grad():", "with logged('w') as size:", "with Counted() as c:",
            "with Counted(True):", "with contextlib.suppress(KeyError, Oops):", "with logged('a'), Counted():",
            "with torch.autocast('cpu', dtype=torch.bfloat16):", "with contextlib.nullcontext():",
        ])  # fmt: skip
        body = self.block(scope.copy(), depth, 1, loop)
        if self.chance(0.25):
            body.append(self.one(["raise Oops(1)", "DN0['gone']", "raise KeyError('k')"]))
        return [head] + self.indented(body)

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
        lines += self.indented(body)
        scope.add("C", name)
        return lines

    def generator(self, scope: Scope, depth: int, _) -> list[str]:
        name = self.fresh("it")
        return [f"{name} = {self.one(['gen', 'outer'])}({self.name(scope, self.one(['LT', 'LN']))})",
                self.one([f"LOG.append(next({name}, 7))", f"LOG.append(list({name}))",
                          f"next({name}, None)\nLOG.append({name}.send('sent'))", f"{name}.close()",
                          f"LOG.append(tuple({name}))"])]  # fmt: skip

    # --- whole programs ---------------------------------------------------------------------------------------------

    def program(self, seed: int) -> Program:
        kinds = [
            self.one(["T", "T", "N", "LT", "LN", "DT", "DN", "O", "C", "X"]) for _ in range(self.rng.randint(1, 4))
        ]
        kinds[0] = "T"
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
        source += f"\ndef f({', '.join(parameters)}):\n" + "\n".join(self.indented(lines)) + "\n"
        steps = self.steps(kinds, names, len(kinds) - defaults, "*" in parameters)
        backend = "auto" if seed % 4 == 3 else "interp"
        return Program(source, steps, backend, "replay" if seed % 3 == 1 else "", f"seed {seed}")

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

    def steps(self, kinds: list[str], names: list[str], required: int, keyword_only: bool) -> list[str]:
        def arguments() -> list[str]:
            given = len(kinds) if self.chance(0.6) else self.rng.randint(required, len(kinds))
            texts = []
            for index in range(given):
                text = self.argument(kinds[index] if self.chance(0.93) else self.one(list(PARAMETERS)))
                texts.append(text if index < required else f"{names[index]}={text}")
            return texts

        steps = []
        last = arguments()
        for index in range(self.rng.randint(3, 6)):
            lines = []
            if index and self.chance(0.75):
                lines += self.environment()
            if index and self.chance(0.35):
                last = arguments() if self.chance(0.5) else self.alias(last)
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

    def environment(self) -> list[str]:
        """Something in the world changes between two calls."""
        n = self.one(["1", "2", "3", "0.5", "True", "-1", "2.0", "0", "None", "'x'"])
        t = self.one(["T(2, 3, seed=30)", "T(3, seed=31)", "T(2, 3, seed=32, dtype=torch.float64)", "W1", "W0[:1]",
                      "T(3, seed=33, grad=True)", "W0.detach()"])  # fmt: skip
        return self.one([
            [f"N0 = {n}"],
            [f"N1 = {n}"],
            ["FLAG = not FLAG"],
            ["MODE = 'mul' if MODE == 'add' else 'add'"],
            [f"NOTHING = {n}"],
            [f"W0 = {t}"],
            [f"W1 = {t}"],
            ["W0.add_(1)"],
            ["W0 = W0.clone().requires_grad_()"],
            [f"LT0.append({t})"],
            ["LT0.pop()"],
            [f"LT0[0] = {t}"],
            ["LT0.reverse()"],
            ["LT0 = list(LT0)"],
            [f"LN0.append({n})"],
            [f"LN0[0] = {n}"],
            ["LN0.clear()"],
            ["LN0 = tuple(LN0)"],
            [f"DT0['a'] = {t}"],
            [f"DT0['c'] = {t}"],
            ["DT0.pop('b', None)"],
            ["DT0 = dict(reversed(DT0.items()))"],
            [f"DN0['a'] = {n}"],
            ["DN0['c'] = 1"],
            ["DN0['z'] = DN0.pop('a', 4)"],
            ["OD0.move_to_end('x')"],
            ["S0.add(3)"],
            ["S0 = {1, 3}"],
            ["S0 = frozenset(S0)"],
            ["Q0.append(9)"],
            ["Q0[0] = 7"],
            ["Q0 = collections.deque(Q0, maxlen=2)"],
            [f"NS.scale = {n}"],
            [f"NS.inner = types.SimpleNamespace(shift={n})"],
            [f"user.gain = {n}"],
            ["P0 = Point(P0.y, P0.x)"],
            [f"P0 = P0._replace(x={n})"],
            [f"B0.scale = {n}"],
            [f"B0.weight = {t}"],
            ["B0.count = 10"],
            ["B0.extra = 1"],
            ["B0.__dict__.pop('extra', None)"],
            ["B0.items.append(1)"],
            ["B0.items = [3, 1]"],
            ["B0.__class__ = Derived"],
            ["B0 = Derived(2.0, W1)"],
            ["B2 = B1"],
            ["B2 = Base(4, W1)"],
            ["B1.forward = lambda x: x * 7"],
            ["B0.factor = 5"],
            [f"Base.factor = {n}"],
            ["Derived.factor = 9"],
            ["Base.kind = 'other'"],
            ["Derived.kind = 'base'"],
            ["Base.forward = lambda self, x: x - self.scale"],
            ["Derived.forward = Base.forward"],
            ["Base.double = property(lambda self: 11)"],
            ["Base.shift = staticmethod(lambda x: x * 3)"],
            ["Base.missing = 6"],
            ["Derived.__getattr__ = lambda self, name: 12"],
            ["Base.__len__ = lambda self: 3"],
            ["Base.__add__ = lambda self, other: self.weight"],
            [f"S1.a = {n}"],
            [f"S1.b = {t}"],
            [f"CFG.width = {n}"],
            ["CFG = Config(width=5)"],
            ["CFG.use = False"],
            ["M0.train()"],
            ["M0.eval()"],
            [f"M0.gain = {n}"],
            ["M0.blocks.append(torch.nn.Linear(3, 3))"],
            ["M0.linear = torch.nn.Linear(3, 3, bias=False)"],
            ["M0.linear.weight.requires_grad_(False)"],
            ["M0.drop.p = 0.25"],
            ["M0.norm.eps = 0.5"],
            ["M0.norm.weight = None"],
            ["M0.register_forward_hook(lambda module, args, output: output + 1)"],
            ["M0.linear.register_forward_pre_hook(lambda module, args: (args[0] * 2,))"],
            ["M0.double()"],
            ["cached = lambda x, k=2: x - k"],
            ["cached.__defaults__ = (5,)"],
            ["cached.__code__ = (lambda x, k=2: x * k - 1).__code__"],
            ["step = scaled"],
            ["reset(5)"],
            ["step, reset = make_counter(7)"],
            ["scaled = functools.partial(torch.mul, T_ONE)"],
            ["scaled.keywords['out'] = None"],
            ["variadic.__kwdefaults__ = {'key': 3}"],
            ["def recurse(x, depth): return x + depth"],
            ["pick = cached"],
            ["gen = lambda items: iter(items)"],
            ["logged = lambda name: contextlib.nullcontext(3)"],
            ["Counted.__exit__ = lambda self, *error: False"],
            ["T_ONE = T(3, seed=40)"],
            ["f.__defaults__ = tuple(reversed(f.__defaults__ or ()))"],
            ["if f.__kwdefaults__: f.__kwdefaults__ = {k: 2 for k in f.__kwdefaults__}"],
            ["torch.set_grad_enabled(not torch.is_grad_enabled())"],
            ["torch.set_default_dtype(torch.float64)"],
            ["len = lambda value: 2"],
            ["float = int"],
            ["math = types.SimpleNamespace(pi=3, floor=math.floor, ceil=math.ceil, sqrt=math.sqrt)"],
            ["LOG.clear()"],
            ["LOG = []"],
            ["Oops = KeyError"],
            ["if isinstance(globals().get('result'), torch.Tensor): W1 = result"],
        ])  # fmt: skip


def make(seed: int) -> Program:
    generator = Generator(seed)
    return generator.program(seed)
