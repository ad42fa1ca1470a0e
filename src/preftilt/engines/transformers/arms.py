"""Autoregressive reward models (ARMs) on a model's weights: whose adapter is on for which token of a forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import torch

from preftilt.arm.attach import AttachedArm, Hooks, registered_hooks
from preftilt.types import Reader

Readers = tuple[Reader | None, ...]
"""Who reads every token of a forward; None is the base model."""

KEPT_HOOKS, KEPT_ROWS = 4, 128
"""So many forwards' hooks, of so many rows at most, are remembered: while no row ends, every step reads alike."""


class AttachedArms:
    """The ARMs that are attached to one model, by name."""

    def __init__(self, arms: Mapping[str, AttachedArm], device: torch.device) -> None:
        self.by_name = dict(arms)
        self._device = device
        self._kept = lru_cache(maxsize=KEPT_HOOKS)(self._hooks)

    @contextmanager
    def reading(self, readers: Readers) -> Iterator[None]:
        """Within it, a forward of a batch of len(``readers``) rows reads row i as ``readers[i]``."""
        hooks = self._kept if len(readers) <= KEPT_ROWS else self._hooks
        with registered_hooks(hooks(readers)):
            yield

    def _hooks(self, readers: Readers) -> Hooks:
        """Those of every ARM that reads any row, by its preference vectors [M, k]; NaN where it does not."""
        hooks: Hooks = ()
        for name in sorted({reader.arm for reader in readers if reader is not None}):
            arm = self.by_name[name]
            off = (float("nan"),) * len(arm.spec.objectives)
            rows = [
                reader.alpha if reader is not None and reader.arm == name else off
                for reader in readers
            ]
            hooks += arm.hooks(torch.tensor(rows, dtype=torch.float32, device=self._device))
        return hooks
