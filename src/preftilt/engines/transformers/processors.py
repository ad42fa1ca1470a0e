"""The processor of a vision-language model: its image preprocessing, with its tokenizer."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from preftilt.engines.transformers.loading import (
    ModelSource,
    explained_errors,
    load_tokenizer,
    quiet_transformers,
)
from preftilt.errors import BadInput, MissingPackage, PreftiltError

VIDEO_PROCESSOR = "video_processor"
"""The video part of a processor, which is not used here; it needs torchvision."""


def load_processor(source: ModelSource) -> Any:
    """The processor of a vision-language model, including its tokenizer; None for a model that is used for text alone.

    Images are preprocessed by Pillow, which gives the same values everywhere and needs no torchvision. Raises
    :class:`MissingPackage` without it.
    """
    with quiet_transformers(), explained_errors(source, "a model"):
        config: Any = transformers.AutoConfig.from_pretrained(
            source.place,
            trust_remote_code=source.trust_remote_code,
            local_files_only=source.cached_only,
        )
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return None
    try:
        return _processor(source, config)
    except PreftiltError:
        if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return None  # It can be used for text alone, and then refuses images.
        raise


def _processor(source: ModelSource, config: Any) -> Any:
    if find_spec("PIL") is None:
        raise MissingPackage(
            f'{source.name} sees images, and preparing them needs Pillow: pip install "preftilt[vision]"'
        )
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING  # Takes long to import.

    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    try:
        with quiet_transformers(), explained_errors(source, "a vision-language model"):
            if kind is not None and VIDEO_PROCESSOR in kind.get_attributes():
                processor = _without_videos(kind, source)
            else:
                processor = transformers.AutoProcessor.from_pretrained(
                    source.place, **_load_options(source)
                )
    except AttributeError as error:  # transformers 5.19 raises this where a part has no backend.
        raise BadInput(
            f"{source.name} cannot be loaded as a vision-language model: a part of its processor needs a torchvision"
            " that fits the installed torch"
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "image_token"):
        raise BadInput(
            f"{source.name} cannot be loaded as a vision-language model: it brings no processor for images"
            " (processor_config.json)"
        )
    processor.tokenizer.chat_template = processor.tokenizer.chat_template or processor.chat_template
    return processor


def _load_options(source: ModelSource) -> dict[str, Any]:
    return {
        "backend": "pil",
        "trust_remote_code": source.trust_remote_code,
        "local_files_only": source.cached_only,
    }


def _without_videos(kind: Any, source: ModelSource) -> Any:
    """A processor of class ``kind`` without its video part.

    transformers 5.19 cannot make one: it requires that part, and torchvision for it.
    """
    others = set(kind.get_attributes()) - {VIDEO_PROCESSOR, "image_processor", "tokenizer"}
    if others:
        raise BadInput(
            f"{source.name} cannot be loaded as a vision-language model: its processor also needs"
            f" {', '.join(sorted(others))}"
        )
    parts = {
        "image_processor": transformers.AutoImageProcessor.from_pretrained(
            source.place, **_load_options(source)
        ),
        "tokenizer": load_tokenizer(source),
        VIDEO_PROCESSOR: None,
    }
    settings, _ = kind.get_processor_dict(source.place, local_files_only=source.cached_only)
    known = inspect.signature(kind.__init__).parameters.keys() - parts.keys()
    processor = kind.__new__(kind)
    processor.check_argument_for_proper_class = lambda name, part: type(part)
    processor.__init__(**{name: settings[name] for name in known & settings.keys()}, **parts)
    return processor
