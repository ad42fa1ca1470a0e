"""What an evaluation may spend, and how its judge is asked.

When the budget is spent, what is left is recorded as not done, and the run ends in order.
"""

from __future__ import annotations

from dataclasses import dataclass

from preftilt.declare import check_settings, setting
from preftilt.errors import BadInput, PreftiltError


class BudgetSpent(PreftiltError):
    """No more may be spent. It is caught inside an evaluation and recorded with the item."""


@dataclass(slots=True)
class Budget:
    """Counts what one task spends, and refuses to go beyond its limits; None is no limit.

    max_judge_calls: requests to judges, repeats of failed ones included, answers from the cache not, nor the one at
        the beginning that asks whether the judge is there.
    max_tokens_total: tokens read and written by the model under test and by judges. It is looked at before every
        answer and every judgement, so those under way at that moment still end: it can be exceeded by their tokens.
    """

    max_judge_calls: int | None = None
    max_tokens_total: int | None = None
    judge_calls: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("max_judge_calls", "max_tokens_total"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise BadInput(f"{name} is {value}; give 0 or more, or leave it out")

    @property
    def tokens_left(self) -> int | None:
        """Tokens that may still be spent; None without a limit."""
        return (
            None if self.max_tokens_total is None else max(0, self.max_tokens_total - self.tokens)
        )

    @property
    def spent(self) -> bool:
        """Whether no more tokens may be spent."""
        return self.tokens_left == 0

    def check_tokens(self) -> None:
        """Raises :class:`BudgetSpent` if no more tokens may be spent."""
        if self.spent:
            raise BudgetSpent(
                f"the budget of {self.max_tokens_total} tokens is spent ({self.tokens} used); raise max_tokens_total"
            )

    @property
    def allows_judge_call(self) -> bool:
        """Whether one more request to a judge may be sent."""
        calls = self.max_judge_calls is None or self.judge_calls < self.max_judge_calls
        return calls and not self.spent

    def take_judge_call(self) -> None:
        """Count one request to a judge, or raise :class:`BudgetSpent`."""
        self.check_tokens()
        if not self.allows_judge_call:
            raise BudgetSpent(
                f"the budget of {self.max_judge_calls} judge calls is spent; raise max_judge_calls"
            )
        self.judge_calls += 1

    def give_back_judge_call(self) -> None:
        """The call just taken cost nothing: its answer came from the cache."""
        self.judge_calls -= 1

    def spend(self, tokens: int) -> None:
        """Count tokens that were read or written."""
        self.tokens += tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """How a judge is asked; sampling as the benchmark's protocol says.

    attempts: how often one judgement is asked for at most. max_retries: how often Inspect repeats one request that the
    provider calls worth repeating (rate limits, timeouts), unless the run says otherwise (``--max-retries``).
    """

    max_tokens: int = setting(least=1)
    temperature: float = setting(0.0, least=0)
    top_p: float | None = setting(None, above=0, most=1)
    attempts: int = setting(3, least=1)
    max_retries: int = setting(4, least=0)
    timeout_s: int = setting(300, least=1)
    cache: bool = True
    role: str = "judge"
    default: str = "openai/gpt-4.1"

    def __post_init__(self) -> None:
        check_settings(self)


COUNTS: tuple[str, ...] = ("judge_junk", "judge_failed", "over_budget")
"""What is counted beside every judged benchmark's numbers: judgements that cannot be read, that were not given, and
that were not asked for."""
