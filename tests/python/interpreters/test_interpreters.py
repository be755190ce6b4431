"""bytecode/ and frame_eval/cpython/ on every supported interpreter of this machine, without torch: builds the
torch-free module for each and runs the check scripts of this folder in it.

Interpreters: the one that runs the tests; python3.11, python3.12 and python3.13 on PATH; those under
~/.pyenv/versions; and the paths in FRAMEJIT_INTERPRETERS (separated as PATH is). One for each minor version, in that
order of preference; the build folders are kept under build/.
"""

import functools
import glob
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
MINORS = (11, 12, 13)
CHECKS = ("check_opcodes.py", "check_stdlib.py", "check_encode.py", "check_rewrite.py", "check_rewrite_events.py")
CHECKS += ("check_identity.py", "check_hook.py", "check_objects.py")
FACTS = (
    "import sys, sysconfig, os; headers = sysconfig.get_path('include') + '/Python.h'; "
    "print(sys.version_info[1], os.path.exists(headers), sys.executable)"
)


def candidates():
    yield sys.executable
    yield from filter(None, os.environ.get("FRAMEJIT_INTERPRETERS", "").split(os.pathsep))
    for minor in MINORS:
        found = shutil.which(f"python3.{minor}")
        if found:
            yield found
        yield from sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/3.{minor}.*/bin/python3")))


def facts(executable):
    """(minor, resolved executable) of an interpreter with headers; None for anything else, a pyenv shim say."""
    try:
        done = subprocess.run([executable, "-c", FACTS], capture_output=True, text=True, timeout=60)
    except OSError:
        return None
    words = done.stdout.strip().split(" ", 2)
    if done.returncode or len(words) != 3 or words[1] != "True":
        return None
    return int(words[0]), words[2]


def interpreters():
    found = {}
    for executable in candidates():
        known = facts(executable)
        if known and known[0] in MINORS:
            found.setdefault(*known)
    return found


INTERPRETERS = interpreters()


@functools.cache
def module_folder(minor):
    """Builds the module for the interpreter once; a failure fails every test that asks."""
    build = ROOT / "build" / f"interp-{minor}"
    configure = ["cmake", "-S", ROOT, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DFRAMEJIT_WITH_TORCH=OFF"]
    configure += ["-DFRAMEJIT_BUILD_CHECK=ON", f"-DPython3_EXECUTABLE={INTERPRETERS[minor]}"]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    for command in (configure, ["cmake", "--build", build, "--target", "framejit_check", "-j", "2"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "tests" / "python" / "interpreters"


def test_running_interpreter_is_covered():
    assert sys.version_info[1] in INTERPRETERS


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("minor", MINORS)
def test_check(minor, check):
    if minor not in INTERPRETERS:
        pytest.skip(f"no CPython 3.{minor} with headers here")
    # -E -s: nothing of the environment but the module; the scripts must not find torch or pytest.
    code = (
        f"import sys, runpy; sys.path[:0] = {[str(module_folder(minor)), str(HERE)]!r}; "
        f"runpy.run_path({str(HERE / check)!r}, run_name='__main__')"
    )
    done = subprocess.run([INTERPRETERS[minor], "-E", "-s", "-c", code], capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, end="")
