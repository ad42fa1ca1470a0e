"""Reward models: conversations with a response in, one score each out. From a name to one:

=============================  =============================================================
``vllm+http(s)://HOST:PORT``   a vLLM server with a sequence-classification model
``sglang+http(s)://HOST:PORT`` an SGLang server with one (``--is-embedding``)
``MODULE:FUNCTION``            a function of yours
a name                         a scorer that a package added (entry point ``preftilt.scorers``)
a hub id or a path             a sequence-classification model, by transformers in this process
=============================  =============================================================

A scorer is a function that takes a list of pairs (:data:`Pair`) and returns a number each, None where it has none; it
may be ``async``.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from preftilt.engines.options import EngineOptions, refuse_others
from preftilt.errors import BadInput, EngineError, MissingPackage
from preftilt.guided import TrajectoryReward
from preftilt.messages import Message
from preftilt.plugins import installed, load
from preftilt.prompt import ChatTokenizer, answer_text
from preftilt.types import Tokens

Pair = tuple[Sequence[Message], str]
"""A conversation that ends with a user turn, and the text of a response to it. The preference is part of the
conversation: a system message, or the beginning of the last user turn."""


@dataclass(frozen=True, slots=True)
class RewardScores:
    """Scores of N pairs, and what they cost.

    scores: higher is better, in the model's own unit; None where there is no score (the pair does not fit into the
    model's context), never a number that stands for it. forwards: sequences that were read in full. tokens: their
    tokens, padding apart.
    """

    scores: tuple[float | None, ...]
    forwards: int = 0
    tokens: int = 0


@runtime_checkable
class RewardModel(Protocol):
    """Scores whole responses. Safe to call from many tasks at once; it batches what it is given."""

    @property
    def name(self) -> str:
        """What it is, for the record: how it was named when it was opened."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that made the numbers."""
        ...

    def check(self, messages: Sequence[Message]) -> None:
        """Raises :class:`~preftilt.errors.BadInput` if no response to this conversation could be scored."""
        ...

    async def score(self, pairs: Sequence[Pair]) -> RewardScores:
        """One score a pair, in order. Raises :class:`~preftilt.errors.EngineError` where the model fails."""
        ...

    def close(self) -> None:
        """Release threads, connections and memory."""
        ...


SCORERS = "preftilt.scorers"
"""The entry point group of scorers from other packages."""

Scorer = Callable[[Sequence[Pair]], Any]
"""Pairs → one number or None each, or an awaitable of that."""


@dataclass(frozen=True, slots=True)
class FunctionModel:
    """A scorer as a reward model. Its cost is unknown, so no forwards or tokens are counted."""

    name: str
    scorer: Scorer

    @property
    def versions(self) -> dict[str, str]:
        """None are known."""
        return {}

    def check(self, messages: Sequence[Message]) -> None:
        """Takes every conversation."""

    async def score(self, pairs: Sequence[Pair]) -> RewardScores:
        """Call the function; one that is not ``async`` runs in a thread, so that the event loop goes on."""
        try:
            if inspect.iscoroutinefunction(self.scorer):
                returned = await self.scorer(list(pairs))
            else:
                returned = await asyncio.to_thread(self.scorer, list(pairs))
                returned = await returned if inspect.isawaitable(returned) else returned
            scores = [None if score is None else float(score) for score in returned]
        except Exception as error:  # Foreign code may raise anything.
            raise EngineError(
                f"the scorer {self.name} failed: {type(error).__name__}: {error}"
            ) from error
        if len(scores) != len(pairs):
            raise EngineError(
                f"the scorer {self.name} returned {len(scores)} scores for {len(pairs)} responses"
            )
        if any(score is not None and not math.isfinite(score) for score in scores):
            raise EngineError(
                f"the scorer {self.name} returned a score that is not finite; return None where there is none"
            )
        return RewardScores(tuple(scores))

    def close(self) -> None:
        """Nothing to release."""


def installed_scorer(name: str) -> FunctionModel | None:
    """The scorer that a package added under ``name``; None if there is none."""
    scorers = installed(SCORERS)
    return FunctionModel(name, load(scorers[name])) if name in scorers else None


def named_scorer(spec: str) -> FunctionModel:
    """The function that ``module:function`` names; modules are also looked for in the working directory.

    Raises :class:`~preftilt.errors.BadInput` if there is no such function, or its module cannot be imported.
    """
    module, _, function = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        scorer = import_module(module)
        for part in function.split("."):
            scorer = getattr(scorer, part)
    except AttributeError:
        raise BadInput(f"{spec}: the module {module} has no {function}") from None
    except ImportError as error:
        raise BadInput(f"{spec}: the module {module} cannot be imported ({error})") from error
    if not callable(scorer):
        raise BadInput(f"{spec} is no function; a scorer takes a list of (messages, response)")
    return FunctionModel(spec, scorer)


KEY_VARIABLE = "PREFTILT_REWARD_API_KEY"
"""Holds the key of a reward model's server, unless the options name another variable: the key of the model's own
server is none of its business."""

_SERVER = re.compile(r"(vllm|sglang)\+(https?://.+)")
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def open_reward_model(spec: str, options: EngineOptions | None = None) -> RewardModel:
    """Open the reward model that ``spec`` names; see the top of this module::

        open_reward_model("Skywork/Skywork-Reward-V2-Qwen3-0.6B")
        open_reward_model("vllm+http://127.0.0.1:8001", EngineOptions(tokenizer="Skywork/…"))
        open_reward_model("my_scorers:brevity")

    ``options``: of a model in this process ``dtype``, ``device``, ``trust_remote_code``, ``allow_pickle`` and
    ``max_context``; of a server ``tokenizer``, ``served_model``, ``api_key_env``, ``timeout``, ``max_connections`` and
    ``max_context``. Raises :class:`~preftilt.errors.BadInput`, :class:`~preftilt.errors.UnknownModel` or
    :class:`~preftilt.errors.MissingPackage`, and :class:`~preftilt.errors.EngineError` for a server that does not
    answer.
    """
    options = options or EngineOptions()
    if options.api_key_env == EngineOptions().api_key_env:
        options = replace(options, api_key_env=KEY_VARIABLE)
    if not spec.strip():
        raise BadInput("no reward model is named; give a hub id, a path, a server or a function")
    if runs_here(spec):
        _need("torch", "transformers")
        return import_module("preftilt.rivals.classifier").open_classifier(spec, options)
    served = _SERVER.fullmatch(spec)
    if served:
        _need("httpx2", "http")
        return import_module("preftilt.rivals.served").open_served(served[1], served[2], options)
    if "://" in spec:
        raise BadInput(
            f"say which kind of server {spec} is: vllm+http://HOST:PORT or sglang+http://HOST:PORT"
        )
    refuse_others(options, "a scorer that is a function", {"api_key_env"})
    return installed_scorer(spec) or named_scorer(spec)


def runs_here(spec: str) -> bool:
    """Whether ``spec`` names a model that would be loaded into this process."""
    if Path(spec).expanduser().exists():
        return True
    return "://" not in spec and not _FUNCTION.fullmatch(spec) and spec not in installed(SCORERS)


def _need(package: str, extra: str) -> None:
    for name in (package, "transformers"):
        if find_spec(name) is None:
            raise MissingPackage(f'this reward model needs {name}: pip install "preftilt[{extra}]"')


def trajectory_reward(
    model: RewardModel, messages: Sequence[Message], tokenizer: ChatTokenizer
) -> TrajectoryReward:
    """``model``'s scores of responses to ``messages`` given by their tokens; equal texts are scored once."""

    async def rewards(responses: Sequence[Tokens]) -> list[float | None]:
        texts = [answer_text(tokenizer, response) for response in responses]
        distinct = list(dict.fromkeys(texts))
        rated = await model.score([(messages, text) for text in distinct])
        score_of = dict(zip(distinct, rated.scores, strict=True))
        return [score_of[text] for text in texts]

    return rewards
