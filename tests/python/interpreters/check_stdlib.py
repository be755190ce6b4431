"""Decoding, exception regions, stack depth, positions and the verifier over the whole standard library of this
interpreter, against `dis` and the compiler. Run by test_interpreters.py; an argument keeps one file in that many."""

import dis
import importlib.util
import os
import sys
import sysconfig
import types
import warnings

import framejit_check

MINOR = sys.version_info[1]
JUMPS = frozenset(opcode for opcode in dis.hasjrel if opcode < 256)
BACKWARD = frozenset(opcode for opcode in JUMPS if "JUMP_BACKWARD" in dis.opname[opcode])
CACHES = {row[1]: row[3] for row in framejit_check.opcode_rows()}  # checked against opcode by check_opcodes.py
EXTENDED_ARG = dis.EXTENDED_ARG
READS = {row[1] for row in framejit_check.opcode_rows() if row[2] in ("kLocalLoad", "kCellLoad", "kCellClosure")}


def sources(every):
    root = sysconfig.get_path("stdlib")
    paths = []
    for directory, directories, names in os.walk(root):
        directories[:] = sorted(d for d in directories if d not in ("site-packages", "__pycache__"))
        paths += [os.path.join(directory, name) for name in sorted(names) if name.endswith(".py")]
    return paths[::every]


def module_code(path):
    """The module's code, from the .pyc file that importing left if there is one; None if it does not compile."""
    loader = importlib.util.spec_from_file_location("module", path).loader
    try:
        return loader.get_code("module")
    except (SyntaxError, ValueError, UnicodeDecodeError):
        return None  # samples of bad syntax and encodings under lib2to3 and test


def code_objects(code):
    pending = [code]
    while pending:
        code = pending.pop()
        yield code
        pending += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def expected_instructions(code):
    """What decode() must say, by dis's own unpacking: (opcode, oparg, start, offset, end, target), in code units."""
    expected = []
    start = 0
    for offset, opcode, oparg in unpack(code.co_code):
        if opcode == EXTENDED_ARG:
            continue
        unit = offset >> 1
        end = unit + 1 + CACHES[opcode]
        target = -1
        if opcode in JUMPS:
            target = end - oparg if opcode in BACKWARD else end + oparg
        expected.append((opcode, oparg or 0, start, unit, end, target))
        start = end
    return expected


def unpack(code):
    """(offset, opcode, oparg) without the caches, which dis lists in 3.11 and 3.12 and skips in 3.13."""
    if MINOR >= 13:
        return ((offset, opcode, oparg) for offset, _, opcode, oparg in dis._unpack_opargs(code))
    return (item for item in dis._unpack_opargs(code) if item[1] != 0)


def check_decoding(code):
    decoded = framejit_check.decode(code)
    expected = expected_instructions(code)
    if decoded != expected:
        # Opcodes without an argument: dis says None, the byte may be anything.
        for got, want in zip(decoded, expected, strict=True):
            same = got == want or (got[0] < dis.HAVE_ARGUMENT and got[0] == want[0] and got[2:] == want[2:])
            assert same, (code, got, want)
    return decoded


def check_instructions_of_dis(code, decoded):
    """The same through dis.get_instructions, slow: jump targets as dis computes them."""
    instructions = [i for i in dis.get_instructions(code) if i.opcode not in (EXTENDED_ARG, 0)]
    assert len(instructions) == len(decoded), code
    for want, got in zip(instructions, decoded):
        assert (want.opcode, want.offset) == (got[0], got[3] * 2), (code, want, got)
        if want.opcode in JUMPS:
            assert want.argval == got[5] * 2, (code, want, got)


def check_exception_regions(code):
    entries = [
        (e.start // 2, e.end // 2, e.target // 2, e.depth, int(e.lasti)) for e in dis._parse_exception_table(code)
    ]
    assert framejit_check.exception_table(code) == entries, code
    expected = [None] * (len(code.co_code) // 2)
    for start, end, target, depth, lasti in entries:
        expected[start:end] = [(target, depth, lasti)] * (end - start)
    assert framejit_check.handlers(code) == expected, code


def check_positions(code, decoded):
    positions = list(code.co_positions())
    lines = [None] * len(positions)
    for start, end, line in code.co_lines():
        lines[start // 2 : end // 2] = [line] * ((end - start) // 2)
    known = lambda value: -1 if value is None else value
    for got, (_, _, _, unit, _, _) in zip(framejit_check.spans(code), decoded, strict=True):
        assert got[0] == known(lines[unit]), (code, unit, got, lines[unit])
        assert got[1:] == tuple(map(known, positions[unit])), (code, unit, got, positions[unit])


def check_liveness(code, decoded):
    """No free variable is live before COPY_FREE_VARS; what an instruction loads is live before it."""
    live = framejit_check.live_slots(code)
    assert len(live) == len(decoded)
    first_free = len(code.co_varnames) + len(set(code.co_cellvars) - set(code.co_varnames))
    if dis.opname[decoded[0][0]] == "COPY_FREE_VARS":
        assert all(slot < first_free for slot in live[0]), (code, live[0])
    for (opcode, oparg, *_), slots in zip(decoded, live):
        if opcode in READS:
            assert oparg in slots, (code, dis.opname[opcode], oparg, slots)


def check_stack_depth(code, tally):
    """Equal to what the compiler found, or below it for one of two reasons."""
    deepest, depths = framejit_check.stack_depths(code)
    if deepest == code.co_stacksize:
        tally.equal += 1
        return
    empty = MINOR >= 13 and deepest == 0 and code.co_stacksize == 1  # 3.13 reserves one value at least
    # A handler around instructions that were optimised away: the compiler counted it, nothing leads to it.
    unreachable = -1 in depths
    assert deepest < code.co_stacksize and (empty or unreachable), (code, deepest, code.co_stacksize)
    tally.below += 1


class Tally:
    codes = instructions = equal = below = 0


def check_code(code, tally):
    problem = framejit_check.verify(code)
    assert problem is None, (code, problem)
    decoded = check_decoding(code)
    check_stack_depth(code, tally)
    check_exception_regions(code)
    check_liveness(code, decoded)
    tally.codes += 1
    tally.instructions += len(decoded)
    if tally.codes % 50 == 0:
        check_instructions_of_dis(code, decoded)
        check_positions(code, decoded)


def main(every=1):
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    sys.setrecursionlimit(3000)
    tally = Tally()
    files = 0
    for path in sources(every):
        module = module_code(path)
        if module is not None:
            files += 1
            for code in code_objects(module):
                check_code(code, tally)
    assert tally.codes > 0 and tally.below < tally.codes / 10
    print(
        f"{files} files, {tally.codes} code objects, {tally.instructions} instructions; stack depth equal to "
        f"co_stacksize in {tally.equal}, below it in {tally.below}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
