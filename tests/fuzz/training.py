"""Random programs that are trained: several results, views and writes under autograd, hooks on leaves, inside and on
results, and what may be done with the graph behind a call: backwards of some results, again, differentiated, up to
results, after writes."""

from __future__ import annotations

from tests.fuzz.choices import Choices
from tests.fuzz.program import Program

SETUP = """\
import torch.utils.checkpoint

W0 = T(2, 3, seed=1, grad=True)
W1 = T(3, seed=2, grad=True)
SCALE = 2.0

def note(name, factor=None):
    def hook(gradient):
        LOG.append((name, None if gradient is None else gradient.detach().clone()))
        return None if factor is None or gradient is None else gradient * factor
    return hook

def arrived(name):
    return lambda tensor: LOG.append((name, tensor.grad.clone()))

def tried(run):
    before = len(LOG)
    try:
        return run()
    except RuntimeError as error:
        # Hooks on results that run in front of a node that was freed are not all run by a compiled backward.
        LOG[before:] = [entry for entry in LOG[before:] if entry[0] in ("a0", "a1", "a2")] + [str(error)[:60]]

def gradient(results, inputs, **options):
    found = tried(lambda: torch.autograd.grad(sum(t.sum() for t in results), inputs, allow_unused=True, **options))
    LOG.append(None if found is None else [None if g is None else g.detach().clone() for g in found])
    return [g for g in found or () if g is not None and g.requires_grad]

class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x ** 3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x ** 2
"""

# Of tensors of the shapes (2, 3) and (3,); {t} is one, {u} another.
EXPRESSIONS = [
    "{t}.sin()", "{t}.exp()", "{t}.tanh()", "{t} * {u}", "{t} + {u}", "{t} - {u} * 2", "{t} * SCALE", "{t}.relu()",
    "{t}.sigmoid() * {u}", "torch.where({t} > 0, {t}, {u})", "{t}.cumsum(-1)", "{t}.softmax(-1)", "{t}.clamp(-1, 1)",
    "{t} / ({u}.abs() + 1)", "{t}.gather(-1, torch.zeros_like({t}, dtype=torch.int64))", "{t}.flip(-1)", "{t}.clone()",
    "torch.std_mean({t}, -1, keepdim=True)[1] + {u}", "{t}.sort(-1)[0]", "{t} ** 2", "{t}.detach() * {u}",
    "Cube.apply({t})",
    "torch.utils.checkpoint.checkpoint(lambda z: (z * 2).sin(), {t}, use_reentrant=False)",
    "{t} @ W1 * {u}", "F.dropout({t}, 0.5)",
]  # fmt: skip
VIEWS = [
    "{t}[..., 1:]",
    "{t}.view(-1)",
    "{t}[..., :1]",
    "{t}.t()",
    "{t}[None]",
    "{t}.unbind(-1)[0]",
    "{t}.chunk(2, -1)[0]",
]
WRITES = [
    "{own}.mul_(2)", "{own}.add_(1)", "{own}[..., 0] = 1", "{own}.relu_()", "{own}.sin_()", "{own}.view(-1)[0] = 2",
    "{own}.data.add_(1)", "{own}.copy_({own} * 2)", "{own}.mul_({own}.detach())", "{own}.zero_()",
]  # fmt: skip
OTHERS = [
    "with torch.no_grad(): {own}.add_(1)", "{plain}.register_hook(lambda g: g * 2)", "print(SCALE)",
    "{plain} = {plain} * 1", "{plain}.retain_grad()", "LOG.append({own}.requires_grad)",
]  # fmt: skip

LEAVES = ["T(2, 3, seed={s}, grad=True)", "T(3, seed={s}, grad=True)", "T(2, 3, seed={s})", "W0", "W1",
          "T(3, 2, seed={s}, grad=True).t()", "T(2, 3, seed={s}, grad=True) * 2"]  # fmt: skip
LEAF_HOOKS = [
    "if a{i}.requires_grad: a{i}.register_hook(note('a{i}'))",
    "if a{i}.requires_grad and a{i}.is_leaf: a{i}.register_post_accumulate_grad_hook(arrived('a{i}'))",
]
# `r` are the results that require grad, `leaves` the arguments that do.
RESULT_HOOKS = [
    "hook(r[{i} % len(r)], note('r{i}'))",
    "hook(r[{i} % len(r)], note('r{i}', 3))",
    "if not r[{i} % len(r)]._version: r[{i} % len(r)].retain_grad()",
    "for i, t in enumerate(r): hook(t, note(i))",
]
ACTIONS = [
    "tried(lambda: sum(t.sum() for t in r).backward({keep}))",
    "tried(lambda: r[{i} % len(r)].sum().backward({keep}))",
    "tried(lambda: (r[0].sum() + r[-1].sum()).backward({keep}))",
    "gradient([r[{i} % len(r)]], leaves, {keep})",
    "gradient([r[-1]], [r[0], *leaves], {keep})",
    "gradient([r[{i} % len(r)]], [r[{j} % len(r)]], {keep})",
    "tried(lambda: r[-1].sum().backward(inputs=[r[{i} % len(r)]], {keep}))",
    "tried(lambda: r[{i} % len(r)].sum().backward(inputs=[leaves[0]], {keep}))",
    "LOG.append([t.grad for t in r if t.retains_grad])",
]

# A compiled backward that is differentiated needs all inputs of the call as they were, and differentiating it frees
# nothing of the call's but the nodes of results.
DIFFERENTIATED = [
    "gradient(gradient(r, leaves, create_graph=True), leaves, retain_graph=True)",
    "gradient(gradient([r[{i} % len(r)]], leaves, create_graph=True), leaves, retain_graph=True)",
]
WRITTEN_SINCE = [
    "with torch.no_grad(): r[{i} % len(r)].add_(1)",
    "with torch.no_grad(): a{k}.mul_(2)",
    "tried(lambda: r[{i} % len(r)].mul_(2))",
]


class TrainingGenerator(Choices):
    def program(self, seed: int) -> Program:
        count = self.rng.randint(1, 3)
        names, own = [f"x{i}" for i in range(count)], []
        lines = []
        for _ in range(self.rng.randint(3, 8)):
            lines.append(self.statement(names, own))
        pool = own or names
        results = [self.one(pool) for _ in range(self.rng.randint(1, 4))]
        if self.chance(0.15):
            results.append(self.one(names))
        lines.append(f"return ({', '.join(dict.fromkeys(results))},)")
        source = SETUP + f"\ndef f({', '.join(f'x{i}' for i in range(count))}):\n"
        source += "".join(f"    {line}\n" for line in lines)
        # Behind a break what is written may be what the part in front of it needs.
        more = WRITTEN_SINCE if "print" in source else self.one([DIFFERENTIATED, WRITTEN_SINCE])
        steps = [self.step(count, ACTIONS + more) for _ in range(self.rng.randint(2, 4))]
        backend = "auto" if seed % 4 == 3 else "interp"
        return Program(source, steps, backend, ["", "replay", "shadow"][seed % 3], f"seed {seed}", tolerance=1e-5)

    def statement(self, names: list[str], own: list[str]) -> str:
        t, u = self.one(names), self.one(names)
        if not own or self.chance(0.55):
            table = EXPRESSIONS if self.chance(0.8) else VIEWS
            name = self.fresh("t" if table is EXPRESSIONS else "v")
            line = f"{name} = " + self.one(table).format(t=t, u=u)
            if table is EXPRESSIONS:  # of the shapes that expressions take
                names.append(name)
            own.append(name)
            return line
        table = WRITES if self.chance(0.6) else OTHERS
        plain = [name for name in own if name.startswith("t")] or ["x0"]
        return self.one(table).format(own=self.one(own), plain=self.one(plain))

    def step(self, count: int, actions: list[str]) -> str:
        lines = [f"a{i} = " + self.one(LEAVES).format(s=self.rng.randrange(40)) for i in range(count)]
        lines += [self.one(LEAF_HOOKS).format(i=i) for i in range(count) if self.chance(0.3)]
        arguments = ", ".join(f"a{i}" for i in range(count))
        lines += [
            f"result = call({arguments})",
            "r = [t for t in result if t.requires_grad]",
            f"leaves = [t for t in ({arguments},) if t.requires_grad]",
            "versions = [t._version for t in result]",
        ]
        behind = []
        for _ in range(self.rng.choice([0, 0, 1, 2])):
            behind.append(self.one(RESULT_HOOKS))
        for _ in range(self.rng.randint(1, 3)):
            behind.append(self.one(actions))
        lines.append("if r and leaves:")
        for text in behind:
            keep = self.one(["retain_graph=True", "retain_graph=False"])
            numbers = {name: self.rng.randrange(4) for name in "ij"}
            lines.append("    " + text.format(keep=keep, k=self.rng.randrange(count), **numbers))
        lines += ["versions += [t._version for t in result]", "del r, leaves"]
        return "\n".join(lines)
