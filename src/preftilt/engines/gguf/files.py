"""Finds the GGUF file of a path."""

from __future__ import annotations

from pathlib import Path

from preftilt.errors import BadInput, UnknownModel

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
