"""What random programs are made of: tables of templates, one of which is chosen and filled in (generate.py).

In a template, `$T` is a name of the kind T (world.py) that is in scope, `$(T|N)` one of either kind, and `$=T` the
name that the last `$T` gave. `$t`, `$n`, `$c`, `$s` and `$a` are expressions: of a tensor, a number, a condition, a
text, of anything. `$[a|b]` is one of the texts, `$unary` a row of the table of that name. A row (p, a, b) is a with the
probability p, else b."""

from __future__ import annotations

from tests.fuzz.world import REPLACEMENTS, VALUES

TENSORS = [
    "($t $[+|-|*] $t)",
    "($t $[+|-|*|/] $n)",
    "($n $[+|-|*] $t)",
    "$t.$unary",
    "$t.$reduction",
    "torch.$[sigmoid|relu|tanh|ones_like|zeros_like|square]($t)",
    "$t[..., :$[1|2|None|-1]]",
    "$t[..., $[0|-1|None]]",
    "$t[:$T.shape[0] $[-|//] 2]",
    "torch.$[zeros|ones]($T.shape)",
    "$t.$[view|reshape]($T.shape[0], -1)",
    "$t.expand($T.shape)",
    "torch.arange($T.numel())",
    "torch.split($t, $T.shape[-1])[0]",
    "$t.$view",
    "torch.where($t > $n, $t, $t)",
    "torch.cat([$t, $t], -1)",
    "torch.stack([$t, $t])",
    "$C($t)",
    "F.linear($t, M0.linear.weight)",
    "variadic($t, $t, *$LT, key=$n, **$DN)",
    "recurse($t, $[1|2|N0])",
    "pick($t, $X)",
    "step($t, $n)",
    "($O + $n)",
    "($O + $t)",
    "$O($t)",
    "$O.$[forward|shift]($t)",
    "($t if $c else $t)",
    "sum($LT, $t)",
    "$DT[$['a'|'b']]",
    "$DT.get($['a'|'b'|'c'], $t)",
    "functools.reduce(lambda a, b: a + b, $LT, $t)",
    "torch.tensor([$n, 1.0, 2.0])",
    "torch.full((3,), float($n))",
    "getattr($t, $['sin'|'abs'])()",
    "(lambda a, b=$n: a * b)($t)",
    "$t.to($[torch.float64|torch.float32|W1|W0.dtype])",
    "torch.rand(3)",
]

NUMBERS = [
    "($n $[+|-|*] $n)",
    "$[abs|int|float|bool|round]($n)",
    "$[min|max]($n, $n)",
    "$T.$property",
    "len($(LT|LN|DT|DN|T))",
    "math.prod($T.shape)",
    "sum($LN)",
    "($n if $c else $n)",
    "getattr($O, $['scale'|'count'|'missing'|'factor'], $n)",
    "$DN.get($['a'|'b'|'c'|'x'], $n)",
    "sum(v for v in $LN if v > $n)",
    "len([k for k, v in $DN.items() if v])",
    "math.$[floor|ceil|sqrt](abs($n))",
    "len($s)",
    "sum(gen($LN))",
    "(q := $n) * q",
    "dict(zip('abc', $LN)).get('a', 1)",
    "max($LN, key=lambda v: -v, default=0)",
]

CONDITIONS = [
    "$n $[>|<|==|!=|>=] $n",
    "$n",
    "not $n",
    "$X is $[|not ]None",
    "$O is $O",
    "$T is $T",
    "isinstance($(X|O|N|T), $class)",
    "$n in $container",
    "$['a'|'b'|'c'|'z'] in $(DN|DT)",
    "hasattr($O, $['extra'|'scale'|'virtual'])",
    "MODE == $['add'|'mul']",
    "$LT",
    "$T.shape == $T.shape",
    "$T.shape[0] $[>|==|<] $[1|3|5|N0]",
    "$T.dtype is torch.float32",
    (0.5, "($c and $c)", "FLAG"),
    "torch.is_grad_enabled()",
    "any(v > 1 for v in $LN)",
    (0.3, "$T.sum() > 0", "M0.training"),
    "callable($(C|X))",
    "type($O) is Base",
    "CFG == Config()",
    "$O.kind == 'base'",
]

TEXTS = [
    "MODE",
    'f"{$N}"',
    'f"{$N:.2f}-{MODE}"',
    "str($N)",
    "$O.kind",
    "MODE.upper()",
    "'-'.join(sorted(DN0))",
    "'%s/%d' % (MODE, len(LT0))",
]

# What may be returned or stored: a structure of what there is.
STRUCTURES = [
    "[$a, $a]",
    "($a, $n)",
    "{'r': $a, 's': $n}",
    "$n",
    "$s",
    "$(LT|DT|O|LN|X)",
    "Base($n, $t)",
    "Point($n, $a)",
    "[v + 1 for v in $LT]",
    "{k: v * 2 for k, v in $DT.items()}",
    "tuple($LT)",
    "$t.shape",
    "(lambda y, k=$n: y + k)",
    (0.3, "functools.partial(cached, k=$n)", "None"),
    "{$n, 2}",
    "collections.deque([$a], maxlen=3)",
    "Config(width=$n, extra=[$a])",
    "list(zip($LT, $LN))",
    "sorted($LN, reverse=FLAG)",
    "Slotted($a, $n)",
    "slice($n, None)",
    "torch.split($t, 1)",
    "copy.copy($(LT|DN|O))",
]

# Assigned to a variable of the kind.
VALUES_OF_KINDS = [
    ("LT", "[$t, $T]"),
    ("DT", "{'a': $t, 'b': $T}"),
    ("LN", "[$n, $n]"),
    ("DN", "{'a': $n, 'b': 2}"),
    ("O", "$[Base|Derived]($n, $T)"),
    ("LT", "list($LT)"),
    ("DN", "dict($DN)"),
    ("O", "$O"),
    ("LT", "$LT"),
]

UPDATES = [
    "global N0; N0 = $n",
    "global N1; N1 = $n",
    "reset($n)",
    "NS.inner.shift = $n",
    "user.gain = $n",
    (0.3, "Base.factor = $n", "S1.a = $n"),
    "S1.b = $t",
    "CFG.width = $n",
    (0.2, "torch.set_grad_enabled($[True|False])", "pass"),
    (0.1, "torch.set_default_dtype(torch.$[float64|float32])", "pass"),
    (0.2, "print($n)", "pass"),
]

TENSOR_WRITES = [
    "$T.$[add_|mul_|sub_]($n)",
    "$T.add_($t)",
    "$T[..., 0] = $n",
    "$T[..., :1] = $t",
    "$T.$[zero_()|sin_()|clamp_(0, 1)|neg_()|relu_()|fill_(2)]",
    "$T.copy_($t)",
    "$T[..., -1].mul_($n)",
    "$T.view(-1)[0] = $n",
    "torch.add($t, 1, out=$T)",
    (0.2, "$T.requires_grad_()", "$T.detach().add_(1)"),
    (0.1, "$T.data = $t", "$T.mul_(2)"),
    (0.1, "$T.t_()", "$T.add_($=T)"),
]

CONTAINER_WRITES = [
    "$LT.append($t)",
    "$LT[0] = $t",
    "$LT.pop()",
    "$LT.insert(0, $t)",
    "$LT.extend([$t])",
    "$LT[:] = [$t, $t]",
    "$LT.reverse()",
    "del $LT[$[0|-1|:1]]",
    "$LN.append($n)",
    "$LN.sort()",
    "$LN[-1] = $n",
    "$LN.remove($n)",
    (0.3, "$LN.clear()", "$LN.append($n)"),
    "Q0.appendleft($n)",
    "Q0.$[rotate(1)|popleft()|append(5)]",
    "$DT[$letter] = $t",
    "del $DT[$letter]",
    "$DT.pop($letter, None)",
    "$DT.update({$letter: $t})",
    "$DT.setdefault($letter, $t)",
    "$DN[$letter] = $n",
    "$DN[$letter] += $n",
    (0.3, "$DN.clear()", "$DN.update(a=$n)"),
    "OD0.move_to_end($['x'|'y'])",
    "S0.add($n)",
    "S0.$[discard(1)|clear()|update({3, 4})|remove(2)]",
    "$O.items.append($n)",
    "$O.items.append($t)",
    "CFG.extra.append($n)",
]

ATTRIBUTE_WRITES = [
    "$O.scale = $n",
    "$O.weight = $t",
    "$O.count += 1",
    "$O.extra = $a",
    "setattr($O, 'extra', $n)",
    "del $O.extra",
    "$O.items = [$n]",
    (0.2, "$O.forward = lambda x: x + $n", "$O.count = 0"),
    "M0.gain = $n",
    (0.3, "M0.$[train()|eval()]", "M0(W1)"),
    "NS.fresh = $a",
    (0.3, "$O.me = $=O", "$O.other = $O"),
]

LOGGED = ["$n", "$s", "$a", "$c"]

# u0 and u1 are the new variables; the first is of the kind.
UNPACKINGS = [
    ("N", "{u0}, *{u1} = $LN"),
    ("T", "{u0}, {u1} = $t, $t"),
    ("T", "{u0}, {u1} = $LT"),
    ("N", "{u0}, {u1} = P0"),
    ("T", "({u0}, {u1}) = torch.unbind($T)[:2]"),
]

# v is a new variable of the kind, w another one.
LOOPS = [
    ("T", "for {v} in $LT:"),
    ("N", "for {v} in $LN:"),
    ("N", "for {v} in range($[2|3|len(LT0)|N0|W1.dim()]):"),
    ("T", "for {w}, {v} in $DT.items():"),
    ("T", "for {w}, {v} in enumerate($LT):"),
    ("N", "for {v}, {w} in zip($LN, $LT):"),
    ("N", "for {v} in gen($LN):"),
    ("T", "for {v} in outer($LT):"),
    ("T", "for {v} in $T:"),
    ("N", "for {v} in reversed($LN):"),
    ("T", "for {v} in map(lambda y: y * 2, $LT):"),
    ("N", "for {v} in itertools.islice(itertools.count(1), $[2|len(LT0)]):"),
    ("N", "for {v} in $DN.values():"),
    ("N", "for {v} in sorted(S0):"),
    ("N", "for {v} in filter(None, $LN):"),
    ("T", "for {v} in M0.parameters():"),
]

RAISING = [
    "if $c: raise Oops($n, MODE)",
    "DN0['missing']",
    "LT0[99]",
    "B0.absent",
    "assert $c, MODE",
    "1 / $n",
    "next(iter([]))",
    "int('x')",
    "$t @ T_ONE.expand(5, 3)",
    "raise Oops from KeyError(1)",
]
HANDLED = ["Oops", "(KeyError, IndexError)", "Exception", "LookupError", "ZeroDivisionError"]
# e is the exception.
HANDLERS = [
    "LOG.append({e}.args)", "LOG.append(type({e}).__name__)", "LOG.append(str({e}))", "raise Oops(2) from {e}", "raise",
    "pass", "LOG.append({e})",
]  # fmt: skip

CONTEXTS = [
    "with torch.no_grad():", "with torch.enable_grad():", "with logged('w') as size:", "with Counted() as c:",
    "with Counted(True):", "with contextlib.suppress(KeyError, Oops):", "with logged('a'), Counted():",
    "with torch.autocast('cpu', dtype=torch.bfloat16):", "with contextlib.nullcontext():",
]  # fmt: skip
RAISED_INSIDE = ["raise Oops(1)", "DN0['gone']", "raise KeyError('k')"]

# it is the generator.
GENERATOR_USES = [
    "LOG.append(next({it}, 7))", "LOG.append(list({it}))", "next({it}, None)\nLOG.append({it}.send('sent'))",
    "{it}.close()", "LOG.append(tuple({it}))",
]  # fmt: skip

# By the names that templates use.
TABLES = {
    "unary": [
        "sin()", "abs()", "tanh()", "relu()", "neg()", "float()", "clone()", "detach()", "double()", "contiguous()",
        "exp()",
    ],
    "reduction": [
        "sum(-1, keepdim=True)", "mean()", "sum()", "amax()", "softmax(-1)", "cumsum(-1)", "flip(-1)", "sort(-1)[0]",
        "max(-1).values",
    ],
    "view": [
        "unsqueeze(0)", "view(-1)", "reshape(-1)", "expand(2, 3)", "view_as(W0)", "squeeze()", "T", "flatten()",
        "select(-1, 0)", "narrow(-1, 0, 1)",
    ],
    "property": [
        "shape[-1]", "shape[0]", "dim()", "numel()", "size(-1)", "size(0)", "stride(-1)", "stride(0)", "__len__()",
        "requires_grad", "is_contiguous()", "element_size()",
    ],
    "class": ["Base", "Derived", "int", "(str, tuple)", "torch.Tensor", "float"],
    "container": ["S0", "LN0", "$LN", "Q0", "B0"],
    "letter": ["'a'", "'b'", "'c'", "'d'"],
    "value": VALUES,
    "replacement": REPLACEMENTS,
}  # fmt: skip
