"""Fair admission: requests that wait for rows take turns, so that one with 64 candidates does not block one with a
single candidate. Fairness is by request, whoever sent it.
"""

from __future__ import annotations

ROWS_PER_TURN = 8
"""Rows that a request starts in one turn: enough to share the prefill of its prompt."""


def rows_by_turn_end(started: int, slots: int, *, alone: bool) -> int:
    """How many of its ``slots`` a request with ``started`` rows may have started at the end of its turn.

    alone: no other request waits, so that it may start all of them.
    """
    return slots if alone else min(slots, (started // ROWS_PER_TURN + 1) * ROWS_PER_TURN)
