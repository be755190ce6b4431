"""What `except*` raises at its end: as CPython's _PyExc_PrepReraiseStar (Objects/exceptions.c), which is not exported.

Called by the recorder (graph/capture/evaluator_exceptions.cc), which does not record it.
"""

from __future__ import annotations


def _leaves(exception: BaseException) -> list[int]:
    """The addresses of the exceptions in a group, or of one that is none."""
    if isinstance(exception, BaseExceptionGroup):
        return [leaf for part in exception.exceptions for leaf in _leaves(part)]
    return [id(exception)]


def _is_part(exception: BaseException, original: BaseException) -> bool:
    """Whether the exception was split off the original, and not raised by a handler."""
    names = ("__traceback__", "__cause__", "__context__")
    return all(getattr(exception, name) is getattr(original, name) for name in names)


def prepare_raise(original: BaseException, exceptions: list[BaseException | None]) -> BaseException | None:
    """The one exception to raise for those that the handlers of `original` raised, or left."""
    if not exceptions:
        return None
    if not isinstance(original, BaseExceptionGroup):
        return exceptions[0]
    left = [exception for exception in exceptions if exception is not None]
    again = [leaf for exception in left if _is_part(exception, original) for leaf in _leaves(exception)]
    raised = [exception for exception in left if not _is_part(exception, original)]

    def is_again(exception: BaseException) -> bool:
        return not isinstance(exception, BaseExceptionGroup) and id(exception) in again

    rest = original.split(is_again)[0] if again else None
    if rest is not None:
        raised.append(rest)
    return BaseExceptionGroup("", raised) if len(raised) > 1 else raised[0] if raised else None
