"""Diverse verifier tree search with REAR as the verifier.

Beeching, Tunstall and Rush (2024) for the search; REAR (arXiv 2606.30339, section 4 and appendix) for the score. Each
subtree keeps one live node, draws ``width`` continuations of one step, and keeps the one whose **whole partial
response** scores highest; where a score depends on a pool, that is these continuations, and in the end the subtrees'
answers. Deviations from the published searches, all for the better answer: the delimiter token stays
in the text; a step is never blank; the final answer is chosen among the subtrees' own responses, not among losing
siblings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from preftilt.declare import check_settings, setting
from preftilt.search.base import Plan, Score, best, rank
from preftilt.types import Candidate, Expand, Outcome, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class DVTS:
    """Diverse verifier tree search (Beeching, Tunstall and Rush, 2024), with REAR's score as the verifier.

    Each of ``subtrees`` grows by itself: a step draws ``width`` continuations and keeps the one whose whole partial
    response scores highest. The best response of all subtrees wins.

    Attributes:
        subtrees: trees that grow side by side.
        width: continuations that are drawn in a step.
        delimiter: a step ends at the first token that completes this text. The token stays in the response.
        max_steps: steps at most. The last goes on to the end of the response.
    """

    subtrees: int = setting(4, least=1)
    width: int = setting(4, least=1)
    delimiter: str = setting("\n", least=1, metavar="TEXT")
    max_steps: int = setting(40, least=1)
    name: str = field(default="dvts", init=False)

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def candidates(self) -> int:
        return self.subtrees * self.width

    def plans(self, root: Candidate, score: Score, max_tokens: int) -> Sequence[Plan]:
        return [self._grow(root, score, max_tokens, tree) for tree in range(self.subtrees)]

    def conclude(self, outcomes: Sequence[Outcome], score: Score) -> Outcome:
        leaves = [candidate for outcome in outcomes for candidate in outcome.ranked]
        return Outcome(
            rank(leaves, score),
            stopped="; ".join(dict.fromkeys(outcome.stopped for outcome in outcomes)),
            steps=max(outcome.steps for outcome in outcomes),
        )

    def _grow(self, root: Candidate, score: Score, max_tokens: int, tree: int) -> Plan:
        slots = tuple(range(tree * self.width, (tree + 1) * self.width))
        node, steps = root, 0
        while steps < self.max_steps and node.finish == "step" and len(node.tokens) < max_tokens:
            steps += 1
            children = yield Expand(
                parent=node,
                slots=slots,
                max_tokens=max_tokens - len(node.tokens),
                step=Step(self.delimiter) if steps < self.max_steps else None,
            )
            node = best(children, score)
        if node.finish == "step":
            node = replace(node, finish="length")
        stopped = "token budget spent" if node.finish == "length" else "end of the response"
        return Outcome((node,), stopped=stopped, steps=steps)
