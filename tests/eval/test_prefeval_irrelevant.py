"""PrefEval's questions with somebody else's preference: which one, and when an answer is bent towards it."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftilt.errors import BadInput
from preftilt.eval.benchmarks import open_benchmarks
from preftilt.eval.benchmarks.prefeval_data import PrefEvalItem, load_items
from preftilt.eval.benchmarks.prefeval_irrelevant import irrelevant_preference, telling_words
from preftilt.eval.harness.benchmark import Case, Opening, ask
from tests.eval_inspect.fixtures import write_prefeval

VEGAN = "I am a vegan and avoid leather, wool and other animal products."


def test_a_question_gets_a_preference_of_another_group_of_topics(tmp_path: Path) -> None:
    data = str(write_prefeval(tmp_path))
    items = load_items(data, "explicit")
    group_of = {item.preference: item.topic.split("_")[0] for item in items}
    [benchmark] = open_benchmarks(["prefeval-irrelevant"], Opening(data=data, limit=20))
    cases = benchmark.test(0)
    assert len(cases) == 20
    for case in cases:
        [preference] = case.request.preferences
        assert preference.text == case.facts["preference"]
        assert group_of[preference.text] != case.id.split("_")[0]


def test_without_another_group_there_is_no_irrelevant_preference() -> None:
    shop = [
        PrefEvalItem(id=f"shop_home/{i}", topic="shop_home", preference="p", question="q")
        for i in (0, 1)
    ]
    with pytest.raises(BadInput, match=r"belongs to the topics shop_…; irrelevant ones need"):
        irrelevant_preference(shop[0], shop)


@pytest.mark.parametrize(
    ("answer", "not_bent", "share"),
    [
        ("Light is refracted in drops of water.", 1.0, 0.0),
        ("As a Vegan you may like rainbows.", 0.0, 0.25),
        ("Animals see other colours; leathery wool is for vegans.", 0.0, 1.0),
        ("I would rather avoid products.", 1.0, 0.0),
    ],
)
def test_an_answer_is_bent_if_it_names_the_preference(
    answer: str, not_bent: float, share: float, tmp_path: Path
) -> None:
    data = str(write_prefeval(tmp_path))
    [benchmark] = open_benchmarks(["prefeval-irrelevant"], Opening(data=data, limit=1))
    question = "What makes a rainbow?"
    case = Case("a", ask(question, VEGAN), {"preference": VEGAN, "question": question})
    assert benchmark.check is not None
    assert benchmark.check(case, answer) == {
        "not bent": not_bent,
        "share of its words named": share,
    }


def test_words_of_the_question_tell_nothing() -> None:
    words = telling_words("I never exercise in gyms.", "Which exercises are good for my back?")
    assert words == {"gym"}


def test_a_preference_in_the_history_is_refused(tmp_path: Path) -> None:
    opening = Opening(data=str(write_prefeval(tmp_path)), switches={"preference_as": "history"})
    with pytest.raises(BadInput, match="leave the switch preference_as at system"):
        open_benchmarks(["prefeval-irrelevant"], opening)
