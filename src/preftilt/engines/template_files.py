"""Chat templates from files: the built-in ones by name, the user's by path."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from preftilt.errors import BadInput


def builtin_templates() -> list[str]:
    """Names of the built-in chat templates."""
    suffix = ".jinja"
    entries = (files("preftilt") / "chat_templates").iterdir()
    return sorted(
        entry.name.removesuffix(suffix) for entry in entries if entry.name.endswith(suffix)
    )


def load_template(name: str) -> str:
    """A built-in template by name, or a template file by path (``./plain`` is a file).

    Raises :class:`~preftilt.errors.BadInput` if it is neither, cannot be read or is empty.
    """
    builtin = builtin_templates()
    if name in builtin:
        return (files("preftilt") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise BadInput(
            f"--chat-template {name}: no such file, and no built-in template of that name;"
            f" built in: {', '.join(builtin)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"--chat-template {name} cannot be read: {error}; give a text file in Jinja"
        ) from error
    if not text.strip():
        raise BadInput(f"--chat-template {name} is empty; give a file with a template in Jinja")
    return text
