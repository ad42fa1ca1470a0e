"""The compiled race has the winners of the one in torch; it needs numba, which only vLLM's environment has."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch

from preftilt.engines.lockstep import rows
from preftilt.engines.transformers.sampler import gumbel_argmax

COLUMNS = 512
"""As many tokens are looked at together."""


@pytest.fixture(scope="module")
def race() -> ModuleType:
    return importlib.import_module("preftilt.engines.lockstep.race")


def test_so_many_columns_are_looked_at_together(race: ModuleType):
    assert race.COLUMNS == COLUMNS


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 3.0, 30.0, 3000.0])
@pytest.mark.parametrize("vocabulary", [1, 7, COLUMNS, 3 * COLUMNS + 5])
def test_the_compiled_race_has_the_same_winners(race: ModuleType, spread: float, vocabulary: int):
    generator = torch.Generator().manual_seed(vocabulary)
    scores = spread * torch.randn(50, vocabulary, generator=generator)
    scores[torch.rand(50, vocabulary, generator=generator) < 0.2] = -torch.inf
    keys = torch.randint(-(2**63), 2**63 - 1, (50,), generator=generator)
    assert torch.equal(race.race(scores, keys), gumbel_argmax(scores, keys))


def test_a_row_without_a_number_draws_what_the_race_in_torch_does(race: ModuleType):
    scores = torch.zeros(3, 40)
    scores[0, 5], scores[1, 6], scores[2] = torch.inf, torch.nan, -torch.inf
    keys = torch.arange(3)
    assert torch.equal(race.race(scores, keys), gumbel_argmax(scores, keys))


def test_vllms_environment_draws_by_it(race: ModuleType):
    assert rows._race() is race.race
