"""The running vLLM as an engine: its tokenizer opened as ours, and measured as any other vLLM is."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path
from typing import Any

from preftilt.engines.options import EngineOptions
from preftilt.engines.tokenizer import open_tokenizer
from preftilt.engines.vllm.engine import VllmEngine
from preftilt.engines.vllm.start_vllm import measure
from preftilt.errors import BadInput
from preftilt.vllm_plugin.client import ClientWorker


def open_client(
    client: Any, loop: asyncio.AbstractEventLoop, name: str, args: Namespace
) -> VllmEngine:
    """The engine on ``client``, which lives on ``loop``; called beside it. ``args`` are the server's flags.

    Raises :class:`~preftilt.errors.BadInput` if it cannot guide.
    """
    options = EngineOptions(
        chat_template=_template(args.chat_template),
        template_kwargs=args.default_chat_template_kwargs or {},
    )
    known = open_tokenizer(client.model_config.tokenizer, options)
    engine = measure(name, ClientWorker(client, loop), client, known, "auto")
    if not engine.capabilities.guides:
        raise BadInput(
            "the members of a group do not draw together in this vLLM, so nothing can be guided: preftilt's logits"
            " processor was not loaded (is preftilt installed in vLLM's own environment?)"
        )
    return engine


def _template(argument: str | None) -> str | None:
    if argument is not None and not Path(argument).is_file():
        raise BadInput("--chat-template must be a file for preftilt: write the template to one")
    return argument
