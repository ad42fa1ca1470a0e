"""From a model's name to an engine: ``demo``, a hub id or path, or ``transformers:`` and either."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from preftilt.engines.base import Engine
from preftilt.errors import BadInput, MissingPackage, UnknownModel

DEMO = "demo"
"""The name of the bundled model."""

SCHEMES = ("transformers",)


def open_engine(
    spec: str = DEMO,
    *,
    dtype: str = "auto",
    device: str = "auto",
    chat_template: str | None = None,
    thinking: bool = False,
    template_kwargs: Mapping[str, object] | None = None,
    now: datetime | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    sampler_logprobs: Literal["auto", "on", "off"] = "auto",
    max_rows: int | None = None,
) -> Engine:
    """Open the engine that ``spec`` names; options as in ``open_transformers``.

    Raises :class:`~preftilt.errors.BadInput` for an unknown scheme, :class:`~preftilt.errors.UnknownModel` for an
    unknown model and :class:`~preftilt.errors.MissingPackage` where the engine's packages are not installed.
    """
    name = _model_name(spec)
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingPackage(
                f'running a model needs {package}: pip install "preftilt[transformers]"'
            )
    from preftilt.engines.transformers import open_transformers

    return open_transformers(
        demo_folder() if name == DEMO else name,
        label=name,
        dtype=dtype,
        device=device,
        chat_template=chat_template,
        thinking=thinking,
        template_kwargs=template_kwargs,
        now=now,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        sampler_logprobs=sampler_logprobs,
        max_rows=max_rows,
    )


def demo_folder() -> str:
    """Where the bundled model lies."""
    with as_file(files("preftilt") / "demo" / "model") as folder:
        if not (folder / "config.json").is_file():
            raise UnknownModel(
                f"the bundled model is missing from {folder}; install preftilt again"
            )
        return str(folder)


def _model_name(spec: str) -> str:
    """The part after ``transformers:``; a path may hold a colon, and so may a drive letter."""
    scheme, colon, rest = spec.partition(":")
    if not spec.strip() or (colon and not rest.strip()):
        raise BadInput(f"no model is named in {spec!r}; give {DEMO}, a hub id or a path")
    if not colon or len(scheme) == 1 or Path(spec).exists():
        return spec
    if scheme not in SCHEMES:
        raise BadInput(f"there is no engine {scheme!r} (in {spec!r}); known: {', '.join(SCHEMES)}")
    return rest
