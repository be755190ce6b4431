"""Programs for the mutation tests: functions that read the fuzzer's world in many ways, and layers of torch.nn."""

from __future__ import annotations

from tests.fuzz.generate import WORLD

SETUP = WORLD.format(n0=1, n1=3, flag=True, mode="add", eval=".eval()")

# name -> (the body of f(x, y), what x and y are)
FUNCTIONS = {
    "globals": ("return x * N0 + N1 if FLAG else x + W0", "T(2, 3)", "1"),
    "module_attributes": ("return x * user.gain + NS.scale - NS.inner.shift * math.pi", "T(3)", "1"),
    "lists": ("return [v * len(LT0) for v in LT0], sum(LN0), LN0[-1] * x", "T(3)", "1"),
    "dicts": ("return {k: v + x for k, v in DT0.items()}, DN0['a'], DN0.get('zz', 1), 'b' in DN0", "T(3)", "1"),
    "other_containers": (
        "return x * sum(S0) + Q0[0] + Q0.maxlen, (3 in S0), list(OD0), P0.x * P0.y, len(Q0)", "T(3)", "1"),
    "object": ("return y(x), y.double, y.kind, isinstance(y, Derived), len(y), (y + x), hasattr(y, 'extra')",
               "T(3)", "B0"),
    "derived": ("return y(x), y.virtual, y.factor, Base.shift(x), type(y) is Derived", "T(2, 3)", "B1"),
    "slots": ("return S1.a * x + S1.b", "T(3)", "1"),
    "dataclass": ("return x * CFG.width if CFG.use and CFG.name == 'c' else x, len(CFG.extra)", "T(3)", "1"),
    "enum_and_match": ("return pick(x, y), pick(x, MODE), pick(x, {'scale': N1, 'q': 1})", "T(3)", "Mode.ADD"),
    "closure": ("return step(x), cached(x), scaled(x), variadic(x, x, key=2, b=3)", "T(3)", "1"),
    "generators": ("return x * sum(gen(LN0)), [v for v in outer(LT0)]", "T(3)", "1"),
    "module": ("return M0(x) * y", "T(2, 3)", "2"),
    "module_in_training": ("return M0.train()(x)", "T(2, 3)", "2"),
    "parameters": ("return sum(p.sum() for p in M0.parameters()) + M0.seen + len(list(M0.children()))", "T(3)", "1"),
    "arguments": ("return [v + 1 for v in y], x.shape, x.dtype", "T(2, 3)", "[T(3), W1, T(2, 3, seed=9)]"),
    "argument_dict": ("return y['a'] * y['n'], list(y), x.requires_grad", "T(3)", "{'a': T(3), 'n': 2, 'z': None}"),
    "defaults": ("return x * n + m, y", "T(3)", "1"),
    "is": ("return (x is W1), (y is B0), (B2 is B0), (NOTHING is None), (W0 is x), x + 1", "T(3)", "B0"),
    "writes": ("x.add_(1); LT0.append(x); y.count += 1; DN0['new'] = y.scale; return x * W1", "T(3)", "B0"),
    "writes_deque_and_set": ("Q0.append(N0); S0.add(N1); OD0['w'] = 1; LN0[0] = N0; del DN0['a']; return x + 1",
                             "T(3)", "1"),
    "writes_attributes": ("y.extra = x + 1; del y.items; B1.scale = N1; reset(N1); return x * 2", "T(3)", "B0"),
    "writes_globals": ("global N0; N0 = N0 + N1; LOG.append(N0); return x * N0", "T(3)", "1"),
    "aliases": ("x[0] = 5.0; y.mul_(2); return x + y", "T(3)", "T(3, seed=2)"),
    "container_aliases": ("x.append(N0); return W1 * len(y), y", "[1, 2]", "[1, 2]"),
    "object_aliases": ("x.scale = N1; return W1 * y.scale", "Base(1, T(3))", "Base(1, T(3))"),
    "handlers": ("""
    try:
        return DN0['gone'] * x
    except KeyError as e:
        LOG.append(e.args)
    with logged('a'), Counted(FLAG) as c:
        x = x + 1
    return x, c""", "T(3)", "1"),
    "break": ("print(N1); z = x * N0; print(FLAG); return z + N1, LN0", "T(3)", "1"),
    "state": ("with torch.no_grad():\n        z = x * W0\n    return z, x + 1, torch.is_grad_enabled(), torch.zeros(2)",
              "T(3, grad=True)", "1"),
    "set_state": ("torch.set_grad_enabled(FLAG); return x * 2", "T(3, grad=True)", "1"),
    "random": ("return x + torch.rand(3) if FLAG else F.dropout(x, 0.5)", "T(3)", "1"),
    "builtins": ("return len(LT0) * x + max(N0, N1) + abs(N0) + float(N1), isinstance(x, torch.Tensor)", "T(3)", "1"),
    "missing_names": ("""
    try:
        return x * absent
    except NameError:
        return x + 1, hasattr(user, 'more'), getattr(NS, 'more', 1), 'more' in DT0""", "T(3)", "1"),
}  # fmt: skip

# A layer's constructor and its arguments.
LAYERS = {
    "Linear": ("Linear(3, 4)", "T(2, 3)"),
    "LayerNorm": ("LayerNorm(3)", "T(2, 3)"),
    "BatchNorm1d": ("BatchNorm1d(3)", "T(4, 3)"),
    "Dropout": ("Dropout(0.5)", "T(2, 3)"),
    "Conv1d": ("Conv1d(3, 2, 2, padding=1)", "T(2, 3, 5)"),
    "Embedding": ("Embedding(5, 3, padding_idx=0)", "torch.tensor([0, 1, 4])"),
    "GRU": ("GRU(3, 4)", "T(2, 1, 3)"),
    "MultiheadAttention": ("MultiheadAttention(4, 2)", "T(2, 1, 4), T(2, 1, 4), T(2, 1, 4)"),
    "TransformerEncoderLayer": ("TransformerEncoderLayer(4, 2, 8)", "T(2, 1, 4)"),
    "Sequential": ("Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Softmax(-1))", "T(2, 3)"),
    "CrossEntropyLoss": ("CrossEntropyLoss(label_smoothing=0.1)", "T(2, 3), torch.tensor([0, 2])"),
}


def all_cases():
    """(name, setup, arguments)"""
    for name, (body, x, y) in FUNCTIONS.items():
        lines = body.strip().replace("; ", "\n    ")
        yield name, f"{SETUP}\ndef f(x, y, n=2, *, m=3):\n    {lines}\n", [x, y]
    for name, (constructor, arguments) in LAYERS.items():
        setup = f"torch.manual_seed(0)\nM = torch.nn.{constructor}\n\ndef f(*args):\n    return M(*args)\n"
        yield name, setup, _split(arguments)


def _split(arguments: str) -> list[str]:
    """At the commas between calls."""
    parts = arguments.replace("), T(", ")|T(").replace("), torch", ")|torch")
    return parts.split("|")
