"""Rated candidates from stored records; what is missing is said with file, line and field.

A line is one item: an object with ``id``, ``candidates`` (results of ``preftilt run``, or your own), and ``split`` if
the file has several. Of a candidate are read

- ``question_logprob`` and ``preference_gain``, or ``logprobs`` with per-token lists ``question`` and ``full`` (these
  count where the record's score is ``centred``, which keeps no sums);
- ``length``, or ``tokens`` (ids or their number), and ``finished``, or ``finish`` (all but "length" are finished);
- ``quality``, any number of which more is better, or ``helpful`` and ``violates`` (1 if helpful and not violating).

``slot`` puts candidates in the order drawn. In results of ``preftilt run`` the record's settings say whether numbers
are sums or means, and with which discount; elsewhere they are plain sums. A quality of null is not known, and its item
is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftilt.errors import BadInput
from preftilt.records.lines import file_objects

Qualities = Mapping[tuple[str, int], float | None]
"""By item and slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedCandidate:
    """A candidate: its line in λ (sums over ``length`` tokens, nats), and how good it is; None if that is not known."""

    length: int
    finished: bool
    question_logprob: float
    preference_gain: float
    quality: float | None


@dataclass(frozen=True, slots=True)
class RatedPool:
    """An item's candidates, in the order drawn; ``gamma`` is the discount in their sums."""

    id: str
    candidates: tuple[RatedCandidate, ...]
    gamma: float = 1.0

    @property
    def rated(self) -> bool:
        """Whether the quality of every candidate is known."""
        return all(candidate.quality is not None for candidate in self.candidates)


@dataclass(frozen=True, slots=True)
class RecordLine:
    """A line of a file, for errors."""

    where: str
    fields: Mapping[str, Any]

    def wrong(self, problem: str) -> BadInput:
        return BadInput(f"{self.where}: {problem}")

    def number(self, name: str) -> float:
        """A number; null, which stands for −inf in records, is −inf."""
        if name not in self.fields:
            raise self.wrong(f'has no "{name}"; {NEEDED}')
        value = self.fields[name]
        if value is None:
            return -math.inf
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(f'"{name}" is {value!r}, not a number')
        return float(value)


NEEDED = (
    "a candidate needs question_logprob and preference_gain (or logprobs), length (or tokens), finished (or finish)"
    " and quality"
)


def read_pools(
    paths: Sequence[Path], *, split: str | None = None, qualities: Path | None = None
) -> list[RatedPool]:
    """The items of ``split`` in all files; None is the only split that there is.

    qualities: a file of lines ``{"id": …, "slot": …, "quality": …}`` for records that have none of their own.
    Raises :class:`~preftilt.errors.BadInput` naming file, line and field.
    """
    rated = {} if qualities is None else _qualities(qualities)
    lines = [RecordLine(*line) for path in paths for line in file_objects(path)]
    pools = [_pool(line, rated) for line in _of_split(lines, split)]
    ids = Counter(pool.id for pool in pools)
    for id, count in ids.items():
        if count > 1:
            raise BadInput(f"there are two items with the id {id!r}; give every item once")
    return pools


def _of_split(lines: Sequence[RecordLine], split: str | None) -> list[RecordLine]:
    splits = sorted({str(line.fields["split"]) for line in lines if "split" in line.fields})
    if split is None:
        if len(splits) > 1:
            raise BadInput(
                f"there are several splits ({', '.join(splits)}): say which one λ is to be chosen on (--split"
                " validation), and keep the others for measuring"
            )
        return [*lines]
    chosen = [line for line in lines if str(line.fields.get("split")) == split]
    if not chosen:
        have = f"there are {', '.join(splits)}" if splits else 'no line has a field "split"'
        raise BadInput(f"there is no item of the split {split!r}; {have}")
    return chosen


def _qualities(path: Path) -> dict[tuple[str, int], float | None]:
    qualities: dict[tuple[str, int], float | None] = {}
    for line in (RecordLine(*line) for line in file_objects(path)):
        id, slot = line.fields.get("id"), line.fields.get("slot")
        if not isinstance(id, str) or not isinstance(slot, int) or "quality" not in line.fields:
            raise line.wrong('must have "id" (text), "slot" (whole number) and "quality"')
        qualities[id, slot] = _quality(line)
    return qualities


def _pool(line: RecordLine, qualities: Qualities) -> RatedPool:
    id = line.fields.get("id")
    if not isinstance(id, str):
        raise line.wrong('has no "id"')
    if "error" in line.fields:
        raise line.wrong(f"item {id!r} failed ({line.fields['error']}); run it again first")
    listed = line.fields.get("candidates")
    if (
        not isinstance(listed, list)
        or not all(isinstance(candidate, dict) for candidate in listed)
        or not listed
    ):
        raise line.wrong('needs a list of objects "candidates"')
    settings = line.fields.get("settings") or {}
    slots = [candidate.get("slot", place) for place, candidate in enumerate(listed)]
    order = sorted(range(len(listed)), key=slots.__getitem__)
    candidates = []
    for place in order:
        fields = dict(listed[place])
        if (id, slots[place]) in qualities:
            fields["quality"] = qualities[id, slots[place]]
        where = f'{line.where} (id "{id}"), candidate {slots[place]}'
        candidates.append(_rated(RecordLine(where, fields), settings))
    return RatedPool(id, tuple(candidates), settings.get("gamma", 1.0))


def _rated(line: RecordLine, settings: Mapping[str, Any]) -> RatedCandidate:
    finish = line.fields.get("finish")
    finished = line.fields.get("finished")
    if not isinstance(finished, bool):
        if not isinstance(finish, str):
            raise line.wrong(f'has neither "finished" nor "finish"; {NEEDED}')
        finished = finish != "length"
    tokens = line.fields.get("length", line.fields.get("tokens"))
    tokens = len(tokens) if isinstance(tokens, list) else tokens
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise line.wrong(f'has no "length" or "tokens" of at least 1; {NEEDED}')
    with_eos = (finish or ("eos" if finished else "length")) == "eos"
    thoughts = (line.fields.get("reasoning") or {}).get("tokens", 0)
    length = tokens - thoughts - (settings.get("eos") == "exclude" and with_eos)
    # Nothing of a response without an answer is scored, and it cannot win.
    question, gain = _sums(line, thoughts, length, settings) if length > 0 else (-math.inf, 0.0)
    return RatedCandidate(
        length=max(1, length),
        finished=finished,
        question_logprob=question,
        preference_gain=gain if math.isfinite(gain) else 0.0,
        quality=_quality(line),
    )


def _sums(
    line: RecordLine, thoughts: int, length: int, settings: Mapping[str, Any]
) -> tuple[float, float]:
    """Question log-prob and preference gain over a candidate's ``length`` scored tokens, behind its thoughts."""
    centred = settings.get("reduction") == "centred"
    if "logprobs" not in line.fields or ("question_logprob" in line.fields and not centred):
        if centred:
            raise line.wrong(
                'its score is centred, which keeps no sums: it needs "logprobs", or draw again with --reduction sum'
            )
        times = length if settings.get("reduction") == "mean" else 1
        return times * line.number("question_logprob"), times * line.number("preference_gain")
    views, gamma = line.fields["logprobs"], settings.get("gamma", 1.0)
    try:
        question, full = (
            math.fsum(
                -math.inf if x is None else gamma**t * float(x)
                for t, x in enumerate(views[name][thoughts : thoughts + length])
            )
            for name in ("question", "full")
        )
    except (TypeError, KeyError, ValueError):
        raise line.wrong('"logprobs" must have lists of numbers "question" and "full"') from None
    if not (math.isfinite(question) and math.isfinite(full)):
        return -math.inf, 0.0
    return question, full - question


def _quality(line: RecordLine) -> float | None:
    if "quality" not in line.fields and {"helpful", "violates"} <= line.fields.keys():
        return float(bool(line.fields["helpful"]) and not line.fields["violates"])
    if "quality" not in line.fields:
        raise line.wrong(
            'has no "quality" (nor "helpful" and "violates"); rate the candidates, or give ratings with --quality FILE'
        )
    value = line.fields["quality"]
    if value is None:
        return None
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise line.wrong(f'"quality" is {value!r}, not a finite number')
    return float(value)
