"""The next token of every group in a batch: its rows draw it together, or not at all.

A row may only draw with its group if every member is in this very step, at the same position of the response. Any other
row of a group must draw its own *refusal*, a token that ends it there and that no two members share. So whoever asked
for the group sees the members disagree wherever they were not in step, and no token of an incomplete group passes for
a guided one. A member whose prompt is only half read stands in the batch, too, and vLLM throws away what it draws: the
group is then one position ahead of it, and refused in the next step, so that the members disagree there as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from preftilt.engines.lockstep.cards import MemberCard, MemberRow
from preftilt.engines.transformers.sampler import GuidanceRule, RowSampling, choose
from preftilt.streams import position_key
from preftilt.types import Tokens

CERTAIN = 1e30
"""The logit of a token that must be drawn: above all others, and finite, so that no softmax over the row is NaN."""


def force(logits: Tensor, members: Sequence[tuple[int, MemberCard, int]]) -> None:
    """Leave every member's row of ``logits`` [R, V] one token to draw, in place; other rows are not touched.

    ``members`` are (row, card, tokens drawn so far).
    """
    groups: dict[str, list[tuple[int, MemberCard, int]]] = {}
    for member in members:
        groups.setdefault(member[1].group, []).append(member)
    drawing: dict[tuple[int, Tokens], list[RowSampling]] = {}
    rows: list[int] = []
    tokens: list[int] = []
    for group in groups.values():
        group.sort(key=lambda member: member[1].member)
        if _in_step(group):
            card = group[0][1]
            drawing.setdefault((card.vocabulary, card.holes), []).append(_row_sampling(group))
        else:
            rows += [row for row, _, _ in group]
            tokens += [min(card.refusal, logits.shape[1] - 1) for _, card, _ in group]
    for ids, row_samplings in drawing.items():
        for row_sampling, token in zip(
            row_samplings, _chosen(logits, row_samplings, *ids), strict=True
        ):
            rows += row_sampling.logit_rows
            tokens += [token] * len(row_sampling.logit_rows)
    where = torch.tensor([rows, tokens], device=logits.device)
    logits[where[0], where[1]] = CERTAIN


def _in_step(group: Sequence[tuple[int, MemberCard, int]]) -> bool:
    """Whether all its members, each once, are at the same position; ``group`` is in their order."""
    positions = {drawn for _, _, drawn in group}
    numbers = [card.member for _, card, _ in group]
    whole = numbers == list(range(group[0][1].size))
    return whole and len(positions) == 1


def _row_sampling(group: Sequence[tuple[int, MemberCard, int]]) -> RowSampling:
    _, card, drawn = group[0]
    return RowSampling(
        sampling=card.sampling,
        key=position_key(card.key, card.start + drawn),
        logit_rows=tuple(row for row, _, _ in group),
        rule=GuidanceRule(card.weights, card.mask, card.preferred, card.strength_by),
    )


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
    return choose(known, row_samplings)


class GroupedRows:
    """Which row of the batch is which member's, kept up to date as vLLM fills, empties and moves rows."""

    def __init__(self) -> None:
        self._rows: dict[int, MemberRow] = {}

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
        if self._rows:
            force(
                logits,
                [(row, member.card, len(member.drawn)) for row, member in self._rows.items()],
            )
        return logits

    def _put(self, row: int, member: MemberRow | None) -> None:
        if member is None:
            self._rows.pop(row, None)
        else:
            self._rows[row] = member
