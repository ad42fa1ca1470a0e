"""The score: log-probs of a response under its views become one number, linear in λ.

REAR (arXiv 2606.30339) eq. 9 and 10: S(τ) = Σ_t γ^t [(1 − λ) q_t + λ p_t] with q_t = log π(a_t | question) and
p_t = log π(a_t | question, preference). With several preferences S = Σ_t γ^t [q_t + Σ_i λ_i (p_i,t − q_t)]. Sums are
taken in float64 as q + λ (p − q), so that identical views give the same score for every λ, exactly. Trained reward
models add Σ_j w_j log π_ARM,j(a_t) (GenARM, ICLR 2025): beside preferences whatever λ is, without any as what λ scales.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.errors import BadInput, EngineError
from preftilt.types import ArmTerm, Candidate, EosScoring, Query, Reduction


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """How per-token log-probs are added up.

    gamma: discount in (0, 1]; the first response token has weight 1.
    reduction: ``sum`` (the paper's eq. 10) or ``mean`` (the sum divided by the number of scored tokens).
    eos: whether the EOS a response ended with is scored as the terminal action it is.
    """

    gamma: float = 1.0
    reduction: Reduction = "sum"
    eos: EosScoring = "include"

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise BadInput(f"gamma must lie in (0, 1], not {self.gamma}")
        if self.reduction not in ("sum", "mean"):
            raise BadInput(f"reduction must be 'sum' or 'mean', not {self.reduction!r}")
        if self.eos not in ("include", "exclude"):
            raise BadInput(f"eos must be 'include' or 'exclude', not {self.eos!r}")


@dataclass(frozen=True, slots=True)
class Line:
    """A candidate's score as a function of λ: ``question_logprob + λ · preference_gain``, in nats.

    ``question_logprob`` is the score at λ = 0: without the preference, but with what reward models beside it add. Both
    are divided by the number of scored tokens under the ``mean`` reduction.
    """

    question_logprob: float
    preference_gain: float

    def at(self, lam: float) -> float:
        """S at ``lam``; −inf when a token is impossible under a view or nothing was scored."""
        if not (math.isfinite(self.question_logprob) and math.isfinite(self.preference_gain)):
            return -math.inf
        return self.question_logprob + lam * self.preference_gain


IMPOSSIBLE = Line(-math.inf, 0.0)
"""The line of a response that must not win: empty, or with a token that some view holds impossible."""


def token_gains(
    logprobs: Float[np.ndarray, "K T"], ratios: tuple[float, ...], arms: tuple[ArmTerm, ...] = ()
) -> Float[np.ndarray, "T"]:
    """Per-token preference gain Σ_i ratio_i (p_i,t − q_t) + Σ_j ratio_j a_j,t, the slope of the score in λ (nats).

    ``ratios`` and ``arms`` are those of a :class:`~preftilt.types.Query`, and the rows of ``logprobs`` its views.
    """
    preferred, read = logprobs[1 : 1 + len(ratios)], logprobs[1 + len(ratios) :]
    gains = np.zeros(logprobs.shape[1])
    for ratio, view in zip(ratios, preferred, strict=True):
        gains += ratio * (view - logprobs[0])
    for term, view in zip(arms, read, strict=True):
        gains += term.ratio * view
    return gains


def line(
    candidate: Candidate,
    ratios: tuple[float, ...],
    reward: Reward,
    arms: tuple[ArmTerm, ...] = (),
) -> Line:
    """The candidate's :class:`Line`; ``ratios`` and ``arms`` are those of its :class:`~preftilt.types.Query`."""
    logprobs = candidate.logprobs
    if np.isnan(logprobs).any() or (logprobs > 1e-6).any():
        raise EngineError(
            "the engine returned a log-prob that is NaN or above 0; "
            "run preftilt.testing.laws against it, or load the model in float32"
        )
    if reward.eos == "exclude" and candidate.finished:
        logprobs = logprobs[:, :-1]
    if logprobs.shape[1] == 0 or np.isneginf(logprobs).any():
        return IMPOSSIBLE
    weights = reward.gamma ** np.arange(logprobs.shape[1])
    length = logprobs.shape[1] if reward.reduction == "mean" else 1
    alone = logprobs[0]
    for term, view in zip(arms, logprobs[1 + len(ratios) :], strict=True):
        alone = alone + term.fixed * view if term.fixed else alone
    return Line(
        float(weights @ alone) / length,
        float(weights @ token_gains(logprobs, ratios, arms)) / length,
    )


def line_of(candidate: Candidate, query: Query, reward: Reward) -> Line:
    """The candidate's :class:`Line` as ``query`` weighs its views."""
    return line(candidate, query.ratios, reward, query.arms)


def score(candidate: Candidate, query: Query, reward: Reward) -> float:
    """S(τ) of a whole or partial response under the query's λ."""
    return line_of(candidate, query, reward).at(query.lam)
