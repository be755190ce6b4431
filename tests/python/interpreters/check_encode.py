"""Decoding and encoding again every code object of the standard library gives the same bytes, exception table and
positions. Run by test_interpreters.py; an argument keeps one file in that many."""

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


def main(every=1):
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    sys.setrecursionlimit(3000)
    codes = 0
    for path in sources(every):
        module = module_code(path)
        for code in code_objects(module) if module is not None else ():
            check_round_trip(code)
            codes += 1
    assert codes > 0
    print(f"{codes} code objects encoded again")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
