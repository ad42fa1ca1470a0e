"""The processor as vLLM drives it; vLLM itself is not needed for it."""

from __future__ import annotations

import subprocess
import sys
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from preftilt.engines.lockstep.processor import GroupProcessor
from preftilt.errors import BadInput
from tests.lockstep.test_rows import REFUSALS, by_hand, logits, member_params


class Move(Enum):
    """vLLM's names for it."""

    UNIDIRECTIONAL = auto()
    SWAP = auto()


def params(member: Any) -> SimpleNamespace:
    return SimpleNamespace(extra_args=None if member is None else member.as_args())


def update(
    removed: tuple[int, ...] = (),
    added: tuple[tuple[int, Any, list[int]], ...] = (),
    moved: tuple[tuple[int, int, Move], ...] = (),
) -> SimpleNamespace:
    entries = [(row, params(member), [1, 2], drawn) for row, member, drawn in added]
    return SimpleNamespace(removed=removed, added=entries, moved=moved)


@pytest.mark.model
def test_it_follows_vllms_batch_and_guides_its_groups():
    processor = GroupProcessor(None, torch.device("cpu"), False)
    assert not processor.is_argmax_invariant()
    processor.update_state(
        update(added=((0, member_params(0), []), (1, None, []), (2, member_params(1), [])))
    )
    raw_logits = logits(3)
    token = by_hand(raw_logits, [0, 2], member_params(0), 0)
    assert processor.apply(raw_logits.clone()).argmax(dim=1).tolist()[::2] == [token, token]
    processor.update_state(None)
    processor.update_state(update(moved=((2, 1, Move.SWAP),)))
    assert processor.apply(raw_logits.clone()).argmax(dim=1).tolist()[:2] == 2 * [
        by_hand(raw_logits, [0, 1], member_params(0), 0)
    ]
    processor.update_state(update(removed=(2,), moved=((1, 2, Move.UNIDIRECTIONAL),)))
    processor.update_state(update(removed=(0,)))
    assert processor.apply(raw_logits.clone()).argmax(dim=1).tolist()[2] == REFUSALS[1]


def test_without_a_group_it_imports_nothing_and_touches_nothing():
    """It is loaded by every vLLM beside which preftilt is installed, whether anybody guides there or not."""
    program = """
import sys
from types import SimpleNamespace
from preftilt.engines.lockstep.processor import GroupProcessor
processor = GroupProcessor(None, None, None)
plain = SimpleNamespace(extra_args=None), SimpleNamespace(extra_args={"other": 1})
entries = [(row, params, None, []) for row, params in enumerate(plain)]
processor.update_state(SimpleNamespace(removed=[], added=entries, moved=[]))
logits = object()
assert processor.apply(logits) is logits
assert "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_member_params_that_a_client_made_up_are_refused_before_they_are_let_in():
    GroupProcessor.validate_params(params(None))
    GroupProcessor.validate_params(params(member_params(1)))
    with pytest.raises(BadInput, match="preftilt object"):
        GroupProcessor.validate_params(SimpleNamespace(extra_args={"preftilt": "a word"}))
