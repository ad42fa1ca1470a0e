"""The running vLLM as an engine: its tokenizer opened as ours, and measured as any other vLLM is.

Sequences are drawn by its engine client, in place of a thread of our own.
"""

# pyright: reportMissingImports=false
# vLLM is not part of the environment that types are checked in.

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import uuid4

from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind

from preftilt.engines.options import EngineOptions
from preftilt.engines.tokenizer import open_tokenizer
from preftilt.engines.vllm.engine import VllmEngine
from preftilt.engines.vllm.sequences import VllmSequence
from preftilt.engines.vllm.start_vllm import measure
from preftilt.engines.vllm.worker import settle
from preftilt.errors import BadInput, EngineError
from preftilt.types import Tokens


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


class ClientWorker:
    """Hands sequences to ``client``, an ``AsyncLLM``, on its event loop (``Submits`` of ``engines/vllm/worker.py``)."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, sequences: Iterable[VllmSequence]) -> None:
        """Hand over sequences; from any thread."""
        self._loop.call_soon_threadsafe(self._start, list(sequences))

    def close(self) -> None:
        """Nothing: vLLM is its server's to stop."""

    def _start(self, sequences: list[VllmSequence]) -> None:
        if len(sequences) > 1 and not self._tasks:
            # An idle vLLM begins a step with the first request that it sees, and the others come too late for it. So
            # it is given something to do until all are there: the reading of a prompt, which it then has in its cache.
            longest = max((sequence.tokens for sequence in sequences), key=len)
            self._run(self._occupy(longest))
        for sequence in sequences:
            task = self._run(self._ask(sequence))
            sequence.future.add_done_callback(
                lambda future, task=task: (
                    future.cancelled() and self._loop.call_soon_threadsafe(task.cancel)
                )
            )

    def _run(self, work: Any) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _occupy(self, tokens: Tokens) -> None:
        params = SamplingParams(
            n=1,
            temperature=0.0,
            max_tokens=1,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async for _ in self._client.generate(tokens_input(list(tokens)), params, _name()):
            pass

    async def _ask(self, sequence: VllmSequence) -> None:
        if sequence.future.done():
            return
        try:
            prompt = tokens_input(list(sequence.tokens))
            outputs = self._client.generate(prompt, sequence.params, _name())
            async with aclosing(outputs):
                async for output in outputs:
                    result = sequence.take_output(output)
                    if result is not None:
                        settle(sequence, result)
                        return
            settle(sequence, EngineError("vLLM ended a request before its answer was whole"))
        except Exception as error:  # vLLM may raise anything; nobody may be left waiting.
            settle(sequence, EngineError(f"vLLM failed: {error}"), error)


def _name() -> str:
    return f"preftilt-{uuid4().hex}"
