"""A model's tokenizer without its weights, for engines whose model runs elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import transformers

from preftilt.engines.chat_template import HfChatTokenizer, open_chat
from preftilt.engines.models import model_folder
from preftilt.engines.options import EngineOptions
from preftilt.engines.vocabulary import Vocabulary, end_ids, known_ids
from preftilt.errors import BadInput, UnknownModel
from preftilt.types import Tokens

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTokenizer:
    """A tokenizer, and what else its model's files say.

    turn_end: the id that ends an assistant's turn. context: the model's maximum context, if its files say.
    """

    chat: HfChatTokenizer
    vocabulary: Vocabulary
    turn_end: int
    context: int | None
    raw: PreTrainedTokenizerBase

    def spell(self, tokens: Tokens) -> str:
        """The text of tokens, special ones included, for servers that only take text."""
        text: Any = self.raw.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def open_tokenizer(name: str, options: EngineOptions) -> ModelTokenizer:
    """Open the tokenizer of a model by hub id, path or short name, with the chat options.

    Raises :class:`~preftilt.errors.UnknownModel` if there is none, and :class:`~preftilt.errors.BadInput` if it cannot
    be used.
    """
    folder = model_folder(name)
    try:
        raw: Any = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UnknownModel(
            f"{name} is neither a local folder with a tokenizer nor a hub id that can be had from here; name one with"
            " --tokenizer"
        ) from error
    raw.name_or_path = name  # As messages call it.
    chat = open_chat(raw, options)
    config = _config(transformers.AutoConfig, folder)
    generation = _config(transformers.GenerationConfig, folder)
    named = SimpleNamespace(config=config, generation_config=generation)
    eos, turn_end = end_ids(named, raw, chat.template_or_none)
    if turn_end is None:
        raise BadInput(
            f"{name} names no token that ends a response; set eos_token in its tokenizer_config.json"
        )
    rows = getattr(config, "vocab_size", None) or 1 + max(raw.get_vocab().values())
    size, holes = known_ids(raw, rows)
    context = getattr(config, "max_position_embeddings", None)
    return ModelTokenizer(
        chat=chat,
        vocabulary=Vocabulary(size, holes, eos, chat),
        turn_end=turn_end,
        context=context if isinstance(context, int) and context > 0 else None,
        raw=raw,
    )


def _config(kind: Any, folder: str) -> Any:
    """A model's configuration; None if there is none beside the tokenizer."""
    try:
        config = kind.from_pretrained(folder)
    except (OSError, ValueError):
        return None
    return config.get_text_config() if hasattr(config, "get_text_config") else config
