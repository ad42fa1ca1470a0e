"""Answers to prompts under a grid of preference vectors, rated by reward and cost models: what fronts are made of.

The published protocol of the field (PARM, ICML 2025; UniARM, arXiv 2602.09538): step 0.1, one answer a prompt and
vector, objectives rated by models of their own; a cost model counts with its sign turned: all are higher-better.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from preftilt.api import Realigner
from preftilt.errors import BadInput, PreftiltError
from preftilt.eval.runner import measure_into, surveyed
from preftilt.prompt import answer_text, build_query
from preftilt.records.journal import Journal, Survey, dated, error_record, shown_by
from preftilt.records.rows import CheckedRow
from preftilt.rivals.reward_models import RewardModel
from preftilt.run import plain_completion

IN_FLIGHT = 32

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rater:
    """An objective, the model that rates it, and −1 where that model tells a cost."""

    name: str
    model: RewardModel
    sign: int


def grid(objectives: int, steps: int) -> list[tuple[float, ...]]:
    """All preference vectors whose entries are multiples of 1/``steps``; 11 for two objectives and 10 steps."""
    if objectives < 2 or steps < 1:
        raise BadInput("a sweep needs at least two objectives and one step")
    counts = product(range(steps + 1), repeat=objectives)
    return [tuple(count / steps for count in some) for some in counts if sum(some) == steps]


async def sweep(
    realigner: Realigner,
    items: Sequence[CheckedRow],
    raters: Sequence[Rater],
    alphas: Sequence[tuple[float, ...]],
    path: Path,
    *,
    method: str,
    identity: Mapping[str, Any],
    on_done: Callable[[int], None] = lambda done: None,
) -> int:
    """Append a record an item and vector to ``path``; those that are there already are not made again.

    Without reward models that read along (``settings.arms``) nothing depends on the vector: an item is answered once,
    and its answer stands under all of them. A failure becomes a record, tried again by the next run; returns how many.
    ``identity`` is whatever else decides what an answer and its rewards are; records made otherwise are refused.
    """
    known = surveyed(path)
    identity = dated(identity, shown_by(realigner.engine))
    fingerprints = {item.id: item.fingerprint(identity) for item in items}
    _check_same(known, fingerprints, path)
    failed = 0
    done = len(known.done)

    async def answer_item(item: CheckedRow, ids: Mapping[tuple[float, ...], str]) -> list[Json]:
        nonlocal failed, done
        mark = fingerprints[item.id]
        try:
            answer = await _answered(realigner, item, raters, next(iter(ids)))
        except PreftiltError as failure:
            failed += len(ids)
            return [error_record(id, failure, mark) for id in ids.values()]
        done += len(ids)
        return [
            {"id": id, "method": method, "alpha": _named(raters, alpha), "prompt": item.id}
            | answer
            | {"fingerprint": mark}
            for alpha, id in ids.items()
        ]

    tasks = []
    for item in items:
        reads = bool(item.settings.arms.names)
        for group in [[alpha] for alpha in alphas] if reads else [list(alphas)]:
            ids = {alpha: json.dumps([method, list(alpha), item.id]) for alpha in group}
            left = {alpha: id for alpha, id in ids.items() if id not in known.done}
            if left:
                tasks.append(partial(answer_item, item, left))
    journal = Journal.resume(path, known, again=known.failed)
    await measure_into(journal, tasks, IN_FLIGHT, lambda: on_done(done))
    return failed


async def _answered(
    realigner: Realigner, item: CheckedRow, raters: Sequence[Rater], alpha: tuple[float, ...]
) -> dict[str, Any]:
    engine, settings = realigner.engine, item.settings
    if settings.arms.names:
        mix = ",".join(f"{name}={share!r}" for name, share in _named(raters, alpha).items())
        settings = replace(settings, arms=replace(settings.arms, alpha=mix))
    elif not item.preferences and settings.prompt.history == "both":
        query = build_query(engine.tokenizer, item.messages, (), settings=settings.prompt)
        drawn, _ = await plain_completion(engine, query, settings, item.id)
        text = answer_text(engine.tokenizer, drawn.tokens)
        return await _rated(raters, item, text, len(drawn.tokens))
    result = await realigner.realign(
        item.messages, item.preferences, settings=settings, item=item.id
    )
    tokens = len(result.candidates[0].tokens)
    return await _rated(raters, item, result.text, tokens)


async def _rated(
    raters: Sequence[Rater], item: CheckedRow, text: str, tokens: int
) -> dict[str, Any]:
    rewards = {}
    for rater in raters:
        [score] = (await rater.model.score([(item.messages, text)])).scores
        if score is None:
            raise PreftiltError(f"{rater.model.name} has no score for this answer: it does not fit")
        rewards[rater.name] = rater.sign * score
    return {"rewards": rewards, "tokens": tokens, "text": text}


def _check_same(known: Survey, fingerprints: Mapping[str, str], path: Path) -> None:
    for id, written in known.done.items():
        prompt = json.loads(id)[-1]
        if written.fingerprint != fingerprints.get(prompt, written.fingerprint):
            raise BadInput(
                f'{path} holds an answer to "{prompt}" that was made otherwise: repeat the old call to go on with it,'
                " or name another --output"
            )


def _named(raters: Sequence[Rater], alpha: tuple[float, ...]) -> dict[str, float]:
    return {rater.name: share for rater, share in zip(raters, alpha, strict=True)}
