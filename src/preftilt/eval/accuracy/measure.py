"""One comparison under all rules: every distinct view reads every response once, whatever the number of rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import ScoreRequest
from preftilt.engines.guides import GuidedView
from preftilt.engines.loop import together
from preftilt.engines.normalises import Mixture, NormaliseRequest, can_normalise
from preftilt.errors import EngineError
from preftilt.eval.accuracy.context import TokenisedComparison
from preftilt.eval.accuracy.rules import AskingRule, Blend, MixingRule, Rule, RuleValue
from preftilt.types import Reader, Tokens

ViewKey = tuple[Tokens, Reader | None]
"""A prompt, and who reads the response behind it."""

ViewLogprobs = Mapping[ViewKey, Sequence[Float[np.ndarray, "T"]]]
"""The log-probs (nats) of every response, by what read them."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Every rule's values of a comparison's responses, by the rule's name; ``lengths`` are their tokens."""

    lengths: tuple[int, ...]
    values: Mapping[str, Sequence[RuleValue]]
    examples: Mapping[str, int]


def blends_of(context: TokenisedComparison, rules: Sequence[Rule]) -> dict[str, Blend]:
    """What the rules mix; raises :class:`~preftilt.errors.BadInput` for what cannot be measured."""
    for rule in rules:
        if isinstance(rule, AskingRule):
            rule.check(context)
    return {rule.name: rule.blend(context) for rule in rules if isinstance(rule, MixingRule)}


async def measure(
    context: TokenisedComparison, rules: Sequence[Rule], *, policy: bool
) -> Measurement:
    """Read, normalise and ask; ``policy`` says whether the engine is asked for normalised policies."""
    blends = blends_of(context, rules)
    asking = [rule for rule in rules if isinstance(rule, AskingRule)]
    rule_values = await together(rule.ask(context, policy) for rule in asking)
    rows = await _read(context, blends.values())
    policies = await _policies(context, blends) if policy else {}
    values = {
        name: [
            _measured(blend, rows, policies.get(name), number)
            for number in range(len(context.responses))
        ]
        for name, blend in blends.items()
    }
    values |= {rule.name: of_rule for rule, of_rule in zip(asking, rule_values, strict=True)}
    return Measurement(
        lengths=tuple(len(response.tokens) for response in context.responses),
        values={rule.name: values[rule.name] for rule in rules},
        examples={
            name: blend.examples for name, blend in blends.items() if blend.examples is not None
        },
    )


def weighted(
    rows: Sequence[Float[np.ndarray, "T"]], weights: Sequence[float]
) -> Float[np.ndarray, "T"]:
    """Σ_k w_k log π(y_t | view k) at every token, as (Σ w) · first + Σ w_k (view_k − first); −inf where one is."""
    first, *others = rows
    impossible = np.isneginf(np.stack(rows)).any(axis=0)
    with np.errstate(invalid="ignore"):
        total = math.fsum(weights) * first
        for weight, row in zip(weights[1:], others, strict=True):
            total = total + weight * (row - first)
    return np.where(impossible, -np.inf, total)


async def _read(context: TokenisedComparison, blends: Iterable[Blend]) -> ViewLogprobs:
    reads: dict[ViewKey, None] = {}
    for blend in blends:
        reads |= dict.fromkeys(_key(view) for view in (*blend.views, *(blend.reward or ())))
    requests = [
        ScoreRequest(prompt=prompt, completion=response.tokens, reader=reader)
        for prompt, reader in reads
        for response in context.responses
    ]
    scored = await context.engine.score(requests) if requests else []
    for request, row in zip(requests, scored, strict=True):
        if len(row) != len(request.completion) or np.isnan(row).any() or (row > 1e-6).any():
            raise EngineError(
                "the engine returned log-probs that are NaN, above 0 or too few; run preftilt.testing.laws against it"
            )
    count = len(context.responses)
    return {read: scored[i * count : (i + 1) * count] for i, read in enumerate(reads)}


async def _policies(
    context: TokenisedComparison, blends: Mapping[str, Blend]
) -> dict[str, list[Float[np.ndarray, "T"]]]:
    """The normalised log-probs of every response's tokens by rule, those of rules with the same views together."""
    engine = context.engine
    together: dict[tuple[ViewKey, ...], list[str]] = {}
    for name, blend in blends.items():
        if not blend.is_policy:
            together.setdefault(tuple(map(_key, blend.views)), []).append(name)
    if not together or not can_normalise(engine):
        return {}
    requests = [
        NormaliseRequest(
            reads=tuple(
                ScoreRequest(prompt=prompt, completion=response.tokens, reader=reader)
                for prompt, reader in reads
            ),
            mixtures=tuple(_mixture(blends[name]) for name in names),
        )
        for reads, names in together.items()
        for response in context.responses
    ]
    tables_in_order = iter(await engine.normalise(requests))
    policies: dict[str, list[Float[np.ndarray, "T"]]] = {}
    for names in together.values():
        tables = [next(tables_in_order) for _ in context.responses]
        for row, name in enumerate(names):
            policies[name] = [table[row] for table in tables]
    return policies


def _measured(
    blend: Blend, rows: ViewLogprobs, policy: Sequence[Float[np.ndarray, "T"]] | None, number: int
) -> RuleValue:
    total = _total(blend.views, rows, number)
    reward = None if blend.reward is None else _total(blend.reward, rows, number)
    if policy is None:
        return RuleValue(total, total if blend.is_policy else None, reward)
    drawn = policy[number]
    if np.isnan(drawn).any():
        raise EngineError(
            "the engine returned a normalised log-prob that is NaN; load the model in float32 (--dtype float32)"
        )
    inside = int(np.isfinite(drawn).sum()) if blend.mask is not None else None
    return RuleValue(total, _sum(drawn), reward, inside)


def _total(views: Sequence[GuidedView], rows: ViewLogprobs, number: int) -> float:
    chosen = [rows[_key(view)][number] for view in views]
    return _sum(weighted(chosen, [view.weight for view in views]))


def _sum(row: Float[np.ndarray, "T"]) -> float:
    return -math.inf if np.isneginf(row).any() else math.fsum(row)


def _mixture(blend: Blend) -> Mixture:
    return Mixture(tuple(view.weight for view in blend.views), blend.mask, blend.preferred)


def _key(view: GuidedView) -> ViewKey:
    return view.prompt, view.reader
