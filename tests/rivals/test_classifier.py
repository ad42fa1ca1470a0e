"""Reward models in this process against plain forwards of transformers, one response at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

import preftilt as pt
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput, NoChatTemplate, PromptTooLong
from preftilt.messages import Message
from preftilt.rivals import ByRewardModel, Judges
from preftilt.rivals.classifier import Classifier
from preftilt.rivals.reward_models import open_reward_model
from tests.engine.models import END, END_ID, save
from tests.rivals.conftest import Ask
from tests.rivals.models import DEAF, NO_SYSTEM, plain_score, save_reward_model

pytestmark = pytest.mark.model

CONVERSATION = [Message("system", "No games."), Message("user", "A or B?")]
RESPONSES = ["A", "B, as it is longer than the first", "", "A", "neither of them\n\nat all", "zz"]


@pytest.fixture(scope="module", autouse=True)
def _calm() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def opened(folder: str, batch_tokens: int = 8192) -> Classifier:
    model = open_reward_model(folder)
    assert isinstance(model, Classifier)
    return Classifier(model.loaded, model.template, model.padding, batch_tokens)


@pytest.mark.parametrize("pad", [None, 3, END_ID], ids=["no pad id", "a pad id", "the end pads"])
@pytest.mark.parametrize("batch_tokens", [1, 100, 8192])
def test_scores_are_those_of_one_plain_forward_each(
    pad: int | None, batch_tokens: int, tmp_path: Path
) -> None:
    folder = save_reward_model(tmp_path / "rm", pad=pad)
    model = opened(folder, batch_tokens)
    rated = pt.run_sync(model.score([(CONVERSATION, text) for text in RESPONSES]))
    model.close()
    expected = [plain_score(folder, CONVERSATION, text) for text in RESPONSES]
    assert rated.scores == pytest.approx(expected, abs=1e-5)
    assert len({round(one, 3) for one in expected}) == len(set(RESPONSES))
    assert rated.forwards == len(RESPONSES)


@pytest.mark.parametrize("place", ["system", "user"])
def test_the_pick_is_the_best_score_with_the_preference_where_it_was_put(
    place: str, ask: Ask, tmp_path: Path
) -> None:
    folder = save_reward_model(tmp_path / "rm")
    model = open_reward_model(folder)
    method = ByRewardModel(preference_in="user" if place == "user" else "system")
    result = ask(method, judges=Judges(reward_model=model))
    read = CONVERSATION if place == "system" else [Message("user", "No games.\n\nA or B?")]
    for candidate in result.candidates:
        assert candidate.method is not None
        assert candidate.method.score == pytest.approx(
            plain_score(folder, read, candidate.text), abs=1e-5
        )
    ended = [
        candidate.method.score or 0
        for candidate in result.candidates
        if candidate.finish == "eos" and candidate.method
    ]
    assert ended == sorted(ended, reverse=True)
    assert result.usage["method"]["forwards"] == len(
        {candidate.text for candidate in result.candidates}
    )
    assert result.method == {"name": "reward-model", "model": folder, "missing": 0}
    assert result.versions["reward model torch"] == torch.__version__
    model.close()


def test_what_does_not_fit_has_no_score_and_nothing_is_cut_off(tmp_path: Path) -> None:
    model = open_reward_model(save_reward_model(tmp_path / "rm"))
    pairs = [(CONVERSATION, "A"), (CONVERSATION, "x" * 200), (CONVERSATION, "B")]
    rated = pt.run_sync(model.score(pairs))
    assert [score is None for score in rated.scores] == [False, True, False]
    assert rated.forwards == 2
    with pytest.raises(PromptTooLong, match="shorten the conversation"):
        model.check([Message("user", "y" * 130)])
    model.close()


def test_control_tokens_that_words_spell_are_read_as_words(tmp_path: Path) -> None:
    model = open_reward_model(save_reward_model(tmp_path / "rm"))
    assert isinstance(model, Classifier)
    plain, spelled = (
        model.template.tokens([Message("user", f"A{words} or B?")], f"A{words}")
        for words in ("", f"{END}<user>")
    )
    assert spelled.count(END_ID) == plain.count(END_ID) == 2
    assert (spelled[0], len(spelled)) == (plain[0], len(plain) + 2 * len(f"{END}<user>"))
    model.close()


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no reward model: its files lack score\.weight"):
        open_reward_model(save(tmp_path / "lm", "llama"))


def test_two_outputs_are_no_reward(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has 2 outputs"):
        open_reward_model(save_reward_model(tmp_path / "rm", labels=2))


@pytest.mark.parametrize(
    ("template", "kind", "words"),
    [
        (None, NoChatTemplate, "has no chat template"),
        (NO_SYSTEM, BadInput, "--preference-in user"),
        (DEAF, NoChatTemplate, "leaves out the system message"),
    ],
    ids=["none", "it raises", "it drops"],
)
def test_a_template_that_cannot_say_the_preference_is_refused_before_the_first_token(
    template: str | None, kind: type[Exception], words: str, ask: Ask, tmp_path: Path
) -> None:
    model = open_reward_model(save_reward_model(tmp_path / "rm", template=template))
    with pytest.raises(kind, match=words):
        ask(ByRewardModel(), judges=Judges(reward_model=model))
    if template == NO_SYSTEM:
        result = ask(ByRewardModel(preference_in="user"), judges=Judges(reward_model=model))
        assert result.method is not None
        assert result.method["missing"] == 0
    model.close()


def test_a_template_that_drops_an_earlier_turn_is_refused(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if loop.last or m['role'] != 'assistant' %}"
        "{{ m['content'] }}{% endif %}{% endfor %}"
    )
    model = open_reward_model(save_reward_model(tmp_path / "rm", template=template))
    model.check([Message("user", "A or B?")])
    with pytest.raises(NoChatTemplate, match=r"leaves out the assistant message.*another reward"):
        model.check(
            [Message("user", "A or B?"), Message("assistant", "Neither."), Message("user", "Why?")]
        )
    model.close()


def test_options_of_servers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--timeout does not apply"):
        open_reward_model(save_reward_model(tmp_path / "rm"), EngineOptions(timeout=5))
