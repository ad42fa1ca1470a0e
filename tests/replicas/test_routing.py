"""Where prompts go: a pure function of prompt and names, bounded by loads."""

from __future__ import annotations

import math
from collections import Counter

from preftilt.engines.replicas.engine import LOAD_SLACK, choose_replica, rank_replicas

NAMES = [f"vllm+http://10.0.0.{i}:8000" for i in range(1, 5)]
PROMPTS = [(i, i + 1, 151_000 + i) for i in range(400)]


def test_a_prompt_ranks_replicas_the_same_whatever_their_order():
    for prompt in PROMPTS[:20]:
        assert rank_replicas(prompt, NAMES) == rank_replicas(prompt, NAMES[::-1])


def test_prompts_spread_evenly():
    counts = Counter(rank_replicas(prompt, NAMES)[0] for prompt in PROMPTS)
    # 400 draws of probability 1/4 have a standard deviation of 8.7.
    assert all(abs(counts[name] - 100) < 35 for name in NAMES)


def test_losing_a_replica_moves_its_prompts_only():
    lost, *left = NAMES
    moved = Counter()
    for prompt in PROMPTS:
        before, after = rank_replicas(prompt, NAMES)[0], rank_replicas(prompt, left)[0]
        if before == lost:
            moved[after] += 1
        else:
            assert after == before
    assert len(moved) == len(left)


def test_an_idle_house_keeps_a_prompt_where_it_belongs():
    loads = dict.fromkeys(NAMES, 0)
    for prompt in PROMPTS:
        assert choose_replica(prompt, loads, 64) == rank_replicas(prompt, NAMES)[0]


def test_no_load_exceeds_its_share_even_if_all_ask_the_same():
    loads = dict.fromkeys(NAMES, 0)
    for _ in range(1000):
        loads[choose_replica(PROMPTS[0], loads, 1, free_load=1)] += 1
    assert sum(loads.values()) == 1000
    assert max(loads.values()) <= math.ceil(LOAD_SLACK * 250)


def test_a_loaded_replica_passes_a_prompt_on_to_its_next():
    first, second, *_ = rank_replicas(PROMPTS[0], NAMES)
    loads = dict.fromkeys(NAMES, 0) | {first: 64}
    assert choose_replica(PROMPTS[0], loads, 1, free_load=64) == second
    assert choose_replica(PROMPTS[0], loads, 1, free_load=65) == first
