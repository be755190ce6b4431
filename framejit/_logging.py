"""framejit's messages in Python's logging: one logger per artifact below "framejit"."""

from __future__ import annotations

import logging
from types import ModuleType

logger = logging.getLogger("framejit")


def _sink(channel: str, message: str) -> None:
    if channel == "warning":
        logger.warning(message)
    else:
        logging.getLogger(f"framejit.{channel}").info(message)


def install(extension: ModuleType, names: str) -> None:
    """Sends messages to logging and turns on the artifacts in `names`; an unknown name is a ValueError."""
    extension.install_log_sink(_sink)
    set_logs(extension, names)


def set_logs(extension: ModuleType, names: str) -> None:
    """Turns on the named artifacts and no others."""
    extension.set_log(names)
    if names.strip(", "):
        _show()


def trace_symbols(extension: ModuleType, names: str) -> None:
    """Prints the program's and the C++ stack where a symbol of one of these names is made, to `framejit.symbols`."""
    extension.set_traced_symbols(names)
    if names.strip(", "):
        _show()


def _show() -> None:
    logger.setLevel(logging.INFO)
    # Who asks for a log wants to see it; where the program configured logging itself, its handlers get it.
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        logger.addHandler(handler)
