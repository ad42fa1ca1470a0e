"""The next token of every group in a batch: its rows draw it together, or not at all.

A row may only draw with its group if every member is in this very step, at the same position of the response. Any other
row of a group must draw its own *refusal*, a token that ends it there and that no two members share. So whoever asked
for the group sees the members disagree wherever they were not in step, and no token of an incomplete group passes for
a guided one. A member whose prompt is only half read stands in the batch, too, and vLLM throws away what it draws: the
group is then one position ahead of it, and refused in the next step, so that the members disagree there as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from preftilt.engines.lockstep.member_params import MemberParams, MemberRow
from preftilt.engines.transformers.sampler import (
    GuidanceRule,
    Race,
    RowSampling,
    choose,
    gumbel_argmax,
)
from preftilt.streams import position_key
from preftilt.types import Tokens

CERTAIN = 1e30
"""The logit of a token that must be drawn: above all others, and finite, so that no softmax over the row is NaN."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """The rows of one group, in the order of its members; ``whole``: every member is there, once."""

    rows: tuple[int, ...]
    members: tuple[MemberRow, ...]
    whole: bool
    rule: GuidanceRule

    @property
    def first(self) -> MemberParams:
        """The parameters of the first member that is there: all agree on the rule."""
        return self.members[0].params

    def sampling(self) -> RowSampling | None:
        """How it draws its next token; None where it must not, since its members are not in step."""
        position = len(self.members[0].drawn)
        if not self.whole or any(len(member.drawn) != position for member in self.members):
            return None
        key = position_key(self.first.key, self.first.start + position)
        return RowSampling(self.first.sampling, key, self.rows, self.rule)


def _grouped(rows: Iterable[tuple[int, MemberRow]]) -> list[RowGroup]:
    by_name: dict[str, list[tuple[int, MemberRow]]] = {}
    for row, member in rows:
        by_name.setdefault(member.params.group, []).append((row, member))
    groups: list[RowGroup] = []
    for placed in by_name.values():
        placed.sort(key=lambda entry: entry[1].params.member)
        first = placed[0][1].params
        groups.append(
            RowGroup(
                rows=tuple(row for row, _ in placed),
                members=tuple(member for _, member in placed),
                whole=[member.params.member for _, member in placed] == list(range(first.size)),
                rule=GuidanceRule(first.weights, first.mask, first.preferred, first.strength_by),
            )
        )
    return groups


def force(logits: Tensor, groups: Sequence[RowGroup]) -> None:
    """Leave every row of a group in ``logits`` [R, V] one token to draw, in place; other rows are not touched."""
    drawing: dict[tuple[int, Tokens], list[RowSampling]] = {}
    rows: list[int] = []
    tokens: list[int] = []
    for group in groups:
        sampling = group.sampling()
        if sampling is not None:
            drawing.setdefault((group.first.vocabulary, group.first.holes), []).append(sampling)
        else:
            rows += group.rows
            tokens += [min(member.params.refusal, logits.shape[1] - 1) for member in group.members]
    for ids, row_samplings in drawing.items():
        for row_sampling, token in zip(
            row_samplings, _chosen(logits, row_samplings, *ids), strict=True
        ):
            rows += row_sampling.logit_rows
            tokens += [token] * len(row_sampling.logit_rows)
    where = torch.tensor([rows, tokens], device=logits.device)
    logits[where[0], where[1]] = CERTAIN


def _chosen(
    logits: Tensor, row_samplings: Sequence[RowSampling], vocabulary: int, holes: Tokens
) -> list[int]:
    """The groups' tokens, among the ids below ``vocabulary`` that are none of the ``holes``."""
    known = logits[:, :vocabulary]
    inside = [hole for hole in holes if hole < known.shape[1]]
    if inside:
        rows = torch.tensor(
            [row for row_sampling in row_samplings for row in row_sampling.logit_rows]
        )
        known[rows[:, None], torch.tensor(inside)] = -torch.inf
    return choose(known, row_samplings, _race())


@lru_cache(maxsize=1)
def _race() -> Race:
    """The compiled race, which takes numba; vLLM has it."""
    try:
        from preftilt.engines.lockstep.race import race
    except ImportError:
        return gumbel_argmax
    return race


class GroupedRows:
    """Which row of the batch is which member's, kept up to date as vLLM fills, empties and moves rows."""

    def __init__(self) -> None:
        self._rows: dict[int, MemberRow] = {}
        self._groups: list[RowGroup] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def update(
        self,
        removed: Iterable[int],
        added: Iterable[tuple[int, MemberRow | None]],
        moved: Iterable[tuple[int, int, bool]],
    ) -> None:
        """Follow a change of the batch, in vLLM's order: removed, added, moved.

        added: (row, its member or None for anybody else's request), in place of whoever was there. moved: (from, to,
        whether they swap).
        """
        self._groups = None
        for row in removed:
            self._rows.pop(row, None)
        for row, member in added:
            self._put(row, member)
        for source, target, swap in moved:
            arriving, leaving = self._rows.pop(source, None), self._rows.pop(target, None)
            self._put(target, arriving)
            if swap:
                self._put(source, leaving)

    def apply(self, logits: Tensor) -> Tensor:
        """``logits`` float32 [R, V], with one token to draw in every member's row."""
        if self._groups is None:
            self._groups = _grouped(self._rows.items())
        if self._groups:
            force(logits, self._groups)
        return logits

    def _put(self, row: int, member: MemberRow | None) -> None:
        if member is None:
            self._rows.pop(row, None)
        else:
            self._rows[row] = member
