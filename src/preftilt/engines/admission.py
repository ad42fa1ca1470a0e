"""Requests that wait for rows take turns, so that one of 64 candidates does not stand before one of a single one.

Nothing is asked about who sends a request: every request has its turn, whoever sent it.
"""

from __future__ import annotations

ROWS_PER_TURN = 8
"""Rows that a request begins in one turn: enough to share the reading of its prompt."""


def rows_by_turn_end(started: int, slots: int, *, alone: bool) -> int:
    """How many of its ``slots`` a request that has begun ``started`` may have begun when its turn is over.

    alone: nobody else waits, so that it may begin all of them.
    """
    return slots if alone else min(slots, (started // ROWS_PER_TURN + 1) * ROWS_PER_TURN)
