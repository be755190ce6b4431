"""The module that random programs live in: its text, what may be passed to `f`, and how it changes between calls."""

from __future__ import annotations

# What the programs' module holds besides `f`. Names are of kinds, which the tables here and in grammar.py use.
# T: tensor, N: number, LT / LN: list of tensors / numbers, DT / DN: dict by text, O: object, C: callable from a tensor
# to a tensor, X: something else.
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

# What may be passed to `f`, by kind; {s} is a seed.
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

# What there is of each kind.
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

# What may happen to it between two calls, as templates (see grammar.py).
VALUES = ["1", "2", "3", "0.5", "True", "-1", "2.0", "0", "None", "'x'"]
REPLACEMENTS = [
    "T(2, 3, seed=30)", "T(3, seed=31)", "T(2, 3, seed=32, dtype=torch.float64)", "W1", "W0[:1]",
    "T(3, seed=33, grad=True)", "W0.detach()",
]  # fmt: skip
CHANGES = [
    "N0 = $value",
    "N1 = $value",
    "FLAG = not FLAG",
    "MODE = 'mul' if MODE == 'add' else 'add'",
    "NOTHING = $value",
    "W0 = $replacement",
    "W1 = $replacement",
    "W0.add_(1)",
    "W0 = W0.clone().requires_grad_()",
    "LT0.append($replacement)",
    "LT0.pop()",
    "LT0[0] = $replacement",
    "LT0.reverse()",
    "LT0 = list(LT0)",
    "LN0.append($value)",
    "LN0[0] = $value",
    "LN0.clear()",
    "LN0 = tuple(LN0)",
    "DT0['a'] = $replacement",
    "DT0['c'] = $replacement",
    "DT0.pop('b', None)",
    "DT0 = dict(reversed(DT0.items()))",
    "DN0['a'] = $value",
    "DN0['c'] = 1",
    "DN0['z'] = DN0.pop('a', 4)",
    "OD0.move_to_end('x')",
    "S0.add(3)",
    "S0 = {1, 3}",
    "S0 = frozenset(S0)",
    "Q0.append(9)",
    "Q0[0] = 7",
    "Q0 = collections.deque(Q0, maxlen=2)",
    "NS.scale = $value",
    "NS.inner = types.SimpleNamespace(shift=$value)",
    "user.gain = $value",
    "P0 = Point(P0.y, P0.x)",
    "P0 = P0._replace(x=$value)",
    "B0.scale = $value",
    "B0.weight = $replacement",
    "B0.count = 10",
    "B0.extra = 1",
    "B0.__dict__.pop('extra', None)",
    "B0.items.append(1)",
    "B0.items = [3, 1]",
    "B0.__class__ = Derived",
    "B0 = Derived(2.0, W1)",
    "B2 = B1",
    "B2 = Base(4, W1)",
    "B1.forward = lambda x: x * 7",
    "B0.factor = 5",
    "Base.factor = $value",
    "Derived.factor = 9",
    "Base.kind = 'other'",
    "Derived.kind = 'base'",
    "Base.forward = lambda self, x: x - self.scale",
    "Derived.forward = Base.forward",
    "Base.double = property(lambda self: 11)",
    "Base.shift = staticmethod(lambda x: x * 3)",
    "Base.missing = 6",
    "Derived.__getattr__ = lambda self, name: 12",
    "Base.__len__ = lambda self: 3",
    "Base.__add__ = lambda self, other: self.weight",
    "S1.a = $value",
    "S1.b = $replacement",
    "CFG.width = $value",
    "CFG = Config(width=5)",
    "CFG.use = False",
    "M0.train()",
    "M0.eval()",
    "M0.gain = $value",
    "M0.blocks.append(torch.nn.Linear(3, 3))",
    "M0.linear = torch.nn.Linear(3, 3, bias=False)",
    "M0.linear.weight.requires_grad_(False)",
    "M0.drop.p = 0.25",
    "M0.norm.eps = 0.5",
    "M0.norm.weight = None",
    "M0.register_forward_hook(lambda module, args, output: output + 1)",
    "M0.linear.register_forward_pre_hook(lambda module, args: (args[0] * 2,))",
    "M0.double()",
    "cached = lambda x, k=2: x - k",
    "cached.__defaults__ = (5,)",
    "cached.__code__ = (lambda x, k=2: x * k - 1).__code__",
    "step = scaled",
    "reset(5)",
    "step, reset = make_counter(7)",
    "scaled = functools.partial(torch.mul, T_ONE)",
    "scaled.keywords['out'] = None",
    "variadic.__kwdefaults__ = {'key': 3}",
    "def recurse(x, depth): return x + depth",
    "pick = cached",
    "gen = lambda items: iter(items)",
    "logged = lambda name: contextlib.nullcontext(3)",
    "Counted.__exit__ = lambda self, *error: False",
    "T_ONE = T(3, seed=40)",
    "f.__defaults__ = tuple(reversed(f.__defaults__ or ()))",
    "if f.__kwdefaults__: f.__kwdefaults__ = {k: 2 for k in f.__kwdefaults__}",
    "torch.set_grad_enabled(not torch.is_grad_enabled())",
    "torch.set_default_dtype(torch.float64)",
    "len = lambda value: 2",
    "float = int",
    "math = types.SimpleNamespace(pi=3, floor=math.floor, ceil=math.ceil, sqrt=math.sqrt)",
    "LOG.clear()",
    "LOG = []",
    "Oops = KeyError",
    "if isinstance(globals().get('result'), torch.Tensor): W1 = result",
]
