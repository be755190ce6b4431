"""Loads the extension module, or says in one line why it cannot be loaded here."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

REBUILD = "rebuild it here with: pip install --no-build-isolation --force-reinstall --no-deps ."


def load() -> ModuleType:
    """framejit._C, if it was built for this Python and this torch."""
    import torch

    python = "{}.{}.{}".format(*sys.version_info[:3])
    try:
        extension = importlib.import_module("framejit._C")
    except ModuleNotFoundError as error:
        if error.name != "framejit._C":
            raise
        raise ImportError(f"framejit has no extension module for Python {python}; {REBUILD}") from None
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise ImportError(f"framejit cannot be loaded with torch {torch.__version__} ({reason}); {REBUILD}") from None
    check_versions(extension.torch_version, extension.python_version, torch.__version__, python)
    return extension


def check_versions(built_torch: str, built_python: str, torch: str, python: str) -> None:
    """Raises ImportError where framejit runs under another torch or Python than it was built for."""
    if built_torch == torch and built_python == python:
        return
    raise ImportError(
        f"framejit was built for torch {built_torch} and Python {built_python}, "
        f"this is torch {torch} and Python {python}; {REBUILD}"
    )
