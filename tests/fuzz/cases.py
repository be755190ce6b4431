"""Programs for the mutation tests: functions that read the fuzzer's world in many ways, and layers of torch.nn."""

from __future__ import annotations

import ast

from tests.fuzz.world import WORLD

SETUP = WORLD.format(n0=1, n1=3, flag=True, mode="add", eval=".eval()") + "\nQ1 = collections.deque([1, 2])\n"

# One function for each case; what it is called with stands where defaults do, up to a `/` if there is one.
FUNCTIONS = """
def globals(x=T(2, 3)):
    return x * N0 + N1 if FLAG else x + W0

def module_attributes(x=T(3)):
    return x * user.gain + NS.scale - NS.inner.shift * math.pi

def lists(x=T(3)):
    return [v * len(LT0) for v in LT0], sum(LN0), LN0[-1] * x

def dicts(x=T(3)):
    return {k: v + x for k, v in DT0.items()}, DN0["a"], DN0.get("zz", 1), "b" in DN0

def other_containers(x=T(3)):
    return x * sum(S0) + Q0[0] + Q0.maxlen, (3 in S0), list(OD0), P0.x * P0.y, len(Q0)

def object(x=T(3), y=B0):
    return y(x), y.double, y.kind, isinstance(y, Derived), len(y), (y + x), hasattr(y, "extra")

def derived(x=T(2, 3), y=B1):
    return y(x), y.virtual, y.factor, Base.shift(x), type(y) is Derived

def slots(x=T(3)):
    return S1.a * x + S1.b

def dataclass(x=T(3)):
    return x * CFG.width if CFG.use and CFG.name == "c" else x, len(CFG.extra)

def enum_and_match(x=T(3), y=Mode.ADD):
    return pick(x, y), pick(x, MODE), pick(x, {"scale": N1, "q": 1})

def closure(x=T(3)):
    return step(x), cached(x), scaled(x), variadic(x, x, key=2, b=3)

def generators(x=T(3)):
    return x * sum(gen(LN0)), [v for v in outer(LT0)]

def module(x=T(2, 3), y=2):
    return M0(x) * y

def module_in_training(x=T(2, 3)):
    return M0.train()(x)

def parameters(x=T(3)):
    return sum(p.sum() for p in M0.parameters()) + M0.seen + len(list(M0.children()))

def gradients(x=T(2, 3, grad=True)):
    loss = (x * W0).sum()
    loss.backward()
    return loss.detach(), x.grad

def arguments(x=T(2, 3), y=[T(3), W1, T(2, 3, seed=9)]):
    return [v + 1 for v in y], x.shape, x.dtype

def argument_dict(x=T(3), y={'a': T(3), 'n': 2, 'z': None}):
    return y["a"] * y["n"], list(y), x.requires_grad

def defaults(x=T(3), /, n=2, *, m=3):
    return x * n + m

def identities(x=T(3), y=B0):
    return (x is W1), (y is B0), (B2 is B0), (NOTHING is None), (W0 is x), x + 1

def writes(x=T(3), y=B0):
    x.add_(1)
    LT0.append(x)
    y.count += 1
    DN0["new"] = y.scale
    return x * W1

def writes_deque_and_set(x=T(3)):
    Q0.append(N0)
    Q1[0] = N1
    S0.add(N1)
    OD0["w"] = 1
    LN0[0] = N1
    del DN0["a"]
    return x + 1

def clears_dict(x=T(3)):
    OD0.clear()
    OD0["w"] = N0
    return x + N1

def writes_attributes(x=T(3), y=B0):
    y.extra = x + 1
    del y.items
    B1.scale = N1
    reset(N1)
    return x * 2

def writes_globals(x=T(3)):
    global N0
    N0 = N0 + N1
    LOG.append(N0)
    return x * N0

def aliases(x=T(3), y=T(3, seed=2)):
    x[0] = 5.0
    y.mul_(2)
    return x + y

def written_views(x=T(3)):
    x[1:].mul_(2)
    return x[1:], x.view(3, 1)

def offsets(x=T(3)):
    return x.as_strided((2,), (1,), 1), x.storage_offset()

def layouts(x=T(2, 3)):
    x.t_()
    return x * 2

def overlapping_operands(x=T(3, 3)):
    try:
        x.add_(x.t())
    except RuntimeError:
        return x + 1
    return x

def container_aliases(x=[1, 2], y=[1, 2]):
    x.append(N0)
    return W1 * len(y), y

def object_aliases(x=Base(1, T(3)), y=Base(1, T(3))):
    x.scale = N1
    return W1 * y.scale

def handlers(x=T(3)):
    try:
        return DN0["gone"] * x
    except KeyError as e:
        LOG.append(e.args)
    with logged("a"), Counted(FLAG) as c:
        x = x + 1
    return x, c

def broken(x=T(3)):
    print(N1)
    z = x * N0
    print(FLAG)
    return z + N1, LN0

def broken_list(x=T(3)):
    return [v + len(LOG) for v in LT0 if print(N0) is None]

def state(x=T(3, grad=True)):
    with torch.no_grad():
        z = x * W0
    return z, x + 1, torch.is_grad_enabled(), torch.zeros(2)

def set_state(x=T(3, grad=True)):
    torch.set_grad_enabled(not FLAG)
    torch.set_default_dtype(torch.float64)
    return x * 2, torch.zeros(2)

def random(x=T(3)):
    return x + torch.rand(3) if FLAG else F.dropout(x, 0.5)

def builtins(x=T(3)):
    return len(LT0) * x + max(N0, N1) + abs(N0) + float(N1), isinstance(x, torch.Tensor)

def missing_names(x=T(3)):
    try:
        return x * absent
    except NameError:
        return x + 1, hasattr(user, "more"), getattr(NS, "more", 1), "more" in DT0
"""

# How a layer is made, and called.
LAYERS = """
Linear(3, 4)(T(2, 3))
LayerNorm(3)(T(2, 3))
BatchNorm1d(3)(T(4, 3))
Dropout(0.5)(T(2, 3))
Conv1d(3, 2, 2, padding=1)(T(2, 3, 5))
Embedding(5, 3, padding_idx=0)(torch.tensor([0, 1, 4]))
GRU(3, 4)(T(2, 1, 3))
MultiheadAttention(4, 2)(T(2, 1, 4), T(2, 1, 4), T(2, 1, 4))
TransformerEncoderLayer(4, 2, 8)(T(2, 1, 4))
Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Softmax(-1))(T(2, 3))
CrossEntropyLoss(label_smoothing=0.1)(T(2, 3), torch.tensor([0, 2]))
"""


def all_cases():
    """(name, setup, arguments)"""
    for function in ast.parse(FUNCTIONS).body:
        count = len(function.args.posonlyargs) or len(function.args.args)
        arguments = [ast.unparse(value) for value in function.args.defaults[:count]]
        name, function.name = function.name, "f"
        function.args.defaults = function.args.defaults[count:]
        yield name, f"{SETUP}\n{ast.unparse(function)}\n", arguments
    for statement in ast.parse(LAYERS).body:
        layer, arguments = statement.value.func, [ast.unparse(value) for value in statement.value.args]
        setup = f"torch.manual_seed(0)\nM = torch.nn.{ast.unparse(layer)}\n\ndef f(*args):\n    return M(*args)\n"
        yield layer.func.id, setup, arguments
