"""Autoregressive reward models (ARMs) on a model's weights: whose adapter is on for which token of a forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from preftilt.arm.attach import Arm
from preftilt.types import Reader

Readers = tuple[Reader | None, ...]
"""Who reads every token of a forward; None is the base model."""

KEPT = 8
"""Forwards whose preference vectors are remembered: while no row ends, every step reads alike."""


class Arms:
    """The ARMs that are attached to one model, by name."""

    def __init__(self, arms: Mapping[str, Arm], device: torch.device) -> None:
        self.by_name = dict(arms)
        self._device = device
        self._alphas = lru_cache(maxsize=KEPT)(self._make_alphas)

    @contextmanager
    def reading(self, readers: Readers) -> Iterator[None]:
        """Within it, a forward of a batch of len(``readers``) rows reads row i as ``readers[i]``."""
        with ExitStack() as on:
            for name, alphas in self._alphas(readers).items():
                on.enter_context(self.by_name[name].rows(alphas))
            yield

    def _make_alphas(self, readers: Readers) -> dict[str, Tensor]:
        """The preference vectors [M, k] of every ARM that reads any row; NaN where it does not."""
        found: dict[str, Tensor] = {}
        for name in {reader.arm for reader in readers if reader is not None}:
            off = (float("nan"),) * len(self.by_name[name].spec.objectives)
            rows = [one.alpha if one is not None and one.arm == name else off for one in readers]
            found[name] = torch.tensor(rows, dtype=torch.float32, device=self._device)
        return found
