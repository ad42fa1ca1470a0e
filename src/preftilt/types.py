"""The types that all other modules share: frozen dataclasses and literals.

Log-probabilities are **nats at temperature 1 from the unfiltered distribution**, whatever the sampling
settings were; arrays are float64. Shapes: K views, T tokens of a response, N candidates, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from preftilt.declare import check_settings, setting

Tokens = tuple[int, ...]
"""Token ids: the only form a prompt or a response has inside the core."""

Finish = Literal["eos", "stop_string", "step", "length", "content_filter", "tool_calls", "unknown"]
"""Why a completion ended: a terminal action, a text at which the request ends answers (its last token is a word of it),
the end of a search step (it may go on, and no finished response has it), or its token budget.

Chat servers know more: it was filtered, the model called a tool, or (``unknown``) nothing that we know was said.
"""

Placement = Literal["system", "user", "history"]
"""Where a preference stands in the prompt: system message, last user turn, or stated in the history."""

Reduction = Literal["sum", "mean", "centred"]
"""How the token scores of a response become one number (:class:`~preftilt.reward.Reward`)."""

CutOff = Literal["last", "as-is"]
"""What is done with responses that their token budget cut off (:mod:`preftilt.reward`)."""

EosScoring = Literal["include", "exclude"]
GenerateWith = Literal["full", "question"]
MaskFrom = Literal["preference", "result"]
StrengthBy = Literal["fixed", "divergence"]


@dataclass(frozen=True, slots=True)
class Preference:
    """What the user wants, and how strongly it counts.

    Attributes:
        text: the preference in words, as it will stand in the prompt.
        strength: λ of REAR (arXiv 2606.30339, eq. 9): 1 is ordinary prompting with the preference, 0 ignores it, a
            larger λ follows it more strongly, a negative one steers away from it. None takes the request's ``lam``.
    """

    text: str
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a view where it is not the base model: an autoregressive reward model (ARM), and what it is asked for.

    ``arm`` is its name in the engine; ``alpha`` the preference vector over its objectives, in its own order.
    """

    arm: str
    alpha: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class View:
    """One scoring pass over a response: the prompt it is read under, its weight in the score, and who reads it.

    REAR with one preference is two views, ``question`` (1 − λ) and ``full`` (λ); k preferences are k + 1 views. Every
    trained reward model is one more, read by its ``reader`` under the prompt answers are drawn from; None is the base.
    """

    name: str
    prompt: Tokens
    weight: float
    reader: Reader | None = None


@dataclass(frozen=True, slots=True)
class ArmTerm:
    """What the view of an ARM adds to the score: (``fixed`` + λ · ``ratio``) · log π_ARM."""

    fixed: float
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """All a run needs to know of a request: the prompt to sample from and the views to score under.

    The first view is always ``question``. ``ratios[i]`` is λ_i / λ of view ``i + 1``, so that the score is
    ``question_logprob + lam * preference_gain`` for one preference and for several alike. ``arms`` are the terms of the
    last views, which ARMs read: beside preferences they are constant in λ; alone, λ scales them.
    """

    prompt: Tokens
    views: tuple[View, ...]
    lam: float
    ratios: tuple[float, ...]
    arms: tuple[ArmTerm, ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """The key of a request's randomness; slot and token position complete it (see ``streams.py``)."""

    seed: int
    item: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How candidates are drawn. It changes which candidates there are, never their scores.

    Attributes:
        temperature: 0 is greedy decoding.
        top_p: draw from the smallest set of likely tokens with this probability; 1 filters nothing.
        top_k: draw from this many likely tokens; 0 filters nothing.

    Raises:
        BadInput: for a value out of range.
    """

    temperature: float = setting(1.0, least=0)
    top_p: float = setting(1.0, above=0, most=1)
    top_k: int = setting(0, least=0)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True)
class Step:
    """Where a search step ends: at the first token that completes ``delimiter`` after some visible text.

    The token belongs to the step. White space before the first visible character does not end a step, so no
    step is blank.
    """

    delimiter: str = setting(least=1)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """A plausibility mask of guided decoding: only tokens of a nucleus may be drawn.

    The nucleus is the smallest set of most likely tokens whose probability at ``temperature`` reaches ``top_p``:
    under the prompt that answers are drawn from (``preference``), or of the guided distribution (``result``).
    """

    top_p: float = setting(above=0, most=1)
    of: MaskFrom = "preference"
    temperature: float = setting(1.0, above=0)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """Draw every token from log π ∝ q + Σ_i λ_i (p_i − q) + Σ_j w_j a_j, not from one prompt's distribution.

    ``strength`` is λ of the preference that the request gives the largest magnitude; the others keep their
    proportion to it, and their signs. None takes the request's own λ. ``by_prompt``: the prompt that answers are drawn
    from stands in for q + Σ_i λ_i (p_i − q). a_j are the request's ARMs, each with its own weight. ``strength_by``
    "divergence" gives a single preference the more of its λ at a token, the more p and q differ there
    (:func:`preftilt.guided.adapted`).
    """

    strength: float | None = None
    mask: Mask | None = None
    by_prompt: bool = False
    strength_by: StrengthBy = "fixed"

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardGuide:
    """Draw every token among the ``shortlist`` most likely ones, by log-prob + ``weight`` · reward of what it makes."""

    weight: float
    shortlist: int = setting(least=1)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True)
class GuidedCompletion:
    """A continuation drawn from several views: ``logprobs`` [K, T] are raw, one row a view that guided it.

    ``absent`` as in :class:`Completion`.
    """

    tokens: Tokens
    logprobs: Float[np.ndarray, "K T"]
    finish: Finish
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """A drawn continuation. ``tokens`` [T] includes the EOS it ended with; ``logprobs`` [T] are raw.

    ``absent``: why there is no text (a server's refusal, reasoning alone, a deadline); there are no tokens then, and no
    candidate.
    """

    tokens: Tokens
    logprobs: Float[np.ndarray, "T"]
    finish: Finish
    absent: str = ""


def was_cut_off(finish: Finish, thoughts: int, length: int) -> bool:
    """Whether a response of ``length`` tokens, the first ``thoughts`` of them before its answer, ended in the middle of
    something: by its token budget, or before its answer began. :mod:`preftilt.reward` says what becomes of it."""
    return finish == "length" or 0 < thoughts == length


@dataclass(frozen=True, slots=True)
class Candidate:
    """A whole or partial response with its log-probs under every view; the root is the empty one.

    ``thoughts`` of its first tokens are what the model thought before it answered: the answer stands under them, as
    under the prompt, and they are not scored.
    """

    tokens: Tokens
    logprobs: Float[np.ndarray, "K T"]
    finish: Finish
    slot: int = 0
    thoughts: int = 0

    @property
    def finished(self) -> bool:
        """Whether the response ended with a terminal action (EOS)."""
        return self.finish == "eos"

    @property
    def cut_off(self) -> bool:
        """See :func:`was_cut_off`."""
        return was_cut_off(self.finish, self.thoughts, len(self.tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand:
    """What a search asks for: one continuation of ``parent`` a slot, of at most ``max_tokens`` new tokens."""

    parent: Candidate
    slots: tuple[int, ...]
    max_tokens: int
    step: Step | None = None
    greedy: bool = False
    guide: Guide | RewardGuide | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found: candidates, best first, and why it stopped."""

    ranked: tuple[Candidate, ...]
    stopped: str
    steps: int = 1


@dataclass(slots=True)
class Usage:
    """Tokens and seconds spent on one request, counted by the driver only.

    ``prompt`` and ``scored`` are per view name; ``sampled`` are new tokens drawn; ``reused`` are scores that
    came for free from the sampler; ``duplicates`` are candidates that were not scored a second time. ``guided`` are,
    per view, the distributions that guided decoding took tokens from, and as ``reward`` the responses a reward model
    read for it. ``method`` is what picking cost besides: ``forwards`` and ``tokens`` read by a reward model
    or judge, and the tokens ``sampled`` from a judge.
    """

    prompt: dict[str, int] = field(default_factory=dict)
    sampled: int = 0
    scored: dict[str, int] = field(default_factory=dict)
    reused: int = 0
    duplicates: int = 0
    guided: dict[str, int] = field(default_factory=dict)
    method: dict[str, int] = field(default_factory=dict)
