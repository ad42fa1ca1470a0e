"""The processor of a vision-language model: what prepares pictures for it, with its tokenizer."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from preftilt.engines.transformers.loading import Source, explained, quiet
from preftilt.errors import BadInput, MissingPackage, PreftiltError


def load_processor(source: Source) -> Any:
    """The processor of a vision-language model, which has its tokenizer; None for what is read as a model of text.

    Pictures are prepared by Pillow, which gives the same numbers everywhere, and needs no torchvision. Raises
    :class:`MissingPackage` without it.
    """
    with quiet(), explained(source.name, source.cached_only, "a model"):
        config: Any = transformers.AutoConfig.from_pretrained(
            source.place,
            trust_remote_code=source.trust_remote_code,
            local_files_only=source.cached_only,
        )
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return None
    try:
        return _processor(source)
    except PreftiltError:
        if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return None  # It can be read as a model of text, and then refuses images.
        raise


def _processor(source: Source) -> Any:
    if find_spec("PIL") is None:
        raise MissingPackage(
            f'{source.name} sees images, and preparing them needs Pillow: pip install "preftilt[vision]"'
        )
    try:
        with quiet(), explained(source.name, source.cached_only, "a vision-language model"):
            processor = transformers.AutoProcessor.from_pretrained(
                source.place,
                backend="pil",
                trust_remote_code=source.trust_remote_code,
                local_files_only=source.cached_only,
            )
    except (
        AttributeError
    ) as error:  # What transformers 5.19 raises where a part of it has no backend.
        raise BadInput(
            f"{source.name} cannot be loaded as a vision-language model: its processor also prepares videos, which"
            " needs a torchvision that fits the installed torch"
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "image_token"):
        raise BadInput(
            f"{source.name} cannot be loaded as a vision-language model: it brings no processor for images"
            " (processor_config.json)"
        )
    processor.tokenizer.chat_template = processor.tokenizer.chat_template or processor.chat_template
    return processor
