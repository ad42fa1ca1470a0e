"""The normaliser of guided decoding on the transformers engine, against plain forwards and the rule in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from preftilt.arm.attach import tokenizer_hash
from preftilt.engines.base import GuidedView, GuideRequest, Mixture, NormaliseRequest, ScoreRequest
from preftilt.engines.transformers import TransformersEngine, runner
from preftilt.errors import BadInput, PromptTooLong
from preftilt.guided import combine, masked
from preftilt.types import Mask, Reader, Sampling, Stream, Tokens
from tests.arm.arms import saved as arm_folder
from tests.arm.arms import shaken, spec_for
from tests.engine.asking import prompt
from tests.engine.conftest import Opened
from tests.engine.models import END_ID, VOCABULARY, byte_tokenizer

pytestmark = pytest.mark.model

QUESTION, FULL, THIRD = prompt(11, 1), prompt(23, 2), prompt(40, 3)
COMPLETION = (*prompt(12, 5), END_ID)
MIXTURES = (
    Mixture((-2.0, 3.0)),
    Mixture((1.0, 0.7)),
    Mixture((0.0, 1.0)),
    Mixture((-2.0, 3.0), Mask(top_p=0.9), 1),
    Mixture((-1.0, 2.0), Mask(top_p=0.95, of="result"), 0),
)

Table = Callable[[str, Tokens, Tokens], np.ndarray]


@pytest.fixture(scope="module")
def table(saved) -> Table:
    """Log-probs [T, V] before every token of a completion, by one plain forward."""

    def logprobs(architecture: str, context: Tokens, completion: Tokens) -> np.ndarray:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            saved(architecture),
            attn_implementation=None if architecture == "bloom" else "eager",
        ).eval()
        with torch.inference_mode():
            logits = model(torch.tensor([context + completion[:-1]])).logits[0, :, :VOCABULARY]
        return torch.log_softmax(logits.double(), -1).numpy()[len(context) - 1 :]

    return logprobs


def asked(
    *prompts: Tokens, mixtures: tuple[Mixture, ...] = MIXTURES, completion: Tokens = COMPLETION
) -> NormaliseRequest:
    reads = tuple(ScoreRequest(prompt=one, completion=completion) for one in prompts)
    return NormaliseRequest(reads=reads, mixtures=mixtures)


def by_hand(table: Table, architecture: str, request: NormaliseRequest) -> np.ndarray:
    """[R, T]: the rule in numpy on every position's whole distributions."""
    completion = request.reads[0].completion
    views = np.stack([table(architecture, one.prompt, completion) for one in request.reads])
    found = np.zeros((len(request.mixtures), len(completion)))
    for row, mixture in enumerate(request.mixtures):
        for t, token in enumerate(completion):
            left = masked(
                combine(views[:, t], mixture.weights),
                views[mixture.preferred, t],
                mixture.mask,
            )
            found[row, t] = left[token] - np.logaddexp.reduce(left)
    return found


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "bloom"])
async def test_it_is_the_rule_on_whole_distributions(
    architecture: str, opened: Opened, table: Table
):
    engine = opened(architecture)
    assert engine.capabilities.normalises
    request = asked(QUESTION, FULL)
    [found] = await engine.normalise([request])
    expected = by_hand(table, architecture, request)
    assert np.array_equal(np.isneginf(found), np.isneginf(expected))
    possible = np.isfinite(expected)
    assert possible.sum() < possible.size  # The masks leave something out.
    assert found[possible] == pytest.approx(expected[possible], abs=2e-4)


async def test_three_views_and_a_repeated_one(opened: Opened, table: Table):
    request = asked(QUESTION, FULL, THIRD, FULL, mixtures=(Mixture((1.0, 0.5, -0.7, 0.2)),))
    [found] = await opened("qwen2").normalise([request])
    assert found == pytest.approx(by_hand(table, "qwen2", request), abs=2e-4)


async def test_one_view_of_weight_one_is_the_score(opened: Opened):
    engine = opened("qwen2")
    [found] = await engine.normalise([asked(FULL, mixtures=(Mixture((1.0,)),))])
    [score] = await engine.score([ScoreRequest(prompt=FULL, completion=COMPLETION)])
    assert found[0] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("length", [1, 2])
async def test_short_completions(length: int, opened: Opened, table: Table):
    request = asked(QUESTION, FULL, mixtures=MIXTURES[:2], completion=COMPLETION[:length])
    [found] = await opened("qwen2").normalise([request])
    assert found == pytest.approx(by_hand(table, "qwen2", request), abs=2e-4)


async def test_few_positions_at_a_time_change_nothing(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    engine = opened("qwen2")
    [whole] = await engine.normalise([asked(QUESTION, FULL)])
    monkeypatch.setattr(runner, "LOGIT_NUMBERS", 5 * VOCABULARY)
    [pieces] = await engine.normalise([asked(QUESTION, FULL)])
    assert np.array_equal(np.isneginf(whole), np.isneginf(pieces))
    assert np.nan_to_num(pieces, neginf=0) == pytest.approx(
        np.nan_to_num(whole, neginf=0), abs=1e-5
    )


async def test_a_greedy_guided_answer_is_likelier_than_its_neighbours(opened: Opened):
    engine = opened("qwen2")
    views = (GuidedView(QUESTION, -2.0), GuidedView(FULL, 3.0))
    guide = GuideRequest(
        views=views,
        slots=(0,),
        stream=Stream(0),
        sampling=Sampling(temperature=0),
        max_tokens=6,
    )
    [[drawn]] = await engine.guide([guide])
    other = (*drawn.tokens[:-1], (drawn.tokens[-1] + 1) % VOCABULARY)
    requests = [
        asked(QUESTION, FULL, mixtures=MIXTURES[:1], completion=one)
        for one in (drawn.tokens, other)
    ]
    best, worse = await engine.normalise(requests)
    assert np.allclose(best[0, :-1], worse[0, :-1], atol=1e-5)
    assert best[0, -1] > worse[0, -1]


async def test_it_runs_beside_other_requests(opened: Opened):
    import asyncio

    engine = opened("qwen2")
    [alone] = await engine.normalise([asked(QUESTION, FULL)])
    score = [ScoreRequest(prompt=FULL, completion=COMPLETION)] * 3
    found, *_ = await asyncio.gather(
        engine.normalise([asked(QUESTION, FULL), asked(THIRD, FULL)]), engine.score(score)
    )
    assert np.nan_to_num(found[0], neginf=0) == pytest.approx(
        np.nan_to_num(alone, neginf=0), abs=1e-5
    )


async def test_what_cannot_be_read_is_refused(opened: Opened):
    engine = opened("qwen2")
    with pytest.raises(BadInput, match="weights"):
        await engine.normalise([asked(QUESTION, FULL, mixtures=(Mixture((1.0,)),))])
    with pytest.raises(BadInput, match="empty completion"):
        await engine.normalise([asked(QUESTION, completion=(), mixtures=(Mixture((1.0,)),))])
    with pytest.raises(PromptTooLong):
        await engine.normalise([asked((1,) * 300, mixtures=(Mixture((1.0,)),))])


async def test_a_reward_model_s_view_is_one_more(saved, opened: Opened, tmp_path: Path):
    """Against the rule on whole distributions, which scoring every token alone gives."""
    base = transformers.AutoModelForCausalLM.from_pretrained(saved("llama"))
    spec = spec_for(base, "parm", tokenizer=tokenizer_hash(byte_tokenizer()))
    folder = arm_folder(tmp_path / "arm", spec, shaken(base, spec))
    engine = opened("llama", arms={"taste": str(folder)})
    reader = Reader("taste", (0.3, 0.7))
    mixture = Mixture((1.0, 0.5))
    reads = [
        ScoreRequest(prompt=QUESTION, completion=COMPLETION, reader=by) for by in (None, reader)
    ]
    request = NormaliseRequest(reads=tuple(reads), mixtures=(mixture,))
    [found] = await engine.normalise([request])
    for t in (0, 3):
        views = [await _whole(engine, COMPLETION[:t], by) for by in (None, reader)]
        assert np.abs(views[0] - views[1]).max() > 0.01
        expected = combine(np.stack(views), mixture.weights)[COMPLETION[t]]
        assert found[0, t] == pytest.approx(expected, abs=2e-4)


async def _whole(engine: TransformersEngine, prefix: Tokens, reader: Reader | None) -> np.ndarray:
    """Log-probs [V] after ``prefix``, a token at a time."""
    requests = [
        ScoreRequest(prompt=QUESTION, completion=(*prefix, token), reader=reader)
        for token in range(VOCABULARY)
    ]
    return np.array([float(row[-1]) for row in await engine.score(requests)])
