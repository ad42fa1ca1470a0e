"""What rules measure, against sums and enumerations written out on the toy model."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from preftilt.api import Realigner
from preftilt.arm.spec import Objective
from preftilt.engines.base import GuidedView, GuideRequest, Mixture, NormaliseRequest, ScoreRequest
from preftilt.errors import BadInput
from preftilt.eval.accuracy.comparisons import Example, make_context, with_examples
from preftilt.eval.accuracy.evaluate import policy_accuracy
from preftilt.eval.accuracy.measure import measure, weighted
from preftilt.eval.accuracy.rules import (
    ArgsRule,
    MixingRule,
    RewardModelRule,
    RuleValue,
    default_rules,
    parse_rule,
    parse_rules,
)
from preftilt.guided import combine, kappa
from preftilt.prompt import PromptSettings
from preftilt.rivals import Judges
from preftilt.settings import ArmSettings, Settings
from preftilt.streams import draw, position_key, stream_key
from preftilt.testing.toy import NextLogprobs, ToyArm, ToyEngine, ToyTokenizer, hashed_bigrams
from preftilt.types import Mask, Sampling, Stream
from tests.accuracy.toys import Counting, comparison, context, reading

WORDS = ("<end>", "draw", "read", "win")
HELP, BRIEF = Objective("help", "It helps.", 1.0), Objective("brief", "It is brief.", 1.0)


async def one(name: str, number: int = 0) -> list[RuleValue]:
    found = await measure(context(number), [parse_rule(name)], policy=True)
    [values] = found.values.values()
    return list(values)


@pytest.mark.parametrize("lam", [-2.0, 0.0, 0.5, 1.0, 3.0, 20.0])
async def test_rear_is_the_score_that_preftilt_score_gives(lam: float):
    item = comparison(4)
    realigner = Realigner(ToyEngine(), Settings(lam=lam))
    scored = await realigner.score(item.messages, item.preferences, item.responses)
    by_slot = sorted(scored.candidates, key=lambda each: each.slot)
    found = await one(f"rear={lam}", 4)
    assert [each.unnormalised for each in found] == pytest.approx([each.score for each in by_slot])
    gains = [each.preference_gain for each in by_slot]
    assert [each.reward for each in found] == pytest.approx(gains)


@pytest.mark.parametrize("name", ["rear=1", "cfg=1", "linear-alignment=0", "args=0"])
async def test_without_steering_every_rule_is_the_model_told_in_words(name: str):
    told = [each.unnormalised for each in await one("prompted")]
    found = await one(name)
    assert [each.unnormalised for each in found] == pytest.approx(told, abs=1e-12)
    if name != "args=0":  # ARGS keeps to its shortlist even then.
        assert [each.policy for each in found] == pytest.approx(told, abs=1e-12)


async def test_with_lambda_zero_the_preference_has_no_say():
    asked = [each.unnormalised for each in await one("base")]
    assert [each.unnormalised for each in await one("rear=0")] == asked


@pytest.mark.parametrize(
    ("name", "lam"),
    [
        ("linear-alignment=2", 3.0),
        ("cfg=3", 3.0),
        ("la-amulet-repo", 3.0),
        ("amulet", 1 + kappa(60, alpha=2, anchor=2, eta=10)),
    ],
)
async def test_the_guided_decoders_are_one_family(name: str, lam: float):
    family, rear = await one(name), await one(f"rear={lam!r}")
    assert [each.policy for each in family] == pytest.approx([each.policy for each in rear])


@pytest.mark.parametrize("mask", [None, Mask(top_p=0.7), Mask(top_p=0.5, of="result")])
async def test_the_policy_is_a_distribution_over_all_responses(mask: Mask | None):
    """Every response of at most three tokens is enumerated: those that end, and those that are cut off."""
    engine = ToyEngine(hashed_bigrams(3, len(WORDS)), tokenizer=ToyTokenizer(WORDS))
    responses = [
        (*head, 0) if ended else head
        for length in (0, 1, 2, 3)
        for head in itertools.product(range(1, len(WORDS)), repeat=length)
        for ended in (True, False)
        if (ended and length < 3) or (not ended and length == 3)
    ]
    requests = [
        NormaliseRequest(
            reads=(
                ScoreRequest(prompt=(1, 2, 3, 1), completion=tokens),
                ScoreRequest(prompt=(3, 3, 1, 2), completion=tokens),
            ),
            mixtures=(Mixture((-2.0, 3.0), mask, 1), Mixture((1.0, 0.7), mask, 0)),
        )
        for tokens in responses
    ]
    found = await engine.normalise(requests)
    for row in (0, 1):
        total = sum(math.exp(table[row].sum()) for table in found)
        assert total == pytest.approx(1.0, abs=1e-12)


async def test_the_policy_is_what_guided_decoding_draws_from():
    """Every slot draws the token that wins its race under the normalised probabilities."""
    engine = ToyEngine(hashed_bigrams(5))
    prompts, weights = ((1, 2, 3, 4, 2), (4, 3, 2, 1, 2)), (-1.0, 2.0)
    views = tuple(map(GuidedView, prompts, weights))
    request = GuideRequest(
        views=views,
        slots=tuple(range(64)),
        stream=Stream(0),
        sampling=Sampling(),
        max_tokens=1,
    )
    [drawn] = await engine.guide([request])
    asked = [
        NormaliseRequest(
            reads=tuple(ScoreRequest(prompt=one, completion=(token,)) for one in prompts),
            mixtures=(Mixture(weights),),
        )
        for token in range(12)
    ]
    likely = np.array([float(table[0, 0]) for table in await engine.normalise(asked)])
    assert np.exp(likely).sum() == pytest.approx(1.0)
    winners = [
        draw(likely, position_key(stream_key(request.stream, slot), 0)) for slot in request.slots
    ]
    assert [each.tokens[0] for each in drawn] == winners
    assert len({*winners}) > 3


async def test_a_mixture_is_normalised_as_guided_decoding_combines():
    ground = context(2)
    query = ground.stated()
    lam, tokens = 3.0, ground.responses[0].tokens
    expected = 0.0
    for t, token in enumerate(tokens):
        raw = np.stack(
            [ground.engine.next_logprobs(view.prompt + tokens[:t]) for view in query.views]  # pyright: ignore
        )
        expected += combine(raw, (1 - lam, lam))[token]
    assert (await one("cfg=3", 2))[0].policy == pytest.approx(expected)


async def test_examples_stand_before_the_question_and_the_oldest_go_first():
    past = tuple(Example(f"question {i}", "draw") for i in range(5))
    told = make_context(reading(), comparison(examples=past))
    recent = make_context(reading(), comparison(examples=past[3:]))
    assert with_examples(told, 2, 10) == with_examples(recent, 2, 10)
    assert with_examples(told, 2, 10)[1] == 2
    assert with_examples(told, 9, 10)[1] == 5


async def test_examples_that_do_not_fit_are_left_out_whole():
    engine = ToyEngine(tokenizer=_Wordy(), max_context=40)
    past = tuple(Example("q" * 5, "r" * 5) for _ in range(9))
    short = comparison(examples=past, preferences=(), chosen="read", rejected=("win",))
    query, used = with_examples(make_context(reading(engine), short), 9, 8)
    assert 0 < used < 9
    assert len(query.prompt) + 8 <= 40 < len(query.prompt) + 8 + 10


class _Wordy(ToyTokenizer):
    """Renders a token a letter, so that prompts grow with what they hold."""

    __slots__ = ()

    def render(self, messages):
        return tuple(2 for message in messages for _ in message.content)


async def test_examples_may_stand_in_for_a_stated_preference():
    told, asked, halfway, steered = [
        [each.unnormalised or 0.0 for each in await one(name)]
        for name in ("icl=4", "base", "rear-icl=0.5", "rear-icl=3")
    ]
    assert halfway == pytest.approx([(a + b) / 2 for a, b in zip(told, asked, strict=True)])
    assert steered == pytest.approx([3 * a - 2 * b for a, b in zip(told, asked, strict=True)])
    policies = [[each.policy for each in await one(name)] for name in ("cfg-icl=3", "rear-icl=3")]
    assert policies[0] == pytest.approx(policies[1])


async def test_icl_steers_by_what_the_examples_add():
    ground = context(examples=(Example("before?", "draw"),))
    [values] = (await measure(ground, [parse_rule("icl=3")], policy=True)).values.values()
    asked = (await measure(ground, [parse_rule("base")], policy=True)).values["base"]
    gains = [
        float(one.unnormalised or 0) - float(other.unnormalised or 0)
        for one, other in zip(values, asked, strict=True)
    ]
    assert [each.reward for each in values] == pytest.approx(gains)


async def test_args_adds_the_reward_of_every_prefix():
    ground = context(2)
    [found, *_] = await ArgsRule(1.5).ask(ground, policy=False)
    model, tokens = Counting(), ground.responses[0].tokens
    texts = [ground.engine.tokenizer.decode(tokens[: t + 1]) for t in range(len(tokens))]
    rated = await model.score([((), text) for text in texts])
    told = (await one("prompted", 2))[0].unnormalised
    assert found.unnormalised == pytest.approx(told + 1.5 * sum(rated.scores))  # pyright: ignore
    assert found.reward == pytest.approx(rated.scores[-1])
    assert found.policy is None


async def test_args_with_the_whole_vocabulary_for_a_shortlist_covers_everything():
    ground = context(2)
    whole = await ArgsRule(1.5, shortlist=12).ask(ground, policy=True)
    assert [each.inside for each in whole] == [len(one.tokens) for one in ground.responses]
    unsteered = await ArgsRule(0.0, shortlist=12).ask(ground, policy=True)
    told = await one("prompted", 2)
    assert [each.policy for each in unsteered] == pytest.approx([each.policy for each in told])
    narrow = await ArgsRule(1.5, shortlist=1).ask(ground, policy=True)
    assert sum(each.inside or 0 for each in narrow) < sum(each.inside or 0 for each in whole)


async def test_the_reward_model_is_its_own_reward():
    found = await RewardModelRule().ask(context(5), policy=True)
    assert [each.unnormalised for each in found] == [each.reward for each in found]
    assert all(each.policy is None for each in found)


async def test_rules_together_measure_what_they_measure_alone():
    names = ["base", "prompted", "rear=3", "rear=20", "la-author", "icl=2", "reward-model"]
    together = await measure(context(1), parse_rules(names), policy=True)
    for name in names:
        assert list(together.values[name]) == await one(name, 1)


async def test_every_view_reads_every_response_once_whatever_the_number_of_rules():
    few, many = ToyEngine(), ToyEngine()
    await measure(context(0, few), parse_rules(["rear=3"]), policy=False)
    rules = parse_rules([f"rear={lam}" for lam in range(2, 30)] + ["base", "prompted", "amulet"])
    await measure(context(0, many), rules, policy=False)
    assert many.counts["scored"] == few.counts["scored"]


async def test_the_view_of_a_trained_reward_model_is_one_more_view():
    engine = ToyEngine(arms={"taste": ToyArm((HELP, BRIEF), _by_alpha)})
    arms = ArmSettings(names=("taste",), alpha="help=0.7,brief=0.3", weight=0.5)
    ground = make_context(reading(engine, arms=arms), comparison(2))
    rules = parse_rules(["base", "arm", "arm=2", "arm=0", "rear=3"])
    found = (await measure(ground, rules, policy=True)).values
    asked = [each.unnormalised or 0.0 for each in found["base"]]
    says = _by_alpha((0.7, 0.3))
    reward = [
        0.5 * sum(says(ground.question + one.tokens[:t])[v] for t, v in enumerate(one.tokens))
        for one in ground.responses
    ]
    for name, weight in (("arm", 1.0), ("arm=2", 2.0), ("arm=0", 0.0)):
        expected = [a + weight * r for a, r in zip(asked, reward, strict=True)]
        assert [each.unnormalised for each in found[name]] == pytest.approx(expected)
        assert [each.reward for each in found[name]] == pytest.approx(reward)
    assert [each.policy for each in found["arm=0"]] == pytest.approx(asked)
    assert list(found["rear=3"]) == await one("rear=3", 2)  # Other rules know nothing of it.


async def test_a_trained_reward_model_that_is_not_open_or_an_alpha_of_others_is_refused(tmp_path):
    for arms, told in (
        (ArmSettings(names=("tea",)), "no reward model 'tea'"),
        (ArmSettings(names=("taste",), alpha="help=0.7,sweet=0.3"), "alpha names sweet"),
    ):
        engine = ToyEngine(arms={"taste": ToyArm((HELP, BRIEF), _by_alpha)})
        with pytest.raises(BadInput, match=told) as failure:
            await policy_accuracy(
                reading(engine, arms=arms), [comparison()], parse_rules(["arm"]), tmp_path
            )
        assert "row 0" not in str(failure.value)


def _by_alpha(alpha: tuple[float, ...]) -> NextLogprobs:
    """A reward model of two objectives: another language model for every mix."""
    return hashed_bigrams(round(100 * alpha[0]))


def test_an_impossible_token_makes_the_response_impossible():
    rows = [np.array([-1.0, -np.inf]), np.array([-2.0, -0.5])]
    assert weighted(rows, (-2.0, 3.0))[1] == -np.inf
    assert weighted(rows, (-2.0, 3.0))[0] == pytest.approx(-1.0 + 3.0 * -1.0)


async def test_a_rule_of_ones_own_needs_a_name_a_mode_and_a_blend():
    class Halfway:
        name, mode = "halfway", "policy"

        def blend(self, ground):
            return replace(parse_rule("rear=0.5").blend(ground), reward=None)  # pyright: ignore

    rule = Halfway()
    assert isinstance(rule, MixingRule)
    found = await measure(context(), [rule], policy=True)
    own = [each.unnormalised for each in found.values["halfway"]]
    assert own == [each.unnormalised for each in await one("rear=0.5")]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tea", "there is no rule 'tea'"),
        ("rear", "takes a number"),
        ("base=2", "takes no number"),
        ("rear=x", "finite number"),
        ("rear=inf", "finite number"),
        ("icl=1.5", "whole number"),
        ("icl=0", "whole number"),
    ],
)
def test_a_rule_that_is_not_one_is_refused(name: str, told: str):
    with pytest.raises(BadInput, match=told):
        parse_rule(name)


def test_the_default_rules_are_those_that_the_data_allow():
    nothing: dict[str, Any] = {
        "preferences": False,
        "examples": False,
        "reward_model": False,
        "arms": False,
    }
    assert [one.name for one in default_rules(**nothing)] == ["base"]
    everything = default_rules(preferences=True, examples=True, reward_model=True, arms=True)
    names = {one.name for one in everything}
    assert {"prompted", "rear=3", "icl=4", "args=1.5", "reward-model", "arm"} <= names
    assert [one.name for one in parse_rules(["base", "rear=3", "base"])] == ["base", "rear=3"]


@pytest.mark.parametrize(
    ("name", "changed", "told"),
    [
        ("rear=3", {"preferences": ()}, "row 0: no preference is stated"),
        ("icl=3", {"examples": ()}, 'row 0: "examples" is missing'),
        ("arm", {}, "needs a reward model"),
    ],
)
async def test_a_comparison_that_lacks_what_a_rule_needs_is_refused(name, changed, told):
    with pytest.raises(BadInput, match=told):
        await measure(context(**changed), [parse_rule(name)], policy=True)


async def test_a_reward_model_that_is_missing_is_named():
    ground = make_context(reading(judges=Judges()), comparison())
    with pytest.raises(BadInput, match="--reward-model"):
        await measure(ground, [parse_rule("reward-model")], policy=True)


@pytest.mark.parametrize(
    "request_",
    [
        NormaliseRequest(reads=(), mixtures=()),
        NormaliseRequest(
            reads=(
                ScoreRequest(prompt=(1,), completion=(2,)),
                ScoreRequest(prompt=(1,), completion=(3,)),
            ),
            mixtures=(Mixture((1.0, 0.0)),),
        ),
        NormaliseRequest(
            reads=(ScoreRequest(prompt=(1,), completion=(2,)),), mixtures=(Mixture((1.0, 1.0)),)
        ),
        NormaliseRequest(
            reads=(ScoreRequest(prompt=(1,), completion=(2,)),), mixtures=(Mixture((math.nan,)),)
        ),
    ],
)
async def test_a_request_to_normalise_that_makes_no_sense_is_refused(request_):
    with pytest.raises(BadInput):
        await ToyEngine().normalise([request_])


def test_a_contrast_is_what_realigning_compares_with_and_not_what_the_model_says_told_nothing():
    prompt = PromptSettings(against="Play games.")
    contrasted = make_context(reading(prompt=prompt), comparison())
    plain = context()
    assert contrasted.question == plain.question
    assert contrasted.stated().views[0].prompt != plain.question
    assert contrasted.stated().views[1] == plain.stated().views[1]
    with pytest.raises(BadInput, match="without a preference"):
        make_context(reading(prompt=prompt), comparison(preferences=()))
