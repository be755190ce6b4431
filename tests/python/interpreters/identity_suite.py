"""Runs a module of CPython's own tests and writes each test's outcome as JSON. With `rewrite`, every code object of
every module that is imported from here on, tests and library alike, first gets a re-entry point that does nothing at
every legal instruction.

usage: identity_suite.py (plain|rewrite) MODULE RESULT_FILE"""

import sys

rewritten = 0


def install():
    """Into the loader of source files, behind its cache of compiled ones. Returns the rewriter."""
    import framejit_check

    code_type = type(install.__code__)
    loader = type(sys.modules["_frozen_importlib_external"].SourceFileLoader("", ""))
    plain = loader.get_code

    def rewrite(code):
        global rewritten
        rewritten += 1
        consts = tuple(rewrite(const) if isinstance(const, code_type) else const for const in code.co_consts)
        return framejit_check.with_reentries(code.replace(co_consts=consts), None, None)

    def get_code(self, name):
        code = plain(self, name)
        return code and rewrite(code)

    loader.get_code = get_code
    early = {"functools", "collections", "contextlib", "dataclasses", "unittest", "test"} & set(sys.modules)
    assert not early, early
    return rewrite


def main(mode, name, path):
    if mode == "rewrite":
        rewrite = install()
        import doctest

        doctest.compile = lambda *args: rewrite(compile(*args))
    import importlib.util
    import json
    import unittest

    class Result(unittest.TestResult):
        outcomes = {}

        def note(self, test, outcome):
            self.outcomes.setdefault(test.id(), []).append(outcome)

        def addSuccess(self, test):
            self.note(test, "success")

        def addError(self, test, error):
            self.note(test, "error " + error[0].__name__)
            super().addError(test, error)

        def addFailure(self, test, error):
            self.note(test, "failure")
            super().addFailure(test, error)

        def addSkip(self, test, reason):
            self.note(test, "skip")

        def addExpectedFailure(self, test, error):
            self.note(test, "expected failure")

        def addUnexpectedSuccess(self, test):
            self.note(test, "unexpected success")

        def addSubTest(self, test, subtest, error):
            if error is not None:
                self.note(test, "subtest " + error[0].__name__)
            super().addSubTest(test, subtest, error)

    from test import support

    support.use_resources = []
    exists = importlib.util.find_spec("test." + name) is not None  # not every minor has every module
    result = Result()
    if exists:
        unittest.defaultTestLoader.loadTestsFromName("test." + name).run(result)
    texts = {test.id(): text for test, text in result.errors + result.failures}
    with open(path, "w") as file:
        json.dump({"exists": exists, "rewritten": rewritten, "outcomes": result.outcomes, "texts": texts}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
