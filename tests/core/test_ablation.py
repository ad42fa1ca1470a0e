"""Which sentences carry an answer: exact on the toy engine, whose log-probs can be written down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

import preftilt as pt
from preftilt.engines.base import EngineWrapper, ScoreRequest
from preftilt.errors import BadInput, NoChatTemplate, PromptTooLong
from preftilt.messages import Message
from preftilt.testing.toy import ToyEngine, ToyTokenizer, hashed_bigrams
from preftilt.types import Tokens

QUESTION = [pt.Message("user", "How do I study maths?")]
WISH = "I dislike games. I like music. I sleep late."
RESPONSE = "draw maths play"


def measured(
    preferences: Sequence[pt.Preference] = (pt.Preference(WISH),),
    messages: Sequence[pt.Message] = QUESTION,
    engine: pt.Engine | None = None,
    response: str | None = RESPONSE,
    **settings,
) -> pt.Influence:
    realigner = pt.Realigner(engine or ToyEngine(hashed_bigrams(1)))
    changed = pt.Settings(**{"max_tokens": 12, "search": pt.BestOfN(n=4)} | settings)
    return asyncio.run(
        pt.measure_influence(realigner, messages, preferences, response=response, settings=changed)
    )


def logprob(engine: ToyEngine, messages: Sequence[Message], tokens: Tokens) -> float:
    """log p(tokens | conversation), by the model's own definition."""
    context = engine.tokenizer.render(messages)
    return sum(engine.next_logprobs(context + tokens[:t])[token] for t, token in enumerate(tokens))


def test_an_influence_is_the_drop_of_the_answers_logprob_without_the_sentence():
    engine = ToyEngine(hashed_bigrams(1))
    result = measured(engine=engine)
    everything = logprob(engine, [Message("system", WISH), *QUESTION], result.tokens)
    assert result.logprob == pytest.approx(everything)
    left = ["I like music. I sleep late.", "I dislike games. I sleep late."]
    left.append("I dislike games. I like music.")
    for sentence, text in zip(result.sentences, left, strict=True):
        rest = logprob(engine, [Message("system", text), *QUESTION], result.tokens)
        assert sentence.nats == pytest.approx(everything - rest)
        assert sentence.by_token.sum() == pytest.approx(sentence.nats)
    assert result.total == pytest.approx(everything - logprob(engine, QUESTION, result.tokens))
    assert [sentence.text for sentence in result.sentences] == [
        "I dislike games.",
        "I like music.",
        "I sleep late.",
    ]


def test_the_influence_of_a_single_sentence_is_the_answers_preference_gain():
    wish = [pt.Preference("No games.")]
    realigner = pt.Realigner(ToyEngine(hashed_bigrams(1)))
    scored = asyncio.run(realigner.score(QUESTION, wish, [RESPONSE]))
    [sentence] = measured(wish).sentences
    assert sentence.nats == pytest.approx(scored.candidates[0].preference_gain)
    assert sentence.by_token == pytest.approx(scored.candidates[0].gains)


def test_without_a_response_the_answer_is_what_a_search_answers():
    realigner = pt.Realigner(ToyEngine(hashed_bigrams(1)))
    settings = pt.Settings(max_tokens=12, search=pt.BestOfN(n=4), lam=5.0)
    answered = asyncio.run(realigner.realign(QUESTION, [pt.Preference(WISH)], settings=settings))
    result = measured(response=None, lam=5.0)
    assert (result.text, result.tokens) == (answered.text, answered.candidates[0].tokens)
    assert result.settings == answered.settings
    assert measured().settings is None


@dataclass(slots=True)
class Counting(EngineWrapper):
    """The toy engine, remembering the scoring calls."""

    calls: list[Sequence[ScoreRequest]] = field(default_factory=list)

    async def score(self, requests):
        self.calls.append(requests)
        return await self.inner.score(requests)


def test_all_sentences_are_scored_in_one_call_a_pass_each():
    engine = Counting(ToyEngine(hashed_bigrams(1)))
    result = measured(engine=engine)
    [call] = engine.calls
    assert len(call) == 2 + 3
    assert result.scored == 5 * len(result.tokens)


NAMED = ("games", "play", "music", "cats")


@dataclass(frozen=True, slots=True)
class Flags(ToyTokenizer):
    """Prompts that say which of four words stand in the system message."""

    def render(self, messages: Sequence[Message]) -> Tokens:
        system = next((turn.content for turn in messages if turn.role == "system"), "")
        return (*(int(word in system) for word in NAMED), 2)


def reading(*groups: tuple[str, ...]) -> ToyEngine:
    """A model that reads of its prompt only whether there is a word of each group; the others are dead."""
    model = hashed_bigrams(4)

    def next_logprobs(context: Tokens):
        there = {word for word, flag in zip(NAMED, context, strict=False) if flag}
        seen = tuple(int(not there.isdisjoint(group)) for group in groups)
        return model((*seen, *[0] * (4 - len(seen)), *context[4:]))

    return ToyEngine(next_logprobs, tokenizer=Flags())


def test_a_sentence_that_changes_nothing_is_dead_and_one_that_does_is_not():
    result = measured([pt.Preference("No games. I like cats.")], engine=reading(("games",)))
    games, cats = result.sentences
    assert (games.dead, cats.dead, cats.nats) == (False, True, 0.0)
    assert games.nats == pytest.approx(result.total)
    assert result.dead == (cats,)
    assert result.dead_together is None
    assert result.notes == ()


@pytest.mark.parametrize(
    ("nats", "dead"), [(0.59, True), (-0.59, True), (0.61, False), (-3, False)]
)
def test_dead_is_less_than_a_nat_and_than_a_tenth_of_one_a_token(nats: float, dead: bool):
    engine = reading(("games",))

    def shifted(context: Tokens):
        """All tokens alike, but for the first, which is `nats` likelier with games in the prompt."""
        there = context[0] and len(context) == 5
        return np.full(12, -4.0 + (nats if there else 0.0))

    engine.next_logprobs = shifted

    games, _ = measured([pt.Preference("No games. I like cats.")], engine=engine).sentences
    assert (games.nats, games.dead) == (pytest.approx(nats), dead)


def test_sentences_that_say_the_same_are_dead_each_and_not_together():
    wish = [pt.Preference("No games. Do not play. I like cats.")]
    result = measured(wish, engine=reading(("games", "play")))
    assert [sentence.dead for sentence in result.sentences] == [True, True, True]
    assert result.dead_together == pytest.approx(result.total)
    [note] = result.notes
    assert "each of the 3 dead sentences can be left out, but not all of them" in note


def test_the_tokens_that_a_sentence_moves_most_are_named_strongest_first():
    [games, cats] = measured(
        [pt.Preference("No games. I like cats.")], engine=reading(("games",))
    ).sentences
    sizes = np.abs(games.by_token)
    assert list(games.strongest) == sorted(range(len(sizes)), key=lambda t: -sizes[t])[:3]
    assert cats.strongest == ()


def test_several_preferences_and_the_system_message_are_taken_apart():
    wishes = [pt.Preference("No games. I play.", 5.0), pt.Preference("I like music.", -2.0)]
    engine = ToyEngine(hashed_bigrams(1))
    turns = [pt.Message("system", "Be kind. Be brief."), *QUESTION]
    result = measured(wishes, turns, engine)
    assert [(sentence.source, sentence.text) for sentence in result.sentences] == [
        ("system", "Be kind."),
        ("system", "Be brief."),
        ("preference_1", "No games."),
        ("preference_1", "I play."),
        ("preference_2", "I like music."),
    ]
    whole = "Be kind. Be brief.\n\nNo games. I play.\nI like music."
    everything = logprob(engine, [Message("system", whole), *QUESTION], result.tokens)
    assert result.logprob == pytest.approx(everything)
    for cut, sentence in (("Be brief.", 1), ("I play.\n", 3), ("\nI like music.", 4)):
        text = whole.replace(cut, "").replace("kind. \n", "kind.\n")
        text = text.replace("games. I", "games.\nI") if sentence == 3 else text
        rest = logprob(engine, [Message("system", text), *QUESTION], result.tokens)
        assert result.sentences[sentence].nats == pytest.approx(everything - rest)


@pytest.mark.parametrize("in_settings", [False, True])
def test_a_system_message_is_the_preference_where_none_is_stated(in_settings: bool):
    system = "Be kind. Be brief."
    prompt = pt.PromptSettings(system=system if in_settings else None, placement="user")
    turns = QUESTION if in_settings else [pt.Message("system", system), *QUESTION]
    result = measured((), turns, prompt=prompt)
    as_preference = measured([pt.Preference(system)])
    assert [sentence.source for sentence in result.sentences] == ["system", "system"]
    assert [s.nats for s in result.sentences] == [s.nats for s in as_preference.sentences]
    drawn = measured((), turns, prompt=prompt, response=None)
    assert drawn.text == measured([pt.Preference(system)], response=None).text


def test_the_system_message_of_no_preference_stands_where_all_of_one_is_left_out():
    engine = ToyEngine(hashed_bigrams(1))
    prompt = pt.PromptSettings(question_system="Answer.")
    result = measured([pt.Preference("No games.")], engine=engine, prompt=prompt)
    bare = logprob(engine, [Message("system", "Answer."), *QUESTION], result.tokens)
    assert result.sentences[0].nats == pytest.approx(result.logprob - bare)


def test_what_cannot_be_taken_apart_is_refused_before_anything_is_scored():
    engine = ToyEngine(hashed_bigrams(1))
    with pytest.raises(BadInput, match="nothing to leave out"):
        measured((), engine=engine)
    with pytest.raises(BadInput, match="state it in words"):
        measured((), engine=engine, prompt=pt.PromptSettings(history="preference"))
    with pytest.raises(BadInput, match="none may be empty"):
        measured(engine=engine, response=" ")
    small = replace(engine, max_context=9)
    with pytest.raises(PromptTooLong):
        measured(engine=small)
    assert engine.counts["scored"] == small.counts["scored"] == 0


@dataclass(frozen=True, slots=True)
class Deaf(Flags):
    """A chat template that shows the first sentence of a system message only."""

    def render(self, messages: Sequence[Message]) -> Tokens:
        shown = [replace(turn, content=turn.content.split(".")[0]) for turn in messages]
        return Flags.render(self, shown)


def test_a_template_that_shows_no_difference_is_refused():
    engine = replace(reading(("games",)), tokenizer=Deaf())
    with pytest.raises(NoChatTemplate, match="the chat template ignores system messages"):
        measured([pt.Preference("No games. No music.")], engine=engine)


def test_the_function_for_scripts_measures_as_the_other_one(monkeypatch):
    engine = ToyEngine(hashed_bigrams(1))
    monkeypatch.setattr("preftilt.ablation.opened", lambda model: engine)
    result = pt.influence(QUESTION[0].content, WISH, response=RESPONSE, model="toy")
    assert result.to_json() == measured(engine=engine).to_json()
