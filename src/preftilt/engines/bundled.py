"""The model that comes with the package."""

from __future__ import annotations

from importlib.resources import as_file, files

from preftilt.errors import UnknownModel

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
