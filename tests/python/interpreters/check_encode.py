"""Decoding and encoding again every code object of the standard library gives the same bytes, exception table and
positions; for some also through text. Run by test_interpreters.py; an argument keeps one file in that many."""

import sys
import warnings

import framejit_check
from check_stdlib import code_objects, module_code, sources

FIELDS = [
    "co_argcount co_posonlyargcount co_kwonlyargcount co_nlocals co_stacksize co_flags co_consts co_names co_varnames",
    "co_freevars co_cellvars co_filename co_name co_qualname co_firstlineno co_code co_exceptiontable",
]


def lines(code):
    """The line of each code unit: 3.11 says it in as many ranges as instructions."""
    return [line for start, end, line in code.co_lines() for _ in range(start, end, 2)]


def check_round_trip(code):
    again = framejit_check.round_trip(code)
    for field in " ".join(FIELDS).split():
        assert getattr(again, field) == getattr(code, field), (code, field)
    assert list(again.co_positions()) == list(code.co_positions()), code
    assert lines(again) == lines(code), code
    assert again.replace(co_linetable=code.co_linetable) == code, code


def check_text(code):
    """Printed and parsed again, unless the text leaves something out (long constants, names that are none) or is
    another each time (sets)."""
    text = framejit_check.print_code(code)
    if "...)" in text or "(?" in text or "frozenset(" in text or not text.isascii():
        return False
    again = framejit_check.parse_code(text)
    assert framejit_check.print_code(again) == text, code
    assert again.co_code == code.co_code and again.co_exceptiontable == code.co_exceptiontable, code
    assert lines(again) == lines(code), code
    return True


def main(every=1):
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    sys.setrecursionlimit(3000)
    codes = texts = 0
    for path in sources(every):
        module = module_code(path)
        for code in code_objects(module) if module is not None else ():
            check_round_trip(code)
            codes += 1
            texts += codes % 20 == 0 and check_text(code)
    assert codes > 0 and texts > codes / 100
    print(f"{codes} code objects encoded again, {texts} of them also from text")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
