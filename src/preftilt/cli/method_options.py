"""The flags that say what the answer is picked by among the candidates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from preftilt.cli.grouping import option

_method = partial(option, "Method")


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFlags:
    """How one of the candidates is picked."""

    method: Annotated[
        str | None,
        _method(
            metavar="NAME",
            help="What picks the answer: rear, full-logprob, question-logprob, preference-gain, mean-logprob, random,"
            " majority-vote, weighted-vote, reward-model or generative-reward-model.",
            default="rear",
        ),
    ] = None
    answers: Annotated[
        str | None,
        _method(metavar="letter|maths", help="votes: the answer to read off.", default="letter"),
    ] = None
    preference_in: Annotated[
        str | None,
        _method(
            metavar="system|user",
            help="reward-model: the turn that the preference stands in.",
            default="system",
        ),
    ] = None
    judge_mode: Annotated[
        str | None,
        _method(
            metavar="forced|cot",
            help="generative-reward-model: a verdict at once, or after reasons.",
            default="forced",
        ),
    ] = None
    judge_tokens: Annotated[
        int | None, _method(help="cot: tokens of reasons at most.", default="512")
    ] = None
    judge_temperature: Annotated[
        float | None, _method(help="cot: of the reasons.", default="0.1")
    ] = None
