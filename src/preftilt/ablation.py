"""Leave-one-out influence: which sentences of a preference, or of a system message, carry an answer.

The answer is teacher-forced: its tokens are scored behind the prompt as it is, and behind that prompt without one
sentence. The influence of sentence i, in nats, is

    I_i = log p(answer | every sentence) − log p(answer | every sentence but i)

It is the leave-one-out baseline of context attribution (ContextCite, Cohen-Wang et al., NeurIPS 2024, arXiv
2409.00729). For a preference of one sentence it is the answer's preference gain (REAR, arXiv 2606.30339, eq. 9).
Influences need not add up: of two sentences that say the same, each is spared where the other stands.

Sentences are cut losslessly. Line breaks end one, and so do full stops, question and exclamation marks before white
space, the Chinese and Japanese ones anywhere. Abbreviations, initials and the numbers of a list end none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

import preftilt
from preftilt.api import Realigner, opened, run_sync
from preftilt.effect import NoteThresholds
from preftilt.engines.base import Engine, ScoreRequest
from preftilt.engines.models import default_model
from preftilt.errors import BadInput, PromptTooLong
from preftilt.messages import Message, check_messages, image_cache
from preftilt.prompt import (
    ChatTokenizer,
    PromptSettings,
    answer_text,
    build_query,
    check_prompts,
    split_system,
    with_preferences,
)
from preftilt.result import number
from preftilt.run import OnProgress
from preftilt.search import AutoSearch, Search
from preftilt.settings import Settings
from preftilt.types import Preference, Tokens

_END = re.compile(r"[.!?…]+[\"'”’»)\]*_]*(?=\s)\s*|[。！？]+[」』”’）]*\s*|\s*\n\s*")
_LAST_WORD = re.compile(r"(?:^|[\s(\[\"'“‘«])([^\s(\[\"'“‘«]*)\Z")
_ENDS_NOTHING = re.compile(
    r"(?:e\.g|i\.e|cf|vs|viz|mr|mrs|ms|dr|prof|sr|jr|approx|fig|eq|resp|[^\W\d]|z\.b|d\.h|bzw)\.",
    re.IGNORECASE,
)
_NUMBER_OF_A_LIST = re.compile(r"[\s#>*_(-]*\d+\.")


def sentences(text: str) -> list[str]:
    """``text`` cut behind every sentence; white space behind one belongs to it, and every piece has a letter or digit.

    Returns the whole text as one sentence where it has neither, and nothing for an empty text.
    """
    pieces: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if not _goes_on(text, start, end):
            pieces.append(text[start : end.end()])
            start = end.end()
    if start < len(text):
        pieces.append(text[start:])
    joined: list[str] = []
    for piece in pieces:
        if joined and not (_has_words(piece) and _has_words(joined[-1])):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def without(pieces: Sequence[str], left_out: Collection[int]) -> str:
    """The text of ``pieces`` (:func:`sentences`) without those at the places ``left_out``; outer white space stays.

    Empty if nothing else is left.
    """
    text = "".join(pieces)
    rest = "".join(piece for place, piece in enumerate(pieces) if place not in left_out).strip()
    before = text[: len(text) - len(text.lstrip())]
    return f"{before}{rest}{text[len(text.rstrip()) :]}" if rest else ""


def _goes_on(text: str, start: int, end: re.Match[str]) -> bool:
    """Whether the sentence from ``start`` goes on behind what looks like its end: ``end``."""
    if "\n" in end[0] or not end[0].startswith("."):
        return False
    if text[end.end() : end.end() + 1].islower():
        return True
    so_far = text[start : end.start() + 1]
    word = _LAST_WORD.search(so_far)
    return bool(_NUMBER_OF_A_LIST.fullmatch(so_far) or (word and _ENDS_NOTHING.fullmatch(word[1])))


def _has_words(piece: str) -> bool:
    return any(character.isalnum() for character in piece)


INFLUENCE_SCHEMA = "preftilt.influence/1"

SYSTEM = "system"
"""The source of a sentence of the system message; those of preferences are ``preference`` or ``preference_1`` …"""

DEAD_NATS = 1.0
"""A sentence is not dead if it makes the answer e times likelier, or less likely."""

STRONGEST_TOKENS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceInfluence:
    """What one sentence does for the answer.

    Attributes:
        source: ``system``, ``preference``, or ``preference_1`` … of several.
        text: the sentence.
        nats: log p(answer | every sentence) − log p(answer | all but this one); above 0 where it speaks for the answer.
        by_token: the same, token by token of the response [T]; thoughts are not counted, and 0.
        dead: whether the answer is as likely without it: |nats| is below 1, and below 0.1 a token of the answer, which
            words that say nothing of consequence make, too (:class:`~preftilt.effect.NoteThresholds`).
    """

    source: str
    text: str
    nats: float
    by_token: Float[np.ndarray, "T"]
    dead: bool

    @property
    def strongest(self) -> tuple[int, ...]:
        """The places of the answer's tokens that it moves most, the strongest first."""
        order = np.argsort(-np.abs(self.by_token), kind="stable")[:STRONGEST_TOKENS]
        return tuple(int(place) for place in order if abs(self.by_token[place]) > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    """An answer, and what every sentence of its prompt's preferences and system message does for it.

    Attributes:
        text: the answer.
        tokens: the response, thoughts and end of turn included [T].
        pieces: the text of every token, for display.
        sentences: in the order of the texts, the system message first.
        logprob: log p(answer | every sentence), in nats.
        total: the same less log p(answer | none of them).
        dead_together: what the dead sentences do for the answer together; None for fewer than two.
        scored: tokens scored, over all passes.
        settings: that the answer was drawn with; None for a response that was given.
        model, engine, versions: as in :class:`~preftilt.result.Realigned`.
        notes: what is worth knowing, in words.
    """

    text: str
    tokens: Tokens
    pieces: tuple[str, ...]
    sentences: tuple[SentenceInfluence, ...]
    logprob: float
    total: float
    dead_together: float | None
    scored: int
    settings: Mapping[str, Any] | None
    model: str
    engine: str
    versions: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def dead(self) -> tuple[SentenceInfluence, ...]:
        """The sentences without which the answer is as likely."""
        return tuple(sentence for sentence in self.sentences if sentence.dead)

    def to_json(self) -> dict[str, Any]:
        """The object of ``schema/influence.schema.json``."""
        return {
            "schema": INFLUENCE_SCHEMA,
            "text": self.text,
            "model": self.model,
            "engine": self.engine,
            "settings": None if self.settings is None else dict(self.settings),
            "tokens": list(self.tokens),
            "pieces": list(self.pieces),
            "logprob": number(self.logprob),
            "total": number(self.total),
            "sentences": [
                {
                    "source": sentence.source,
                    "text": sentence.text,
                    "nats": number(sentence.nats),
                    "dead": sentence.dead,
                    "by_token": [number(x) for x in sentence.by_token],
                }
                for sentence in self.sentences
            ],
            "dead_together": None if self.dead_together is None else number(self.dead_together),
            "usage": {"scored": self.scored},
            "versions": dict(self.versions),
            "notes": list(self.notes),
        }


async def measure_influence(
    realigner: Realigner,
    messages: Sequence[Message],
    preferences: Sequence[Preference],
    *,
    response: str | None = None,
    settings: Settings | None = None,
    item: str | None = None,
    on_progress: OnProgress | None = None,
) -> Influence:
    """What every sentence of the preferences, and of a system message, does for the answer to a request.

    The answer is ``response``, or what :meth:`Realigner.realign` answers. All prompts are scored in one call, a pass a
    sentence. The prompt as it is states all preferences, whatever their strengths. Without a preference the system
    message is taken for it.

    Args:
        realigner: the engine; any that scores will do.
        messages: the conversation; the last turn is the user's.
        preferences: what the user wants.
        response: an answer to explain; None draws one.
        settings: as in :meth:`Realigner.realign`.
        item: as there.
        on_progress: as there, of the drawing.

    Raises:
        BadInput: there is nothing to leave out, or as :meth:`Realigner.realign`.
        EngineError: the engine failed.
    """
    settings = realigner.settled(settings)
    engine = realigner.engine
    ablated = ablations(engine.tokenizer, messages, preferences, settings.prompt)
    prepared = realigner.prepare(
        ablated.messages, ablated.preferences, settings=replace(settings, prompt=ablated.prompt)
    )
    places = ablated.places
    with image_cache():
        prompts = [ablated.without(left) for left in ((), places, *([place] for place in places))]
    if response is None:
        result = await realigner.answer(prepared, item=item, on_progress=on_progress)
        tokens, drawn_with, notes = result.candidates[0].tokens, result.settings, result.notes
    else:
        [completion] = realigner.check_responses(prepared.query, [response])
        tokens, drawn_with, notes = completion.tokens, None, ()
    whole, bare, *each = await _logprobs(engine, prompts, tokens)
    thoughts = engine.tokenizer.thoughts(tokens)
    rows = tuple(
        _row(ablated, place, _difference(whole, less), thoughts)
        for place, less in zip(places, each, strict=True)
    )
    dead = [place for place, row in zip(places, rows, strict=True) if row.dead]
    dead_together = None
    if len(dead) > 1:
        [less] = await _logprobs(engine, [ablated.without(dead)], tokens)
        dead_together = float(_difference(whole, less).sum())
    return Influence(
        text=answer_text(engine.tokenizer, tokens),
        tokens=tokens,
        pieces=tuple(engine.tokenizer.pieces(tokens)),
        sentences=rows,
        logprob=float(whole.sum()),
        total=float(_difference(whole, bare).sum()),
        dead_together=dead_together,
        scored=len(tokens) * (len(set(prompts)) + (dead_together is not None)),
        settings=drawn_with,
        model=engine.model,
        engine=engine.name,
        versions={"preftilt": preftilt.__version__} | engine.versions,
        notes=(*notes, *_notes(dead, dead_together)),
    )


def influence(
    question: str,
    preference: str,
    *,
    response: str | None = None,
    lam: float | None = None,
    search: Search | None = None,
    model: str | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
) -> Influence:
    """What every sentence of one preference does for the answer to one question; for scripts and notebooks.

    For several preferences, a system message or a conversation use :func:`measure_influence`.

    Args:
        question: what the user asks.
        preference: what the user wants, in words; a whole system prompt if you like.
        response: an answer to explain. None draws one, as :func:`preftilt.api.realign` does.
        lam: as there, and so are ``search``, ``model``, ``max_tokens`` and ``seed``.

    Raises:
        BadInput: as :func:`preftilt.api.realign`.
        EngineError: the engine failed.
    """
    settings = Settings(lam=lam, search=search or AutoSearch(), max_tokens=max_tokens, seed=seed)
    realigner = Realigner(opened(model or default_model()), settings)
    return run_sync(
        measure_influence(
            realigner, [Message("user", question)], [Preference(preference)], response=response
        )
    )


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of a request that sentences are left out of: a preference's, or the system message's.

    name: as in :attr:`SentenceInfluence.source`.
    """

    name: str
    pieces: tuple[str, ...]
    is_preference: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablations:
    """The prompts of a request without some of its sentences; a sentence is (passage, place in it), from 0.

    messages: the conversation without its system message; ``prompt`` has that one, unless it is the preference.
    """

    tokenizer: ChatTokenizer
    messages: Sequence[Message]
    preferences: Sequence[Preference]
    prompt: PromptSettings
    passages: tuple[Passage, ...]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Every sentence, in the order of the texts."""
        return [
            (number, place)
            for number, passage in enumerate(self.passages)
            for place in range(len(passage.pieces))
        ]

    def without(self, left_out: Collection[tuple[int, int]]) -> Tokens:
        """The prompt without the sentences ``left_out``.

        Raises :class:`~preftilt.errors.NoChatTemplate` if the chat template shows no difference.
        """
        tokens = self._render(left_out)
        if left_out:
            system = any(not self.passages[number].is_preference for number, _ in left_out)
            placement = SYSTEM if system else self.prompt.placement
            check_prompts([self._render(()), tokens], PromptSettings(placement=placement))
        return tokens

    def _render(self, left_out: Collection[tuple[int, int]]) -> Tokens:
        kept: list[Preference] = []
        prompt = replace(self.prompt, against=None)
        for at, passage in enumerate(self.passages):
            text = without(passage.pieces, {place for n, place in left_out if n == at})
            if not passage.is_preference:
                prompt = replace(prompt, system=text or None)
            elif text:
                kept.append(Preference(text))
        if not kept:
            return build_query(self.tokenizer, self.messages, (), settings=prompt).prompt
        return self.tokenizer.render(with_preferences(self.messages, kept, prompt))


def ablations(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    preferences: Sequence[Preference],
    prompt: PromptSettings,
) -> Ablations:
    """The sentences of a request, each to be left out; a system message is the preference where none is stated.

    Raises :class:`~preftilt.errors.BadInput` if there is nothing to leave out.
    """
    if prompt.history == "preference":
        raise BadInput(
            'influence leaves sentences out of preferences and system messages, and with history "preference" the'
            " earlier turns are the preference: state it in words"
        )
    check_messages(messages)
    system, turns = split_system(messages, prompt)
    passages = [Passage(SYSTEM, tuple(sentences(system)), False)] if system else []
    if preferences:
        several = len(preferences) > 1
        passages += [
            Passage(
                f"preference_{number}" if several else "preference",
                tuple(sentences(preference.text.strip())),
                True,
            )
            for number, preference in enumerate(preferences, start=1)
        ]
        prompt = replace(prompt, system=system)
    elif system and system.strip():
        preferences = (Preference(system),)
        passages = [Passage(SYSTEM, tuple(sentences(system.strip())), True)]
        prompt = replace(prompt, system=None, placement="system")
    else:
        raise BadInput(
            "there is nothing to leave out: state a preference (--preference TEXT) or a system message (--system TEXT)"
        )
    return Ablations(
        tokenizer=tokenizer,
        messages=turns,
        preferences=preferences,
        prompt=prompt,
        passages=tuple(passages),
    )


def _row(
    ablated: Ablations, at: tuple[int, int], by_token: Float[np.ndarray, "T"], thoughts: int
) -> SentenceInfluence:
    passage = ablated.passages[at[0]]
    nats = float(by_token.sum())
    return SentenceInfluence(
        source=passage.name,
        text=passage.pieces[at[1]].strip(),
        nats=nats,
        by_token=by_token,
        dead=abs(nats) < min(DEAD_NATS, NoteThresholds().agree * (len(by_token) - thoughts)),
    )


def _notes(dead: Sequence[tuple[int, int]], together: float | None) -> list[str]:
    if together is None or abs(together) < DEAD_NATS:
        return []
    return [
        f"each of the {len(dead)} dead sentences can be left out, but not all of them: together they are worth"
        f" {together:+.2f} nats, so they say the same thing or need each other"
    ]


async def _logprobs(
    engine: Engine, prompts: Sequence[Tokens], tokens: Tokens
) -> list[Float[np.ndarray, "T"]]:
    """Log-probs of a response behind every prompt, in one call; 0 at its thoughts. Equal prompts are scored once."""
    room = engine.capabilities.max_context
    over = max(map(len, prompts)) + len(tokens) - room
    if over > 0:
        raise PromptTooLong(
            f"the prompt and the response have {over} tokens more than the model's context of {room}: shorten one of"
            " them"
        )
    distinct = list(dict.fromkeys(prompts))
    scores = await engine.score(
        [ScoreRequest(prompt=prompt, completion=tokens) for prompt in distinct]
    )
    answer = np.arange(len(tokens)) >= engine.tokenizer.thoughts(tokens)
    by_prompt = dict(zip(distinct, scores, strict=True))
    return [np.where(answer, by_prompt[prompt], 0.0) for prompt in prompts]


def _difference(
    more: Float[np.ndarray, "T"], less: Float[np.ndarray, "T"]
) -> Float[np.ndarray, "T"]:
    """``more`` − ``less``; 0 where a token is impossible either way."""
    same = more == less
    return np.subtract(more, less, out=np.zeros_like(more), where=~same)
