"""The reward models (ARMs) attached to one model: which adapter is active for which token of a forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import torch

from preftilt.arm.attach import AttachedArm, Hooks, registered_hooks
from preftilt.types import Reader

Readers = tuple[Reader | None, ...]
"""The reader of every token of a forward; None is the base model."""

MAX_CACHED_HOOKS, MAX_CACHED_ROWS = 4, 128
"""How many forwards' hooks are cached, and up to how many rows: while no row ends, the readers stay the same."""


class AttachedArms:
    """The ARMs that are attached to one model, by name."""

    def __init__(self, arms: Mapping[str, AttachedArm], device: torch.device) -> None:
        self.by_name = dict(arms)
        self._device = device
        self._cached_hooks = lru_cache(maxsize=MAX_CACHED_HOOKS)(self._hooks)

    @contextmanager
    def active(self, readers: Readers) -> Iterator[None]:
        """Within the block, a forward of a batch of len(``readers``) rows computes row i under ``readers[i]``."""
        hooks = self._cached_hooks if len(readers) <= MAX_CACHED_ROWS else self._hooks
        with registered_hooks(hooks(readers)):
            yield

    def _hooks(self, readers: Readers) -> Hooks:
        """The hooks of every ARM that is active in any row; its preference vectors [M, k] are NaN in the others."""
        hooks: Hooks = ()
        for name in sorted({reader.arm for reader in readers if reader is not None}):
            arm = self.by_name[name]
            inactive = (float("nan"),) * len(arm.spec.objectives)
            rows = [
                reader.alpha if reader is not None and reader.arm == name else inactive
                for reader in readers
            ]
            hooks += arm.hooks(torch.tensor(rows, dtype=torch.float32, device=self._device))
        return hooks
