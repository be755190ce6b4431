"""CPython's own tests with and without a re-entry point that does nothing at every legal instruction of everything they
import (identity_suite.py): each test has the same outcome. Run by test_interpreters.py; with the argument `long`, or
FRAMEJIT_LONG_TESTS=1, all modules of the table, else those that are quick."""

import concurrent.futures
import fnmatch
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import framejit_check

SUITE = pathlib.Path(__file__).resolve().parent / "identity_suite.py"
SECONDS = 900  # for one module

QUICK = "exceptions generators with scope unpack unpack_ex extcall call dict set raise yield_from genexps except_star"
LONG = "baseexception list listcomps exception_variations exception_group exception_hierarchy generator_stop"
LONG += " contextlib contextlib_async coroutines asyncgen keywordonlyarg positional_only_arg dictcomps dictviews"
LONG += " setcomps tuple str unicode string sort"
LONG += " dataclasses functools itertools collections userdict userlist super patma iter descr enum named_expressions"
LONG += " funcattrs property operator class dynamicclassattribute frame inspect traceback sys_settrace sys_setprofile"

# Tests whose outcome is another with other code: (pattern, minors, reason). What looks at instructions (test_code,
# test_compile, test_dis) is not in the lists.
EXCLUDED = [
    (
        "test_sys_settrace.*.test_no_line_event_after_creating_generator",
        (13,),
        "3.13 does not specialise an instruction at which a traced line begins; where the stub begins the line, "
        "FOR_ITER becomes FOR_ITER_GEN, and that one tells tracers of the generator's StopIteration",
    ),
]


def run(module, mode, folder):
    """(outcomes, failure texts) of the module's tests."""
    result = folder / f"{module}.{mode}.json"
    folder = folder / f"{module}.{mode}"  # where tests may leave files
    folder.mkdir()
    search = str(pathlib.Path(framejit_check.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": search, "PYTHONHASHSEED": "0"}
    # -S: site-packages may import what is to be rewritten.
    command = [sys.executable, "-S", "-s", "-B", "-X", "frozen_modules=off", str(SUITE), mode, module, str(result)]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
    )
    assert result.exists(), (module, mode, done.returncode, done.stdout[-2000:], done.stderr[-4000:])
    return json.loads(result.read_text())


def differences(module, folder):
    """(number of tests, what differs)"""
    plain, rewritten = (run(module, mode, folder) for mode in ("plain", "rewrite"))
    if not plain["outcomes"] and not plain["exists"]:
        return 0, []
    assert plain["outcomes"] and rewritten["rewritten"] > 100 and plain["rewritten"] == 0, module
    excluded = [pattern for pattern, minors, _ in EXCLUDED if sys.version_info[1] in minors]
    found = []
    for test in sorted({*plain["outcomes"], *rewritten["outcomes"]}):
        outcomes = plain["outcomes"].get(test), rewritten["outcomes"].get(test)
        known = any(fnmatch.fnmatch(test, f"test.{pattern}") for pattern in excluded)
        if outcomes[0] != outcomes[1] and not known:
            found.append(f"{test}: {outcomes[0]}, rewritten {outcomes[1]}\n{rewritten['texts'].get(test, '')}")
    return len(plain["outcomes"]), found


def main(modules):
    with tempfile.TemporaryDirectory() as folder:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda module: differences(f"test_{module}", pathlib.Path(folder)), modules))
    if importlib.util.find_spec("test.support") is None:
        return print("this interpreter comes without its tests")
    found = [text for _, texts in results for text in texts]
    assert not found, "\n".join(found)
    print(f"{sum(count for count, _ in results)} tests of {len(modules)} modules, the same with re-entry points")


if __name__ == "__main__":
    everything = sys.argv[1:] == ["long"] or os.environ.get("FRAMEJIT_LONG_TESTS") == "1"
    main((QUICK + " " + LONG if everything else QUICK).split())
