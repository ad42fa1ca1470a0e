"""The score: log-probs of a response under its views become one number, linear in λ.

REAR (arXiv 2606.30339) eq. 9 and 10: S(τ) = Σ_t γ^t [(1 − λ) q_t + λ p_t] with q_t = log π(a_t | question) and
p_t = log π(a_t | question, preference). With several preferences S = Σ_t γ^t [q_t + Σ_i λ_i (p_i,t − q_t)]. Sums are
taken in float64 as q + λ (p − q), so that identical views give the same score for every λ, exactly. Trained reward
models add Σ_j w_j log π_ARM,j(a_t) (GenARM, ICLR 2025): beside preferences whatever λ is, without any as what λ scales.

A score may depend on the others that a response is compared with (``centred``), so it is asked for of a whole pool.

The order of scored responses, and the tie rule, stand here, too (:func:`order`). A response that its token budget cut
off is not what the model would have said, and its score lacks the end. What is done with such responses is the reward's
``cut_off``: ``last`` puts them behind every one that ended, whatever the scores, so that one of them wins only if none
ended; ``as-is`` compares them by their scores like the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from preftilt.declare import check_settings, setting
from preftilt.errors import EngineError
from preftilt.types import ArmTerm, Candidate, CutOff, EosScoring, Query, Reduction

LAMBDA: Final = 20.0
"""λ where it ranks whole responses: the paper's value for best-of-N."""

LAMBDA_OF_TOKENS: Final[Mapping[str, float]] = {"cfg": 2.0}
"""λ where it is that of every token, by the search's name."""

REDUCTION: Final = "sum"
"""How token scores become one number (:class:`~preftilt.reward.Reward`): the paper's equation 10."""

CUT_OFF: Final = "last"
"""What is done with answers that were cut off (:mod:`preftilt.reward`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """How the per-token log-probs of a response become its score, in nats (REAR, arXiv 2606.30339, eq. 10).

    Attributes:
        gamma: discount a token; the first response token has weight 1.
        reduction: sum over tokens (the paper's eq. 10); divided by their number; or measured against what as many
            tokens have on average among the candidates, whatever their lengths. See :func:`reduced`.
        eos: whether the end-of-turn token that a response ended with is scored.
        cut_off: responses that ran out of tokens: behind all that ended, or by their scores.

    Raises:
        BadInput: for a value out of range.
    """

    gamma: float = setting(1.0, above=0, most=1)
    reduction: Reduction = REDUCTION
    eos: EosScoring = "include"
    cut_off: CutOff = CUT_OFF

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """A candidate's score as a function of λ: ``question_logprob + λ · preference_gain``, in nats.

    ``question_logprob`` is the score at λ = 0: without the preference, but with what reward models beside it add. Both
    are reduced as the reward says.
    """

    question_logprob: float
    preference_gain: float

    def at(self, lam: float) -> float:
        """S at ``lam``; −inf when a token is impossible under a view or nothing was scored.

        At λ = ±inf the gain alone decides, so that it stands for S.
        """
        if not (math.isfinite(self.question_logprob) and math.isfinite(self.preference_gain)):
            return -math.inf
        if math.isinf(lam):
            return math.copysign(1.0, lam) * self.preference_gain
        return self.question_logprob + lam * self.preference_gain


IMPOSSIBLE = ScoreLine(-math.inf, 0.0)
"""The line of a response that must not win: empty, or with a token that some view holds impossible."""


@runtime_checkable
class HasSums(Protocol):
    """All that reductions need of a response: discounted sums over its ``length`` scored tokens, in nats.

    ``question_logprob`` is −inf for a response with an impossible token.
    """

    @property
    def length(self) -> int: ...

    @property
    def question_logprob(self) -> float: ...

    @property
    def preference_gain(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Sums:
    """A response's :class:`HasSums`."""

    question_logprob: float
    preference_gain: float
    length: int


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


def sums(
    candidate: Candidate, ratios: tuple[float, ...], reward: Reward, arms: tuple[ArmTerm, ...] = ()
) -> Sums:
    """Σ_t γ^t of a whole or partial response; ``ratios`` and ``arms`` are those of its query.

    The sum begins behind the response's thoughts, at γ^0; nothing of a response without an answer is scored.
    """
    logprobs = candidate.logprobs
    if np.isnan(logprobs).any() or (logprobs > 1e-6).any():
        raise EngineError(
            "the engine returned a log-prob that is NaN or above 0; "
            "run preftilt.testing.laws against it, or load the model in float32"
        )
    if reward.eos == "exclude" and candidate.finished:
        logprobs = logprobs[:, :-1]
    logprobs = logprobs[:, candidate.thoughts :]
    length = logprobs.shape[1]
    if length == 0 or np.isneginf(logprobs).any():
        return Sums(-math.inf, 0.0, length)
    weights = reward.gamma ** np.arange(length)
    alone = logprobs[0]
    for term, view in zip(arms, logprobs[1 + len(ratios) :], strict=True):
        alone = alone + term.fixed * view if term.fixed else alone
    return Sums(
        float(weights @ alone),
        float(weights @ token_gains(logprobs, ratios, arms)),
        length,
    )


def reduced(
    responses: Sequence[HasSums], reward: Reward, pool: Sequence[HasSums] | None = None
) -> list[ScoreLine]:
    """The :class:`ScoreLine` of each response, reduced as ``reward`` says; ``centred`` compares them with ``pool``.

    ``centred`` is made for pools of different lengths. Suppose that nothing tells the responses apart: all their tokens
    have log-probs of mean μ and variance σ², uncorrelated. A sum with weights w_t = γ^t then has the mean W1 μ and the
    variance W2 σ², with W1 = Σ_t γ^t and W2 = Σ_t γ^2t (both L without discount), so a longer response has the smaller
    sum and the greater chance to be far out. Estimating μ by the pool's own mean a token, q̄ = Σ_i Q_i / Σ_i W1_i over
    its responses i, and likewise d̄ for the gain,

        S_c = [(Q − W1 q̄) + λ (D − W1 d̄)] / √W2

    has mean 0 and the variance σ² at every length. It is affine in λ. A constant added to every log-prob of a view
    changes nothing; responses of one length rank as by the sum; Σ_i √W2_i S_c,i = 0, so a pool of one scores 0.
    Responses that cannot win (:data:`IMPOSSIBLE`) are no part of the means. ``pool`` None: the responses themselves.
    """
    if reward.reduction == "centred":
        question, gain = _means(responses if pool is None else pool, reward.gamma)
        return [_centred(response, question, gain, reward.gamma) for response in responses]
    return [
        _scaled(response, response.length if reward.reduction == "mean" else 1)
        if possible(response)
        else IMPOSSIBLE
        for response in responses
    ]


def possible(response: HasSums) -> bool:
    """Whether anything was scored, and every token can be."""
    return (
        response.length > 0
        and math.isfinite(response.question_logprob)
        and math.isfinite(response.preference_gain)
    )


def lines(
    pool: Sequence[Candidate],
    ratios: tuple[float, ...],
    reward: Reward,
    arms: tuple[ArmTerm, ...] = (),
) -> list[ScoreLine]:
    """The :class:`ScoreLine` of every candidate of a pool; ``ratios`` and ``arms`` are those of its query."""
    return reduced([sums(candidate, ratios, reward, arms) for candidate in pool], reward)


def lines_of(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[ScoreLine]:
    """The :class:`ScoreLine` of every candidate of a pool, as ``query`` weighs their views."""
    return lines(pool, query.ratios, reward, query.arms)


def scores(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """S(τ) of every response of a pool, whole or partial, under the query's λ."""
    return [line.at(query.lam) for line in lines_of(pool, query, reward)]


def _means(pool: Sequence[HasSums], gamma: float) -> tuple[float, float]:
    """q̄ and d̄; exact sums, so that the order of the pool does not matter."""
    able = [response for response in pool if possible(response)]
    weight = math.fsum(_weights(response.length, gamma)[0] for response in able)
    if not able:
        return 0.0, 0.0
    question = math.fsum(response.question_logprob for response in able)
    gain = math.fsum(response.preference_gain for response in able)
    return question / weight, gain / weight


def _centred(response: HasSums, question: float, gain: float, gamma: float) -> ScoreLine:
    if not possible(response):
        return IMPOSSIBLE
    first, second = _weights(response.length, gamma)
    spread = first / math.sqrt(second)
    return ScoreLine(
        (response.question_logprob / first - question) * spread,
        (response.preference_gain / first - gain) * spread,
    )


@lru_cache(maxsize=1 << 14)
def _weights(length: int, gamma: float) -> tuple[float, float]:
    """Σ_t γ^t and Σ_t γ^2t over ``length`` tokens."""
    weights = gamma ** np.arange(length)
    return float(weights.sum()), float(weights @ weights)


def _scaled(response: HasSums, divisor: int) -> ScoreLine:
    return ScoreLine(response.question_logprob / divisor, response.preference_gain / divisor)


# --- the order of scored responses, which searches and methods share ---------------------


def order(
    scores: Sequence[float | None], cut_off: Sequence[bool], rule: CutOff, *, vote: bool = False
) -> list[int]:
    """Indices of N responses, best first; ``scores`` and ``cut_off`` [N] stand in the order drawn.

    The higher score goes first, a response without one (None) last, and the first drawn wins ties; by ``rule``
    responses that were cut off come behind all that. In a ``vote``, where responses that give the same answer have the
    same score, the answer counts before that: a response that was cut off may have given it, and hands it on to one
    that ended.
    """
    keys: list[tuple[float, ...]] = []
    for i, (score, cut) in enumerate(zip(scores, cut_off, strict=True)):
        standing = (1.0, 0.0) if score is None else (0.0, -score)
        behind = cut and rule == "last"
        keys.append((*standing, behind, i) if vote else (behind, *standing, i))
    return sorted(range(len(keys)), key=keys.__getitem__)


def contenders(cut_off: Sequence[bool], rule: CutOff) -> list[bool]:
    """Which of N responses may win at some λ: by ``last``, those that were cut off only if all were."""
    return [rule == "as-is" or not cut or all(cut_off) for cut in cut_off]
