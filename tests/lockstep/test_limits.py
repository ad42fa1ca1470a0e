"""Which vLLM is refused, which group is, and what each refusal says to do."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from preftilt.engines.base import GuidedView, GuideRequest
from preftilt.engines.lockstep.limits import GroupLimits, unsupported
from preftilt.errors import BadInput
from preftilt.types import Sampling, Stream


def config(**changes: Any) -> SimpleNamespace:
    settings = {
        "speculative_config": None,
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "use_v2_model_runner": False,
        "watermark_config": None,
        "logprobs_mode": "raw_logprobs",
    } | changes
    return SimpleNamespace(
        speculative_config=settings["speculative_config"],
        use_v2_model_runner=settings["use_v2_model_runner"],
        watermark_config=settings["watermark_config"],
        parallel_config=SimpleNamespace(**settings),
        model_config=SimpleNamespace(**settings),
        scheduler_config=SimpleNamespace(max_num_seqs=8, max_num_batched_tokens=64),
        cache_config=SimpleNamespace(block_size=16, num_gpu_blocks=20, enable_prefix_caching=True),
    )


def test_a_plain_vllm_fits():
    assert unsupported(config()) is None


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"speculative_config": "ngram"}, "without --speculative-config"),
        ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size 1"),
        ({"data_parallel_size": 2}, "--data-parallel-size 1"),
        ({"use_v2_model_runner": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"use_v2_model_runner": True, "watermark_config": "gumbel"}, "without --watermark-config"),
        ({"logprobs_mode": "processed_logprobs"}, "without --logprobs-mode"),
    ],
    ids=str,
)
def test_a_vllm_that_cannot_guide_is_told_what_to_change(changes, remedy):
    assert remedy in (unsupported(config(**changes)) or "")


def request(*lengths: int) -> GuideRequest:
    return GuideRequest(
        views=tuple(GuidedView((1,) * length, 1.0) for length in lengths),
        slots=(0,),
        stream=Stream(0),
        sampling=Sampling(),
        max_tokens=8,
    )


def test_limits_are_those_of_the_vllm_that_has_started():
    assert GroupLimits.of(config()) == GroupLimits(8, 64, 16, 320)


def test_a_group_that_can_come_in_step_is_let_in():
    limits = GroupLimits(8, 64, 16, 320)
    limits.check(request(100, 60), 8)
    limits.check(request(*[16] * 4), 8)
    replace(limits, block=None).check(request(20, 28), 8)
    replace(limits, cache_tokens=0).check(request(1000, 1000), 8)


@pytest.mark.parametrize(
    ("lengths", "block", "words"),
    [
        ([4] * 9, 16, "--max-num-seqs 9"),
        ([16] * 5, 16, "--max-num-batched-tokens 80"),
        ([20, 29], None, "--enable-prefix-caching"),
        ([200, 105], 16, "321 tokens of key/value cache"),
    ],
    ids=["rows", "tokens of a step", "nothing cached", "cache"],
)
def test_a_group_that_never_could_is_refused(lengths, block, words):
    limits = GroupLimits(8, 64, block, 320)
    with pytest.raises(BadInput, match=words):
        limits.check(request(*lengths), 8)
