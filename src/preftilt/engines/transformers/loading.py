"""Loads a model by name: local folders first, safetensors only, no remote code, plain errors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from preftilt.engines.models import model_folder
from preftilt.errors import BadInput, MissingPackage, PreftiltError, UnknownModel, first_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CONTEXT_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
)

HUB_SECONDS = 10.0
"""Time limit for finding out whether the hub can be reached."""

UNLIMITED = 1 << 20
"""The context of a model whose config names none (recurrent ones do not)."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, its tokenizer (a ``PreTrainedTokenizerBase``) and where it runs."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model that was found: its location, and how it will run.

    name: as the user gave it. place: what transformers loads from, a folder or a hub id.
    """

    name: str
    place: str
    device: torch.device
    dtype: torch.dtype
    cached_only: bool
    trust_remote_code: bool
    allow_pickle: bool


def find_model(
    name: str, *, dtype: str, device: str, trust_remote_code: bool, allow_pickle: bool
) -> ModelSource:
    """Find a model by short name, hub id or path, and check that it can be run as requested; nothing is loaded.

    A GGUF file is converted, the first time. Raises :class:`UnknownModel` if there is no such model or its hub cannot
    be reached, and :class:`BadInput` if the model exists but cannot be used as asked. So do :func:`load_tokenizer` and
    :func:`load_model`.
    """
    where = _device(device)
    kind = _dtype(dtype, where)
    place = model_folder(name)
    folder = Path(place).expanduser()
    if folder.is_dir():
        _check_folder(folder, allow_pickle)
    return ModelSource(
        name=name,
        place=str(folder) if folder.is_dir() else place,
        device=where,
        dtype=kind,
        cached_only=not folder.is_dir() and not _hub_is_reachable(name),
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )


def load_tokenizer(source: ModelSource) -> Any:
    """The model's tokenizer (a ``PreTrainedTokenizerBase``), loaded before the weights."""
    with quiet_transformers(), explained_errors(source):
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            source.place,
            trust_remote_code=source.trust_remote_code,
            local_files_only=source.cached_only,
        )
    tokenizer.name_or_path = source.name  # As messages call it.
    return tokenizer


def load_model(source: ModelSource, tokenizer: Any, *, vision: bool = False) -> LoadedModel:
    """The model in memory, for inference; ``vision``: with its image encoder."""
    kind = transformers.AutoModelForImageTextToText if vision else transformers.AutoModelForCausalLM
    with quiet_transformers(), explained_errors(source):
        model: Any = kind.from_pretrained(
            source.place,
            dtype=source.dtype,
            trust_remote_code=source.trust_remote_code,
            local_files_only=source.cached_only,
            use_safetensors=None if source.allow_pickle else True,
        )
    if model.get_output_embeddings() is None:
        raise BadInput(
            f"{source.name} has no output embedding that preftilt could read; use another model"
        )
    with explained_errors(source):
        model = model.to(source.device)
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, source.device, source.dtype)


def load_reward_model(source: ModelSource, tokenizer: Any) -> LoadedModel:
    """A sequence-classification model with one output, in memory, for inference.

    Raises :class:`BadInput` for a model without such a head: transformers would initialise one at random.
    """
    with quiet_transformers(), explained_errors(source, "a reward model"):
        model, loading_info = transformers.AutoModelForSequenceClassification.from_pretrained(
            source.place,
            dtype=source.dtype,
            trust_remote_code=source.trust_remote_code,
            local_files_only=source.cached_only,
            use_safetensors=None if source.allow_pickle else True,
            output_loading_info=True,
        )
        if loading_info["missing_keys"]:
            missing = ", ".join(sorted(loading_info["missing_keys"])[:3])
            raise BadInput(
                f"{source.name} is no reward model: its files lack {missing};"
                " name a sequence-classification model that was trained to score"
            )
        if model.config.num_labels != 1:
            raise BadInput(
                f"{source.name} has {model.config.num_labels} outputs, and a reward model has one; name another"
            )
        model = model.to(source.device)
    model.config.get_text_config().use_cache = False
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, source.device, source.dtype)


def context_of(config: Any) -> int:
    """Tokens of prompt and response together, by the model's config."""
    text = config.get_text_config()
    limits = [getattr(text, name, None) for name in CONTEXT_FIELDS]
    return next((value for value in limits if isinstance(value, int) and value > 0), UNLIMITED)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.partition(":")[0] == "mps":
        raise BadInput(
            "--device mps cannot be used: tokens are drawn and log-probs added up in float64, which Apple's GPUs lack;"
            " use cpu"
        )
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"--device {device} cannot be used here ({error}); use auto or cpu"
        ) from error
    return chosen


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise BadInput(f"--dtype {dtype} is not known; use auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _check_folder(folder: Path, allow_pickle: bool) -> None:
    if not (folder / "config.json").is_file():
        raise UnknownModel(
            f"{folder} holds no model (no config.json in it, and no GGUF file); the bundled model is called demo"
        )
    safe = any(folder.glob("*.safetensors"))
    pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
    if not safe and pickled and not allow_pickle:
        raise BadInput(_pickle_only(str(folder)))
    if not safe and not pickled:
        raise BadInput(f"{folder} holds no weights (no *.safetensors in it)")


def _pickle_only(name: str) -> str:
    return (
        f"{name} has its weights only as pickle files, which can run code when they are opened; convert them to"
        " safetensors, or allow them with --allow-pickle if you trust their source"
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and warnings from transformers inside the block; the user's settings are restored after it."""
    verbosity, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _hub_is_reachable(name: str) -> bool:
    """Check once, with a short timeout, whether the hub can be reached; the loaders would retry for long."""
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return True  # It answers; the loaders will report what is wrong with this name.
    except Exception:  # Depends on the HTTP library in use.
        return False
    return True


_FAILURES = (OSError, ValueError, KeyError, ImportError, RuntimeError, MemoryError, SafetensorError)
"""What loading can raise; safetensors' own error is a bare Exception."""


@contextmanager
def explained_errors(source: ModelSource, kind: str = "a causal language model") -> Iterator[None]:
    """Translate errors of transformers and the hub into ours; ``kind`` is the expected kind of model."""
    try:
        yield
    except PreftiltError:
        raise
    except _FAILURES as error:
        raise _translated(source, error, kind) from error


def _translated(source: ModelSource, error: Exception, kind: str) -> Exception:
    text, name, local = str(error), source.name, Path(source.place).is_dir()
    bundled = "the bundled model needs no hub: use demo"
    if isinstance(error, SafetensorError):
        return BadInput(
            f"{name} has a damaged weight file ({text}); it may have been cut off on its way: get it again"
        )
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return BadInput(
            f"{name} does not fit into the memory of its device; use a smaller model, --dtype bfloat16 or another"
            " --device (cpu)"
        )
    if "trust_remote_code" in text:
        return BadInput(
            f"{name} brings its own code; allow it with --trust-remote-code if you trust its source"
        )
    if "safetensors" in text and "not" in text and not local:
        return BadInput(_pickle_only(name))
    if isinstance(error, OSError) and source.cached_only:
        return UnknownModel(
            f"{name} is not a local folder, not in the cache, and the model hub cannot be reached; {bundled}"
        )
    if isinstance(error, OSError) and not local:
        return UnknownModel(
            f"{name} is neither a local folder nor a model that the hub would give out (check the spelling; a private"
            f" or gated model needs a login); {bundled}"
        )
    return BadInput(f"{name} cannot be loaded as {kind}: {first_line(error)}")


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
