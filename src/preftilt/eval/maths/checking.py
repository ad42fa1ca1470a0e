"""Whether two final answers are the same mathematics, by math-verify (the extra ``eval``)."""

from __future__ import annotations

import threading
from importlib.util import find_spec

from preftilt.errors import MissingPackage
from preftilt.rivals.extractors import maths

SECONDS = 20
"""How long one parse and one comparison may take."""


def check_installed() -> None:
    """Raises :class:`~preftilt.errors.MissingPackage` without math-verify."""
    if find_spec("math_verify") is None:
        raise MissingPackage(
            'checking answers of mathematics needs math-verify: pip install "preftilt[eval]"'
        )


def same_answer(gold: str, answer: str) -> bool | None:
    r"""Whether ``answer`` equals ``gold``, as they stand in a ``\boxed{}``; None if that took too long to find out.

    Equal texts are equal answers; an answer that cannot be read as mathematics differs from any other text.
    """
    if maths(_boxed(gold)) == maths(_boxed(answer)):
        return True
    from math_verify import parse, verify
    from math_verify.errors import TimeoutException

    seconds = _seconds()
    try:
        left, right = (
            parse(_boxed(text), parsing_timeout=seconds, raise_on_error=True)  # pyright: ignore[reportArgumentType]
            for text in (gold, answer)
        )
    except TimeoutException:
        return None
    except Exception:  # sympy and the grammar raise many kinds for what is no mathematics.
        return False
    try:
        return verify(left, right, timeout_seconds=seconds, raise_on_error=True)
    except TimeoutException:
        return None
    except Exception:  # One reading of an answer cannot be compared; another one may be.
        return verify(left, right, timeout_seconds=seconds)


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def _seconds() -> int | None:
    """math-verify keeps time by a signal, which only the main thread can have; in others there is no limit."""
    return SECONDS if threading.current_thread() is threading.main_thread() else None
