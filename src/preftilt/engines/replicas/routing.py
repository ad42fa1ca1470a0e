"""Routes prompts to replicas.

Highest-random-weight (rendezvous) hashing (Thaler and Ravishankar, IEEE/ACM Transactions on Networking 6, 1998): a
prompt ranks all replicas by a hash of both, and goes to the first. It keeps no state, so several processes that use
the same replicas agree, and when one replica is lost only its prompts move. Loads are bounded as in consistent
hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, SODA 2018): a replica that holds more than its share
is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from preftilt.types import Tokens

LOAD_SLACK = 1.25
"""A replica's load at most, relative to the mean load."""

FREE_LOAD = 64
"""Running sequences below which no replica counts as loaded: a batch that a server runs at once. So a prompt stays on
its replica, where its prefix is cached, unless others would finish it sooner."""


def rank_replicas(prompt: Tokens, names: Sequence[str]) -> list[str]:
    """``names`` in the order in which the prompt prefers them."""
    digest = blake2b(np.array(prompt, dtype="<i8").tobytes(), digest_size=16).digest()
    return sorted(names, key=lambda name: blake2b(digest + name.encode()).digest())


def choose_replica(
    prompt: Tokens, loads: Mapping[str, int], weight: int, free_load: int = FREE_LOAD
) -> str:
    """The replica for work of ``weight`` sequences on ``prompt``.

    loads: running sequences, by the names of the available replicas. It is the first in the prompt's order whose load
    is below the bound; that of the least loaded one always is.
    """
    mean = (sum(loads.values()) + weight) / len(loads)
    bound = max(free_load, math.ceil(LOAD_SLACK * mean))
    return next(name for name in rank_replicas(prompt, [*loads]) if loads[name] < bound)
