"""The groups of a batch, on logits that are written down: who draws with whom, and who is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from preftilt.engines.lockstep.member_params import (
    FIELD,
    MemberParams,
    MemberRow,
    read_member_params,
)
from preftilt.engines.lockstep.rows import GroupedRows
from preftilt.engines.transformers import sampler
from preftilt.errors import BadInput
from preftilt.guided import adapted, combine, masked, pick
from preftilt.streams import position_key
from preftilt.types import Mask, Sampling

pytestmark = pytest.mark.model

VOCABULARY = 40
REFUSALS = (37, 38, 39)


def member_params(member: int = 0, size: int = 2, **changes: Any) -> MemberParams:
    weights = {1: (1.0,), 2: (-1.0, 2.0), 3: (-0.5, 2.0, -0.5)}[size]
    usual = MemberParams(
        group="a",
        member=member,
        size=size,
        refusal=REFUSALS[member],
        weights=weights,
        sampling=Sampling(temperature=0),
        key=2**64 - 3,
        start=5,
        vocabulary=VOCABULARY,
    )
    return replace(usual, **changes)


def batch(
    *members: tuple[MemberParams, int] | None, rows: GroupedRows | None = None
) -> GroupedRows:
    """A batch whose rows are these members, each with so many tokens drawn; None is anybody else's request."""
    rows = rows or GroupedRows()
    placed = [member and MemberRow(member[0], range(member[1])) for member in members]
    rows.update([], list(enumerate(placed)), [])
    return rows


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, VOCABULARY, generator=generator)


def by_hand(raw_logits: torch.Tensor, rows: list[int], of: MemberParams, drawn: int) -> int:
    """The group's token by the rule in numpy."""
    raw = torch.log_softmax(raw_logits[rows].double(), -1).numpy()
    weights = adapted(raw, of.weights) if of.strength_by == "divergence" else of.weights
    left = masked(combine(raw, weights), raw[of.preferred], of.mask)
    return pick(left, of.sampling, position_key(of.key, of.start + drawn))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampling": Sampling()},
        {"sampling": Sampling(temperature=0.7, top_p=0.8, top_k=9)},
        {"sampling": Sampling(), "mask": Mask(top_p=0.6), "preferred": 1},
        {"sampling": Sampling(), "mask": Mask(top_p=0.6, of="result")},
        {"sampling": Sampling(), "strength_by": "divergence"},
    ],
    ids=str,
)
def test_all_rows_of_a_group_draw_the_token_of_the_rule(changes):
    for seed in range(20):
        raw_logits = logits(3, seed)
        first, second = member_params(0, **changes), member_params(1, **changes)
        forced = batch((second, 4), None, (first, 4)).apply(raw_logits.clone())
        token = by_hand(raw_logits, [2, 0], first, drawn=4)
        assert forced.argmax(dim=1).tolist()[::2] == [token, token]
        assert torch.softmax(forced, -1)[[0, 2], token].tolist() == [1.0, 1.0]


def test_several_groups_of_several_sizes_draw_at_once_each_for_itself():
    raw_logits = logits(6, 3)
    triple = [member_params(member, 3, group="b", sampling=Sampling()) for member in range(3)]
    other = [member_params(member, group="c") for member in range(2)]
    alone = member_params(0, 1, group="d", sampling=Sampling(temperature=2.0))
    order = [
        (triple[1], 2),
        (other[0], 9),
        (alone, 0),
        (triple[0], 2),
        (triple[2], 2),
        (other[1], 9),
    ]
    drawn = batch(*order).apply(raw_logits.clone()).argmax(dim=1).tolist()
    b = by_hand(raw_logits, [3, 0, 4], triple[0], 2)
    c = by_hand(raw_logits, [1, 5], other[0], 9)
    d = by_hand(raw_logits, [2], alone, 0)
    assert drawn == [b, c, d, b, b, c]


def test_many_groups_are_drawn_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sampler, "MIXED", 3 * VOCABULARY)
    raw_logits = logits(22)
    order = [
        (member_params(row % 2, group=str(row // 2), sampling=Sampling()), row) for row in range(22)
    ]
    forced = batch(*((member, row // 2) for member, row in order)).apply(raw_logits.clone())
    expected = [
        by_hand(raw_logits, [row, row + 1], order[row][0], row // 2) for row in range(0, 22, 2)
    ]
    assert forced.argmax(dim=1).tolist() == [token for token in expected for _ in range(2)]


def test_other_requests_logits_are_not_touched():
    raw_logits = logits(4)
    forced = batch(None, (member_params(0), 1), (member_params(1), 1), None).apply(
        raw_logits.clone()
    )
    assert torch.equal(forced[[0, 3]], raw_logits[[0, 3]])
    assert torch.equal(batch(None, None).apply(raw_logits.clone()), raw_logits)


@pytest.mark.parametrize(
    "members",
    [
        [(member_params(0), 3)],
        [(member_params(0), 3), (member_params(1), 2)],
        [(member_params(0), 3), (member_params(1, group="another attempt"), 3)],
        [(member_params(0, 3), 3), (member_params(1, 3), 3)],
        [(member_params(0), 3), (member_params(0), 3)],
    ],
    ids=["alone", "one behind", "of another attempt", "one missing", "twice the same"],
)
def test_a_member_whose_group_is_not_in_step_draws_its_refusal(members):
    forced = batch(*members).apply(logits(len(members)))
    assert forced.argmax(dim=1).tolist() == [member.refusal for member, _ in members]


def test_a_group_out_of_step_leaves_another_in_step():
    raw_logits = logits(3)
    pair = [member_params(member, group="b") for member in range(2)]
    forced = batch((pair[0], 1), (member_params(1), 1), (pair[1], 1)).apply(raw_logits.clone())
    token = by_hand(raw_logits, [0, 2], pair[0], 1)
    assert forced.argmax(dim=1).tolist() == [token, REFUSALS[1], token]


def test_ids_without_a_text_are_not_drawn():
    raw_logits = logits(2)
    holes = tuple(range(0, VOCABULARY, 2))
    raw_logits[:, 30:] += 50.0
    bounds: list[dict[str, Any]] = [{"vocabulary": 30, "refusal": 1}, {"holes": holes}]
    drawn = [
        batch((member_params(0, **known), 0), (member_params(1, **known), 0))
        .apply(raw_logits.clone())
        .argmax(dim=1)
        for known in bounds
    ]
    assert max(drawn[0].tolist()) < 30
    assert all(token % 2 for token in drawn[1].tolist())


def test_members_are_found_again_after_vllm_has_moved_rows():
    """Removed first, then added, then moved, as vLLM's own processors take it."""
    rows = batch(
        (member_params(0), 1), None, (member_params(1), 1), (member_params(0, group="b"), 7)
    )
    rows.update([1], [], [(3, 1, False)])
    raw_logits = logits(3)
    forced = rows.apply(raw_logits.clone())
    token = by_hand(raw_logits, [0, 2], member_params(0), 1)
    assert forced.argmax(dim=1).tolist() == [token, REFUSALS[0], token]
    rows.update([], [(3, MemberRow(member_params(1, group="b"), range(7)))], [(0, 3, True)])
    raw_logits = logits(4, 1)
    forced = rows.apply(raw_logits.clone())
    a, b = (
        by_hand(raw_logits, [3, 2], member_params(0), 1),
        by_hand(raw_logits, [1, 0], member_params(0), 7),
    )
    assert forced.argmax(dim=1).tolist() == [b, b, a, a]
    rows.update([0, 1, 2, 3], [(0, None)], [])
    assert torch.equal(rows.apply(raw_logits.clone()), raw_logits)


def test_a_member_is_at_the_position_that_its_request_has_reached():
    """vLLM lets its lists of drawn tokens grow; nobody tells of it."""
    drawn: list[int] = []
    rows = GroupedRows()
    both = [(row, MemberRow(member_params(row, sampling=Sampling()), drawn)) for row in range(2)]
    rows.update([], both, [])
    raw_logits = logits(2)
    for position in range(4):
        forced = rows.apply(raw_logits.clone())
        token = by_hand(raw_logits, [0, 1], member_params(0, sampling=Sampling()), position)
        assert forced.argmax(dim=1).tolist() == [token, token]
        drawn.append(token)


def test_member_params_come_back_as_they_went():
    for written in (
        member_params(1),
        member_params(2, 3, mask=Mask(top_p=0.5, of="result"), holes=(3, 4), key=2**64 - 1),
    ):
        assert read_member_params(written.as_args()) == written
    assert read_member_params(None) is None
    assert read_member_params({"another": 1}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"member": 2},
        {"size": 3},
        {"weights": [np.nan, 1.0]},
        {"sampling": [-1.0, 1.0, 0]},
        {"strength_by": "chance"},
        {"refusal": VOCABULARY},
        {"preferred": 2},
        {"group": "a", "key": "x"},
        {"holes": 3},
    ],
    ids=str,
)
def test_member_params_that_a_client_made_up_are_refused(changes):
    fields = member_params(0).as_args()[FIELD] | changes
    with pytest.raises(BadInput, match="preftilt's own"):
        read_member_params({FIELD: fields})
    with pytest.raises(BadInput, match="preftilt object"):
        read_member_params({FIELD: "me"})
