"""FRAMEJIT_CHECK and framejit.set_checks: checks of framejit itself, for finding its faults."""

from __future__ import annotations

import atexit
from types import ModuleType
from typing import NamedTuple

from framejit import _logging, _shadow


class Check(NamedTuple):
    name: str
    description: str
    has_rate: bool


CHECKS = (
    Check("replay", "before a recording is replayed, record the call again and compare", False),
    Check("shadow", "before a recording is replayed, run the function in eager mode and compare", True),
)


def parse(text: str) -> dict[str, float]:
    """The chosen checks with their rates; anything else is a ValueError that says what is known."""
    chosen = {}
    for part in text.split(","):
        name, colon, rate = part.strip().partition(":")
        if not name and not colon:
            continue
        check = next((check for check in CHECKS if check.name == name), None)
        if check is None:
            known = ", ".join(check.name + ("[:rate]" if check.has_rate else "") for check in CHECKS)
            raise ValueError(f"FRAMEJIT_CHECK: unknown check {name!r}; known checks: {known}")
        chosen[name] = _rate(check, rate) if colon else 1.0
    return chosen


def _rate(check: Check, text: str) -> float:
    if not check.has_rate:
        raise ValueError(f"FRAMEJIT_CHECK: {check.name} takes no rate, got {text!r}")
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"FRAMEJIT_CHECK: the rate of {check.name} is a number above 0 and at most 1, got {text!r}")
    return rate


def set_checks(extension: ModuleType, text: str) -> None:
    """Turns on the named checks and no others."""
    chosen = parse(text)
    extension.set_replay_check("replay" in chosen)
    extension.set_shadow_check(round(1 / chosen["shadow"]) if "shadow" in chosen else 0)
    if "shadow" in chosen:
        extension.set_shadow_functions(_shadow.keep, _shadow.difference)
        atexit.unregister(_report)
        atexit.register(_report, extension)


def _report(extension: ModuleType) -> None:
    checked, left_out = extension.shadow_counts()
    _logging.logger.warning(
        f"FRAMEJIT_CHECK=shadow: {checked} calls were checked; {left_out} were not, since they change objects or "
        "torch's state, write inputs under autograd, or are parts of calls with breaks"
    )
