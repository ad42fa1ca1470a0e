"""How S-IFEval is asked and answered here: the system constraints are the preference, the user's words the question."""

from __future__ import annotations

from preftilt.eval.harness.method import BenchmarkProtocol
from preftilt.eval.harness.rear import LINE_SEARCHES
from preftilt.eval.harness.request import BenchmarkRequest
from preftilt.eval.sys_ifeval.data import SysIFEvalItem
from preftilt.messages import Message
from preftilt.types import Preference

MAX_TOKENS = 200
"""Of an answer; rows whose constraints ask for more are left out unless all are asked for."""

PROTOCOL = BenchmarkProtocol(
    settings={"temperature": 0.8, "top_p": 0.9, "max_tokens": MAX_TOKENS},
    searches=LINE_SEARCHES,
)
"""Sampling as in the first trial on SmolLM2; λ, reduction and search are preftilt's defaults."""


def request_for(item: SysIFEvalItem) -> BenchmarkRequest:
    """The row as it is asked."""
    return BenchmarkRequest(
        messages=(Message("user", item.question),), preferences=(Preference(item.preference),)
    )
