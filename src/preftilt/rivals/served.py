"""Reward models behind a server: vLLM's classification and pooling routes, SGLang's classification route.

Token ids are sent, made here by the reward model's own template and tokenizer, so that a served model and one in this
process read the same; nothing is truncated. The raw logit is asked for (``use_activation: false`` of vLLM), not a
sigmoid of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import transformers
from pydantic import BaseModel

from preftilt.engines.http.connection import Connection, Declined
from preftilt.engines.http.open_server import chosen_model, close_nothing, connected
from preftilt.engines.models import model_folder
from preftilt.engines.options import EngineOptions, refuse_others
from preftilt.engines.waiting import LoopThread, together
from preftilt.errors import BadInput, EngineError
from preftilt.messages import Message
from preftilt.rivals.reward_models import Pair, RewardScores
from preftilt.rivals.template import RewardTemplate

HONOURED = frozenset(
    {"tokenizer", "served_model", "api_key_env", "timeout", "max_connections", "max_context"}
)
NO_ROUTE = frozenset({400, 404, 405, 501})
"""HTTP statuses of a route that the server's model does not support."""


class ClassifyOutput(BaseModel):
    """A sequence's class scores, of vLLM's ``/classify``."""

    probs: list[float]


class ClassifyResponse(BaseModel):
    """The answer of vLLM's ``/classify``."""

    data: list[ClassifyOutput]


class PoolingOutput(BaseModel):
    """A sequence's pooled output, of vLLM's ``/pooling``: one vector, or one a token."""

    data: list[float] | list[list[float]]


class PoolingResponse(BaseModel):
    """The answer of vLLM's ``/pooling``."""

    data: list[PoolingOutput]


class SglangClassifyResponse(BaseModel):
    """The answer of SGLang's ``/classify`` to one sequence."""

    embedding: list[float]


class Route(Protocol):
    """One request to a server: the model's outputs for one sequence of token ids."""

    async def __call__(self, connection: Connection, model: str, tokens: list[int]) -> list[float]:
        """The model's outputs: one number, if it is a reward model."""
        ...


async def classify(connection: Connection, model: str, tokens: list[int]) -> list[float]:
    """vLLM, sequence-classification models."""
    body = {"model": model, "input": tokens, "use_activation": False, "add_special_tokens": False}
    [output] = (await connection.post("/classify", body, ClassifyResponse)).data
    return output.probs


async def pooling(connection: Connection, model: str, tokens: list[int]) -> list[float]:
    """vLLM, models with a head a token: the last token's output."""
    body = {"model": model, "input": tokens, "use_activation": False, "add_special_tokens": False}
    [output] = (await connection.post("/pooling", body, PoolingResponse)).data
    last = output.data[-1]
    return (
        last
        if isinstance(last, list)
        else [number for number in output.data if isinstance(number, float)]
    )


async def sglang_classify(connection: Connection, model: str, tokens: list[int]) -> list[float]:
    """SGLang, started with ``--is-embedding``."""
    return (
        await connection.post("/classify", {"input_ids": tokens}, SglangClassifyResponse)
    ).embedding


ROUTES: dict[str, dict[str, Route]] = {
    "vllm": {"/classify": classify, "/pooling": pooling},
    "sglang": {"/classify": sglang_classify},
}
"""The routes of each kind of server, in the order in which they are tried; the first that answers is used."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A reward model on one server; sequences are sent concurrently, and the server batches them."""

    name: str
    model: str
    loop: LoopThread
    connection: Connection
    template: RewardTemplate
    route: Route
    path: str

    @property
    def versions(self) -> dict[str, str]:
        """The tokenizer's package, and the route that was used."""
        return {"transformers": transformers.__version__, "route": self.path}

    def check(self, messages: Sequence[Message]) -> None:
        """See :meth:`RewardTemplate.check`."""
        self.template.check(messages)

    async def score(self, pairs: Sequence[Pair]) -> RewardScores:
        """One request for each pair; the first failure is raised."""
        rows = [self.template.tokens(messages, text) for messages, text in pairs]
        fits = [len(row) <= self.template.context for row in rows]
        todo = [row for row, fit in zip(rows, fits, strict=True) if fit]
        scores = iter(await self.loop.wait(lambda: self._all(todo)))
        return RewardScores(
            tuple(next(scores) if fit else None for fit in fits),
            len(todo),
            sum(len(row) for row in todo),
        )

    def close(self) -> None:
        """Close the connections."""
        self.loop.close(self.connection.close)

    async def _all(self, rows: Sequence[list[int]]) -> list[float]:
        return await together(self._one(row) for row in rows)

    async def _one(self, tokens: list[int]) -> float:
        outputs = await self.route(self.connection, self.model, tokens)
        if len(outputs) != 1 or not math.isfinite(outputs[0]):
            raise EngineError(
                f"{self.connection.url}{self.path} gave {len(outputs)} numbers for a response, or one that is not"
                " finite; a reward model gives one score"
            )
        return outputs[0]


def open_served(kind: str, url: str, options: EngineOptions) -> ServedModel:
    """Open the reward model at ``url``; ``kind`` is a key of :data:`ROUTES`.

    Raises :class:`~preftilt.errors.BadInput` for a server whose model gives no single score, or whose tokenizer is not
    found, and :class:`~preftilt.errors.EngineError` for one that does not answer.
    """
    refuse_others(options, f"a reward model behind {kind}", HONOURED)
    loop = LoopThread()
    connection: Connection | None = None
    try:
        connection = loop.run(lambda: connected(url, options))
        card = loop.run(lambda: chosen_model(connection, options.served_model))
        names = [options.tokenizer] if options.tokenizer else [card.root, card.id]
        tokenizer, config = _files([name for name in names if name], connection.url)
        template = RewardTemplate(
            f"{kind}+{connection.url}", tokenizer, _context(card.max_model_len, config, options)
        )
        path, route = loop.run(lambda: _answering(kind, connection, card.id, tokenizer))
        return ServedModel(template.name, card.id, loop, connection, template, route, path)
    except BaseException:
        loop.close(connection.close if connection is not None else close_nothing)
        raise


async def _answering(
    kind: str, connection: Connection, model: str, tokenizer: Any
) -> tuple[str, Route]:
    """The first route that gives one number for a short text."""
    tokens = tokenizer("Is this a good answer?")["input_ids"]
    told: list[str] = []
    for path, route in ROUTES[kind].items():
        try:
            outputs = await route(connection, model, tokens)
        except Declined as refusal:
            if refusal.status not in NO_ROUTE:
                raise
            told.append(str(refusal))
            continue
        if len(outputs) == 1:
            return path, route
        told.append(f"{path} gives {len(outputs)} numbers")
    raise BadInput(
        f"{connection.url} serves no reward model with one score: {'; '.join(told)}; serve a sequence-classification"
        " model with one label (SGLang: with --is-embedding)"
    )


def _files(names: Sequence[str], url: str) -> tuple[Any, Any]:
    """The tokenizer under the first name that has one, and the model's config or None."""
    for name in names:
        tokenizer = _read(transformers.AutoTokenizer.from_pretrained, name)
        if tokenizer is not None:
            return tokenizer, _read(transformers.AutoConfig.from_pretrained, name)
    raise BadInput(
        f"the tokenizer of the reward model at {url} is not found under {', '.join(names)}; give its folder or hub id"
        " (--reward-tokenizer)"
    )


def _read(reader: Callable[[str], Any], name: str) -> Any:
    try:
        return reader(model_folder(name))
    except (OSError, ValueError, KeyError):
        return None


def _context(served: int | None, config: Any, options: EngineOptions) -> int:
    """Tokens that the server reads at most, by what it says, the model's files and the user."""
    known = [served, getattr(config, "max_position_embeddings", None), options.max_context]
    limits = [limit for limit in known if isinstance(limit, int) and limit > 0]
    if not limits:
        raise BadInput("the reward model's server does not say how long its context is")
    return min(limits)
