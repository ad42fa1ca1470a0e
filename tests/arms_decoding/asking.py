"""Short ways to ask an engine with reward models, and what it should draw, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from preftilt.engines.base import GuidedView, GuideRequest
from preftilt.engines.transformers import TransformersEngine
from preftilt.guided import combine, pick
from preftilt.streams import position_key, stream_key
from preftilt.types import GuidedCompletion, Reader, Sampling, Stream, Tokens
from tests.arms_decoding.made import PARM, Oracle
from tests.engine.asking import prompt
from tests.engine.models import END_ID

GREEDY = Sampling(temperature=0)
FIRST, SECOND = prompt(21, 1), prompt(34, 2)
ANSWER = prompt(9, 3)


def ask(
    readers: tuple[Reader | None, ...] = (None, PARM),
    weights: tuple[float, ...] = (1.0, 1.0),
    slots: int = 1,
    max_tokens: int = 10,
    **more: Any,
) -> GuideRequest:
    views = tuple(
        GuidedView(FIRST, weight, reader) for weight, reader in zip(weights, readers, strict=True)
    )
    settings: dict[str, Any] = {"stream": Stream(3), "sampling": GREEDY} | more
    return GuideRequest(views=views, slots=tuple(range(slots)), max_tokens=max_tokens, **settings)


async def guide(engine: TransformersEngine, request: GuideRequest) -> list[GuidedCompletion]:
    [drawn] = await engine.guide([request])
    return drawn


def by_hand(oracle: Oracle, request: GuideRequest, slot: int = 0) -> Tokens:
    """The tokens of a request, from plain forwards of every whole context and the rule in numpy."""
    key, tokens = stream_key(request.stream, slot), ()
    weights = [view.weight for view in request.views]
    while len(tokens) < request.max_tokens and tokens[-1:] != (END_ID,):
        sofar = request.prefix + tokens
        raw = [oracle.after(view.prompt + sofar, view.reader) for view in request.views]
        mixed = combine(np.stack(raw), weights)
        tokens += (pick(mixed, request.sampling, position_key(key, len(sofar))),)
    return tokens


def beside(models: Any, arms: Any) -> dict[str, Any]:
    """Options of an engine whose reward models stand on a smaller model."""
    return {"arms": arms("small"), "arm_base": models("small")}
