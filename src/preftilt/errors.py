"""Everything preftilt raises on purpose.

::

    PreftiltError
    ├── BadInput            the request cannot be served as asked; nothing was spent   (exit code 2)
    │   ├── PromptTooLong   a view's prompt does not fit the model's context
    │   ├── NoChatTemplate  the model has no chat template, or one without the role needed
    │   ├── UnseenImage     an image cannot be decoded, or the model cannot be shown any
    │   └── UnknownModel    no such model here, or its hub cannot be reached
    ├── MissingPackage      an optional package is needed; names the extra that brings it (exit code 2)
    └── EngineError         the engine failed or returned something impossible          (exit code 1)
        └── EngineTimeout   the engine did not answer in the time it was given

Every message says what to do about it.
"""


class PreftiltError(Exception):
    """The root of everything that preftilt raises on purpose."""

    exit_code = 1


class BadInput(PreftiltError, ValueError):
    """The request cannot be served as asked; raised before the first token is spent."""

    exit_code = 2


class PromptTooLong(BadInput):
    """A view's prompt leaves no room for an answer in the model's context."""


class NoChatTemplate(BadInput):
    """The model has no chat template, or its template lacks a role that is needed."""


class UnseenImage(BadInput):
    """An image of the conversation cannot be decoded, or the model cannot be shown images."""


class UnknownModel(BadInput):
    """The model was not found, or the hub that might have it cannot be reached."""


class MissingPackage(PreftiltError, ImportError):
    """An optional package is not installed."""

    exit_code = 2


class EngineError(PreftiltError, RuntimeError):
    """The engine failed, or broke a law of its contract."""


class EngineTimeout(EngineError):
    """The engine did not answer in the time it was given; what it was asked may still be under way there."""


def first_line(error: BaseException) -> str:
    """The first line of what another package says, without its full stop; for messages that add a remedy."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else repr(error)
