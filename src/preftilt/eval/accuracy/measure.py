"""One comparison under all rules, and its record: every distinct view reads every response once.

Records are a line a comparison, so that an interrupted run goes on and a report needs no model.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import GuidedView, Mixture, NormaliseRequest, ScoreRequest
from preftilt.engines.waiting import together
from preftilt.errors import BadInput, EngineError
from preftilt.eval.accuracy.comparisons import Comparison, TokenisedComparison
from preftilt.eval.accuracy.rules import AskingRule, Blend, MixingRule, Rule, RuleValue
from preftilt.eval.runner import measure_into
from preftilt.records.journal import Journal, Survey, dated, shown_by, survey
from preftilt.records.lines import read_records
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
    if not together or not engine.capabilities.normalises:
        return {}
    requests = [
        NormaliseRequest(
            reads=tuple(
                ScoreRequest(prompt=prompt, completion=response.tokens, reader=reader)
                for prompt, reader in reads
            ),
            mixtures=tuple(
                Mixture(tuple(view.weight for view in blend.views), blend.mask, blend.preferred)
                for blend in (blends[name] for name in names)
            ),
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


def _key(view: GuidedView) -> ViewKey:
    return view.prompt, view.reader


SCHEMA = "preftilt.policy-accuracy/1"
FIELDS = ("unnormalised", "policy", "reward")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordStore:
    """Where records are: ``resume`` goes on with the file, ``force`` begins it anew. ``how`` shapes every record."""

    path: Path
    how: Mapping[str, Any]
    schema: str = SCHEMA
    resume: bool = False
    force: bool = False

    def of(self, contexts: Sequence[TokenisedComparison]) -> RecordStore:
        """The store with what the prompts of ``contexts`` show of the moment, which shapes records, too."""
        shown = shown_by(contexts[0].engine) if contexts else ()
        return replace(self, how=dated(self.how, shown))

    def known(self, items: Sequence[Comparison]) -> Survey:
        """What is there; raises :class:`~preftilt.errors.BadInput` if it is another run's, or may not be touched."""
        if self.resume and self.force:
            raise BadInput("--resume and --force exclude each other")
        if not self.path.exists() or self.force:
            return Survey()
        if not self.resume:
            raise BadInput(f"{self.path} exists: --resume goes on with it, --force begins it anew")
        known = survey(self.path)
        marks = {item.id: item.fingerprint(self.how) for item in items}
        for id, written in known.done.items():
            if written.fingerprint != marks.get(id):
                raise BadInput(
                    f'{self.path} line {written.line} (id "{id}") was made otherwise: of other words, rules or model'
                    " options; repeat the old call to go on with it, or begin anew with --force"
                )
        return known


Work = Callable[[TokenisedComparison], Awaitable[dict[str, Any]]]
"""What is measured of a comparison: the fields of its record that are not its name."""


async def collect(
    store: RecordStore,
    contexts: Sequence[TokenisedComparison],
    work: Work,
    *,
    in_flight: int,
    on_item: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """The records of all comparisons, in their order; those in the file already are not measured again."""
    store = store.of(contexts)
    known = store.known([context.item for context in contexts])
    store.path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not store.path.exists() or store.force
    journal = (
        Journal.create(store.path) if fresh else Journal.resume(store.path, known, known.failed)
    )
    done = len(known.done)

    async def record(context: TokenisedComparison) -> list[dict[str, Any]]:
        item = context.item
        head = {
            "schema": store.schema,
            "id": item.id,
            "fingerprint": item.fingerprint(store.how),
            "user": item.user,
            "group": item.group,
        }
        return [head | await work(context)]

    def report_progress() -> None:
        nonlocal done
        done += 1
        on_item(done)

    left = [partial(record, context) for context in contexts if context.item.id not in known.done]
    await measure_into(journal, left, in_flight, report_progress)
    by_id = {record["id"]: record for record in read_records(store.path)}
    return [by_id[context.item.id] for context in contexts]


def values_of(record: Mapping[str, Any], rule: str) -> list[RuleValue]:
    """A rule's values of the responses in a record; JSON has no infinity."""

    def read(written: Mapping[str, Any]) -> RuleValue:
        values: dict[str, Any] = {k: -math.inf if v == "-inf" else v for k, v in written.items()}
        return RuleValue(**values)

    return [read(written) for written in record["rules"][rule]]


async def measured(
    context: TokenisedComparison, rules: Sequence[Rule], *, policy: bool
) -> dict[str, Any]:
    """The rules' values of a comparison, for its record."""
    measurement = await measure(context, rules, policy=policy)
    return {
        "lengths": list(measurement.lengths),
        "rules": {
            name: [_written(value) for value in values]
            for name, values in measurement.values.items()
        },
        "examples": dict(measurement.examples),
    }


def _written(value: RuleValue) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: "-inf" if (number := getattr(value, name)) == -math.inf else number for name in FIELDS
    }
    if value.inside is not None:
        values["inside"] = value.inside
    return values | {"whole": True} if value.whole else values
