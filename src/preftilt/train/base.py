"""The model that adapters are trained on: loaded, frozen, in 4 bits if asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from torch import Tensor

from preftilt.arm.spec import Objective
from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.transformers.loading import (
    ModelSource,
    context_of,
    find_model,
    load_model,
    load_tokenizer,
)
from preftilt.engines.vocabulary import end_ids, known_ids
from preftilt.errors import BadInput, MissingPackage
from preftilt.prompt import read_moment
from preftilt.train.losses import CausalLM, causal_lm
from preftilt.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """The base's source, tokenizer and chat template: all that tokenising takes, before the weights are loaded."""

    source: ModelSource
    tokenizer: Any
    chat: HfChatTokenizer


@dataclass(frozen=True, slots=True)
class FrozenBase:
    """A frozen model, the token id that ends a turn, and its context in tokens."""

    lm: CausalLM
    end: int
    context: int


def find_base(settings: TrainSettings) -> BaseFiles:
    """Look for the base and load its tokenizer; raises as :func:`~preftilt.engines.open.open_engine` does."""
    source = find_model(
        settings.model,
        dtype=settings.dtype,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
    )
    if settings.four_bit:
        _check_four_bit(source)
    tokenizer = load_tokenizer(source)
    now = None if settings.now is None else read_moment(settings.now)
    chat = HfChatTokenizer(tokenizer, chat_template=settings.chat_template, now=now)
    _ = chat.template  # Raises now, before the weights are read, if there is none.
    if now is None and (moment := chat.moment) is not None:
        raise BadInput(
            f"the chat template shows the date ({', '.join(moment.shown)}), and training may go on another day: say"
            f" which one it shows, --now {moment.now:%Y-%m-%d}"
        )
    return BaseFiles(source, tokenizer, chat)


def load_base(files: BaseFiles, settings: TrainSettings) -> FrozenBase:
    """The model in memory. Its own weights take no gradients."""
    model = (
        _quantised(files) if settings.four_bit else load_model(files.source, files.tokenizer).model
    )
    rows = model.get_output_embeddings().weight.shape[0]
    size, holes = known_ids(files.tokenizer, rows)
    _, end = end_ids(model, files.tokenizer, files.chat.template)
    if end is None:
        raise BadInput(
            f"{settings.model} names no token that ends a response; set eos_token_id in its generation_config.json"
        )
    if settings.gradient_checkpointing:
        _checkpoint_gradients(model)
    context = context_of(model.config)
    lm = causal_lm(model, size, holes, settings.reduction)
    return FrozenBase(lm, end, min(context, settings.max_length or context))


def describe(base: FrozenBase, files: BaseFiles, objectives: Sequence[Objective]) -> Tensor:
    """Embeddings [k, d] of the objectives' descriptions, of unit length, on the CPU.

    The mean of the base's last hidden states over the description's tokens: part of our reconstruction of UniARM,
    whose reviews say no more than that the base itself embeds the descriptions.
    """
    embeddings: list[Tensor] = []
    for objective in objectives:
        ids = files.chat.encode(objective.description)
        if not ids:
            raise BadInput(
                f"objective {objective.name} has an empty description; say what it asks for"
            )
        with torch.no_grad():
            states = base.lm.model(
                input_ids=torch.tensor([ids], device=base.lm.device), output_hidden_states=True
            ).hidden_states[-1]
        embeddings.append(torch.nn.functional.normalize(states[0].float().mean(dim=0), dim=0).cpu())
    return torch.stack(embeddings)


def _check_four_bit(source: ModelSource) -> None:
    if source.device.type != "cuda":
        raise BadInput(
            f"a base in 4 bits needs an NVIDIA GPU, and the device is {source.device.type}; leave --four-bit out"
        )
    if find_spec("bitsandbytes") is None:
        raise MissingPackage("a base in 4 bits needs bitsandbytes: pip install bitsandbytes")


def _quantised(files: BaseFiles) -> Any:
    """NF4 weights, computed with in bfloat16, as GenARM and PARM were trained."""
    source = files.source
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.place,
        dtype=torch.bfloat16,
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
        device_map={"": source.device.index or 0},
        trust_remote_code=source.trust_remote_code,
        local_files_only=source.cached_only,
        use_safetensors=None if source.allow_pickle else True,
    )
    return model.eval().requires_grad_(False)


def _checkpoint_gradients(model: Any) -> None:
    """Compute activations twice instead of keeping them; the base's own dropout stays off."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
