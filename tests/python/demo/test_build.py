"""What stops a build or an import, and that one line says so. Nothing is compiled here: every configuration stops."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import framejit
from framejit import _build

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")


def configure(build: Path, python: str = sys.executable, **environment: str) -> list[str]:
    """The lines about framejit that a configuration which must fail prints."""
    command = ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", f"-DPython3_EXECUTABLE={python}"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode != 0, done.stdout
    return [line.strip() for line in done.stderr.splitlines() if "framejit:" in line]


def test_no_compiler(tmp_path):
    (line,) = configure(tmp_path, CXX="/nonexistent/c++")
    assert line == "framejit: no CXX compiler found (/nonexistent/c++); install g++ or name one in CXX"


def test_no_torch(tmp_path):
    venv.create(tmp_path / "venv")
    python = str(tmp_path / "venv" / "bin" / "python")
    (line,) = configure(tmp_path / "build", python)
    assert line == f"framejit: torch is not importable by {python}; install torch 2.11 to 2.14 first"


def fake_torch(folder: Path, version: str) -> str:
    """A folder for PYTHONPATH whose torch says that it has this version."""
    (folder / "torch").mkdir(parents=True)
    text = f"__version__ = {version!r}\nclass _C: _GLIBCXX_USE_CXX11_ABI = True\n"
    (folder / "torch" / "__init__.py").write_text(text)
    return str(folder)


def test_unsupported_torch(tmp_path):
    path = fake_torch(tmp_path / "path", "2.15.0")
    (line,) = configure(tmp_path / "build", PYTHONPATH=path)
    assert line == "framejit: torch 2.15.0 is not supported; 2.11 to 2.14 are"


@pytest.mark.parametrize("minor", [9, 10])
def test_other_minors(tmp_path, minor):
    found = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3"))
    if not found:
        pytest.skip(f"no Python 3.{minor} here")
    (line,) = configure(tmp_path, str(found[0]))
    assert line.startswith(f"framejit: Python 3.{minor}.") and "is not supported; " in line


@pytest.mark.parametrize("built", [("2.12.0", "3.11.7"), ("2.13.0+cpu", "3.11.6")])
def test_import_under_other_versions(built):
    with pytest.raises(ImportError) as refused:
        _build.check_versions(*built, "2.13.0+cpu", "3.11.7")
    text = str(refused.value)
    assert text.startswith(f"framejit was built for torch {built[0]} and Python {built[1]}, ")
    assert "this is torch 2.13.0+cpu and Python 3.11.7; rebuild it here with: pip install" in text
    assert "\n" not in text


def test_the_extension_knows_what_it_was_built_for():
    import torch

    assert framejit._C.torch_version == torch.__version__
    assert framejit._C.python_version == "{}.{}.{}".format(*sys.version_info[:3])


def import_copy(tmp_path: Path, extension: str | None) -> str:
    """The last line that importing a copy of the package says, with this text as its extension module or with none."""
    shutil.copytree(ROOT / "framejit", tmp_path / "framejit", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if extension is not None:
        (tmp_path / "framejit" / "_C.py").write_text(extension)
    command = [sys.executable, "-c", "import framejit"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    return done.stderr.splitlines()[-1]


def test_import_without_extension(tmp_path):
    line = import_copy(tmp_path, None)
    assert line.startswith("ImportError: framejit has no extension module for Python 3.") and "pip install" in line


def test_import_of_an_extension_for_another_torch(tmp_path):
    line = import_copy(tmp_path, "raise ImportError('_C.so: undefined symbol: _ZN2at\\nmore')")
    assert line.startswith("ImportError: framejit cannot be loaded with torch 2.") and "undefined symbol" in line
    assert line.endswith(_build.REBUILD)
