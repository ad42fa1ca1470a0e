"""From a model's name to its files on this machine."""

from __future__ import annotations

from pathlib import Path

from preftilt.engines.bundled import DEMO, demo_folder
from preftilt.engines.gguf import gguf_in
from preftilt.engines.gguf.convert import converted
from preftilt.engines.models import SMOLLM2, smollm2_file


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a model's name refers to, if any: :data:`~preftilt.engines.models.SMOLLM2`, a file, or a
    folder with one in it.

    Raises :class:`~preftilt.errors.UnknownModel` and :class:`~preftilt.errors.BadInput`.
    """
    return smollm2_file() if name == SMOLLM2 else gguf_in(name)


def model_folder(name: str) -> str:
    """Where transformers and vLLM find the model ``name``: the folder of a named model or of a converted GGUF file.

    Other names, hub ids and folders, are returned unchanged. Converting takes a while the first time. Raises
    :class:`~preftilt.errors.UnknownModel`, :class:`~preftilt.errors.BadInput` and
    :class:`~preftilt.errors.MissingPackage`.
    """
    if name == DEMO:
        return demo_folder()
    path = gguf_file(name)
    if path is None:
        return name
    return str(converted(path))
