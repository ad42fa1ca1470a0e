"""The likeliest tokens at a place of an answer: with the preference, without it, and mixed as guided decoding would.

At every place guided decoding draws from log π(v) = Σ_k w_k log π(v | view k) − log Z (:mod:`preftilt.guided`).
This is that distribution, beside the ones that it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Engine, Proposal, ProposeRequest
from preftilt.errors import BadInput
from preftilt.guided import adapted, combine, masked
from preftilt.result import number
from preftilt.run import Prepared
from preftilt.run.guiding import guided_views, view_guide
from preftilt.types import Guide, Tokens

EVERY_TOKEN = 1 << 30
"""More than any vocabulary has: a mixture's likeliest tokens may be none of any view's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A token that may stand at the place; log-probs in nats at temperature 1, −inf where it is impossible.

    Attributes:
        token: its id.
        text: its text.
        ends: whether it ends the answer.
        logprobs: by the name of a view.
        mixed: under the mixture, after its mask.
    """

    token: int
    text: str
    ends: bool
    logprobs: Mapping[str, float]
    mixed: float

    def to_json(self) -> dict[str, Any]:
        return {
            "token": self.token,
            "text": self.text,
            "ends": self.ends,
            "logprobs": {name: number(x) for name, x in self.logprobs.items()},
            "mixed": number(self.mixed),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternatives:
    """The likeliest tokens of every view and of the mixture, the mixture's likeliest first.

    Attributes:
        prefix: the tokens of the answer before the place.
        weights: of the views in the mixture, by name.
        tokens: those that are among the likeliest under any view or under the mixture.
    """

    prefix: Tokens
    weights: Mapping[str, float]
    tokens: tuple[Alternative, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "position": len(self.prefix),
            "weights": dict(self.weights),
            "tokens": [alternative.to_json() for alternative in self.tokens],
        }


async def likely_alternatives(
    engine: Engine, prepared: Prepared, *, count: int, include: int | None = None
) -> Alternatives:
    """The ``count`` likeliest next tokens under every view of a request, and under their mixture, behind its prefix.

    The mixture is what the request's search draws from, if it guides every token, and else what ``cfg`` would at the
    request's λ.

    Args:
        engine: one that tells its likeliest next tokens (``Capabilities.proposes``).
        prepared: the request, as :meth:`Realigner.prepare` made it with the answer's first tokens as its prefix.
        count: at least 1.
        include: a token that is told in any case.

    Raises:
        BadInput: the engine cannot tell, or a reward model reads the answer, too.
    """
    query, prefix = prepared.query, prepared.prefix
    _check(engine, prepared)
    guide = view_guide(prepared.settings.search) or Guide()
    drawn, preferred = guided_views(query, guide)
    prompts = {view.name: view.prompt for view in query.views}
    prompts |= {name: view.prompt for name, view in drawn.items()}
    proposals = await engine.propose(
        [
            ProposeRequest(prompt=prompt, prefix=prefix, count=EVERY_TOKEN)
            for prompt in prompts.values()
        ]
    )
    logprobs = dict(zip(prompts, _dense(proposals), strict=True))
    mixing = np.stack([logprobs[name] for name in drawn])
    weights = tuple(view.weight for view in drawn.values())
    if guide.strength_by == "divergence":
        weights = adapted(mixing, weights)
    mixed = masked(combine(mixing, weights), mixing[preferred], guide.mask)
    mixed = mixed - np.logaddexp.reduce(mixed)
    views = {view.name: logprobs[view.name] for view in query.views}
    shown = _likeliest([mixed, *views.values()], count)
    if include is not None:
        if include >= len(mixed):
            raise BadInput(f"token {include} is not in the vocabulary of {engine.model}")
        shown.add(include)
    tokens = sorted(shown, key=lambda token: (-mixed[token], token))
    by_name = dict(zip(drawn, weights, strict=True))
    return Alternatives(
        prefix=prefix,
        weights={name: by_name.get(name, 0.0) for name in views},
        tokens=tuple(
            Alternative(
                token=token,
                text=text,
                ends=token in engine.capabilities.eos,
                logprobs={name: float(view[token]) for name, view in views.items()},
                mixed=float(mixed[token]),
            )
            for token in tokens
            for text in engine.tokenizer.pieces((token,))
        ),
    )


def _check(engine: Engine, prepared: Prepared) -> None:
    if not engine.capabilities.proposes:
        raise BadInput(
            f"{engine.name} does not tell its likeliest next tokens: open the model in this process (--model with its"
            " hub id or path)"
        )
    if prepared.query.arms:
        raise BadInput(
            "the likeliest next tokens are told of the base model alone, and a reward model reads these answers, too:"
            " leave it out (arm)"
        )


def _dense(proposals: list[Proposal]) -> Float[np.ndarray, "K V"]:
    """Log-probs by token id; what a proposal leaves out is impossible."""
    size = 1 + max(max(proposal.tokens) for proposal in proposals)
    dense = np.full((len(proposals), size), -np.inf)
    for row, proposal in zip(dense, proposals, strict=True):
        row[list(proposal.tokens)] = proposal.logprobs
    return dense


def _likeliest(distributions: list[Float[np.ndarray, "V"]], count: int) -> set[int]:
    """Tokens that are among the first ``count`` possible ones of any distribution."""
    shown: set[int] = set()
    for distribution in distributions:
        order = np.argsort(-distribution, kind="stable")[:count]
        shown |= {int(token) for token in order if np.isfinite(distribution[token])}
    return shown
