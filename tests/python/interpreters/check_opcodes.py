"""Every row of the opcode table against this interpreter's `dis` and `opcode`. Run by test_interpreters.py."""

import dis
import opcode
import sys

import framejit_check

MINOR = sys.version_info[1]
OPARGS = sorted({*range(40), 63, 64, 127, 128, 255, 256, 257, 0x0102, 0x0301, 0x1234})

# In dis.opmap, but never in co_code: 3.12 and 3.13 monitoring and the optimiser put them in place of others.
NOT_IN_CODE = {"RESERVED", "ENTER_EXECUTOR"}

# Rows that say what a running frame sees where dis.stack_effect counts as the compiler does (v3_NN.def says why). Each
# difference is checked itself.
DIFFERENT = {11: {"PRECALL", "CALL", "RETURN_GENERATOR"}, 12: {"RETURN_GENERATOR"}, 13: set()}[MINOR]

OPERANDS = {  # list of the opcode module -> operand kinds of its members
    "hasconst": {"kConst"},
    "hasname": {"kName", "kNameAndFlag", "kNameAndTwoFlags"},
    "haslocal": {
        "kLocalLoad", "kLocalStore", "kLocalDelete", "kLocalLoadClear",
        "kLocalLoadLoad", "kLocalStoreLoad", "kLocalStoreStore",
    },
    "hasfree": {"kCellLoad", "kCellStore", "kCellDelete", "kCellMake", "kCellClosure"},
    "hasjrel": {"kJumpForward", "kJumpBackward"},
    "hascompare": {"kCompare", "kCompareShift4", "kCompareShift5"},
}  # fmt: skip


def in_code(name, number):
    return number < 256 and not name.startswith("INSTRUMENTED_") and name not in NOT_IN_CODE


def caches_of(name, number):
    entries = opcode._inline_cache_entries
    return entries.get(name, 0) if isinstance(entries, dict) else entries[number]


def has_argument(number):
    return number in opcode.hasarg if hasattr(opcode, "hasarg") else number >= dis.HAVE_ARGUMENT


def check_names(rows):
    expected = {(name, number) for name, number in dis.opmap.items() if in_code(name, number)}
    assert {(row[0], row[1]) for row in rows} == expected


def check_operands(rows):
    for name, number, operand, caches, flow, _ in rows:
        assert caches == caches_of(name, number), name
        for attribute, kinds in OPERANDS.items():
            assert (operand in kinds) == (number in getattr(opcode, attribute)), (name, attribute)
        if not has_argument(number):
            assert operand == "kNone", name
        if number in opcode.hasjrel:
            assert (operand == "kJumpBackward") == ("BACKWARD" in name), name
            assert flow == ("jump" if name.startswith("JUMP_") and "_IF_" not in name else "branch"), name
    assert not [number for number in opcode.hasjabs if number < 256]


def check_stack_effects(rows):
    for name, number, operand, _, _, _ in rows:
        for oparg in OPARGS if has_argument(number) else [0]:
            for taken in (False, True):
                pops, pushes = framejit_check.stack_effect(number, oparg, taken)
                assert pops >= 0 and pushes >= 0, name
                if name in DIFFERENT:
                    continue
                if operand == "kCount" and name == "BUILD_SLICE" and oparg not in (2, 3):
                    continue
                expected = dis.stack_effect(number, oparg if has_argument(number) else None, jump=taken)
                assert pushes - pops == expected, (name, oparg, taken, pops, pushes, expected)


def check_differences():
    net = lambda name, oparg: (lambda e: e[1] - e[0])(framejit_check.stack_effect(dis.opmap[name], oparg, False))
    expected = lambda name, oparg: dis.stack_effect(dis.opmap[name], oparg)
    if "RETURN_GENERATOR" in DIFFERENT:
        # The compiler counts the value sent by the first resumption in the POP_TOP that follows.
        assert net("RETURN_GENERATOR", 0) == 1 and dis.stack_effect(dis.opmap["RETURN_GENERATOR"]) == 0
    if "PRECALL" in DIFFERENT:
        for argc in OPARGS:
            assert net("PRECALL", argc) + net("CALL", argc) == expected("PRECALL", argc) + expected("CALL", argc)
            assert net("PRECALL", argc) == 0


def check_flow(rows):
    flows = {name: flow for name, _, _, _, flow, _ in rows}
    assert {name for name, flow in flows.items() if flow == "return"} == (
        {"RETURN_VALUE", "RETURN_CONST", "INTERPRETER_EXIT"} & flows.keys()
    )
    assert {name for name, flow in flows.items() if flow == "raise"} == {"RAISE_VARARGS", "RERAISE"}
    assert {name for name, flow in flows.items() if flow == "yield"} == {"YIELD_VALUE", "RETURN_GENERATOR"}
    branches = {name for name, flow in flows.items() if flow == "branch"}
    assert branches == {dis.opname[n] for n in opcode.hasjrel if n < 256 and "_IF_" in dis.opname[n]} | {
        "FOR_ITER",
        "SEND",
    }


def check_raises(rows):
    """What can never raise, whatever the operands are; everything else is assumed to."""
    never = {
        "CACHE", "NOP", "EXTENDED_ARG", "POP_TOP", "PUSH_NULL", "COPY", "SWAP", "LOAD_CONST", "KW_NAMES",
        "LOAD_FAST_AND_CLEAR", "STORE_FAST", "LOAD_FAST_LOAD_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST",
        "STORE_DEREF", "COPY_FREE_VARS", "IS_OP", "MATCH_MAPPING", "MATCH_SEQUENCE", "PUSH_EXC_INFO", "POP_EXCEPT",
        "END_FOR", "END_SEND", "INTERPRETER_EXIT", "RETURN_VALUE", "RETURN_CONST", "LOAD_ASSERTION_ERROR",
        "JUMP_FORWARD", "JUMP_BACKWARD_NO_INTERRUPT", "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE",
        "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE", "SET_FUNCTION_ATTRIBUTE",
    }  # fmt: skip
    if MINOR >= 12:
        never.add("LOAD_FAST")  # LOAD_FAST_CHECK looks
    if MINOR >= 13:
        never |= {"POP_JUMP_IF_TRUE", "POP_JUMP_IF_FALSE", "UNARY_NOT"}  # of a bool, TO_BOOL came before
    for name, _, _, _, _, raises in rows:
        assert bool(raises) == (name not in never), name


def check_interpreter_tables(rows):
    deopt, caches = framejit_check.opcode_tables()
    for name, number, *_ in rows:
        assert deopt[number] == number, name
        assert caches[number] == caches_of(name, number), name
    generic = {row[1] for row in rows}
    numbers = [n for n in range(1, 256) if deopt[n] and deopt[n] != n]
    assert len(numbers) > 40
    assert {deopt[n] for n in numbers} <= generic


def check_operators():
    assert len(opcode._nb_ops) == 26  # kBinaryOperatorCount
    assert len(dis.cmp_op) == 6  # kComparisonCount


def main():
    rows = framejit_check.opcode_rows()
    check_names(rows)
    check_operands(rows)
    check_stack_effects(rows)
    check_differences()
    check_flow(rows)
    check_raises(rows)
    check_interpreter_tables(rows)
    check_operators()
    print(f"{len(rows)} opcodes")


main()
