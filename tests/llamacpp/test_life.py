"""llama.cpp itself: what is forwarded, by count; cancelling, closing; files and options that cannot work."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.llamacpp import LlamaCppEngine, open_llamacpp
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput, EngineError, PromptTooLong
from preftilt.messages import Message
from preftilt.types import Completion, Sampling, Step, Stream, Tokens
from tests.llamacpp.conftest import Exported, Opens

pytestmark = pytest.mark.servers

MESSAGES = [Message("user", "What are some enjoyable ways to study maths?")]


async def draw(
    engine: LlamaCppEngine,
    prompt: Tokens,
    slots: range,
    *,
    max_tokens: int = 24,
    prefix: Tokens = (),
    step: Step | None = None,
    keep: bool = False,
) -> list[Completion]:
    request = SampleRequest(
        prompt=prompt,
        prefix=prefix,
        slots=tuple(slots),
        stream=Stream(1),
        sampling=Sampling(),
        max_tokens=max_tokens,
        step=step,
        keep=keep,
    )
    [drawn] = await engine.sample([request])
    return drawn


async def score(
    engine: LlamaCppEngine, prompt: Tokens, drawn: list[Completion], prefix: Tokens = ()
) -> list[np.ndarray]:
    return await engine.score(
        [
            ScoreRequest(prompt=prompt, prefix=prefix, completion=one.tokens, keep=True)
            for one in drawn
        ]
    )


def views(engine: LlamaCppEngine) -> tuple[Tokens, Tokens]:
    render = engine.tokenizer.render
    return render([Message("system", "I dislike gamification."), *MESSAGES]), render(MESSAGES)


def shared(first: Tokens, second: Tokens) -> int:
    return next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)


async def test_best_of_16_reads_a_prompt_once_and_every_token_but_the_last_once_a_view(
    opens: Opens,
):
    engine = opens()
    full, question = views(engine)
    drawn = await draw(engine, full, range(16))
    await engine.score([ScoreRequest(prompt=question, completion=one.tokens) for one in drawn])
    responses = sum(len(one.tokens) - 1 for one in drawn)
    prompts = len(full) + len(question) - shared(full, question)
    assert engine.stats.forwarded == prompts + 2 * responses


async def test_a_tree_search_forwards_no_token_twice_under_the_same_view(opens: Opens):
    """DVTS 2×4, as the driver asks for it; children that begin alike may share even more."""
    engine = opens()
    full, question = views(engine)
    most = len(full) + len(question)

    async def subtree(number: int) -> int:
        forwarded, prefix = 0, ()
        for _ in range(3):
            slots = range(4 * number, 4 * number + 4)
            children = await draw(engine, full, slots, prefix=prefix, step=Step(" "), keep=True)
            await score(engine, question, children, prefix)
            forwarded += sum(len(one.tokens) - 1 for one in children) + bool(prefix)
            prefix += children[0].tokens
        return forwarded

    most += 2 * sum(await asyncio.gather(subtree(0), subtree(1)))
    assert engine.stats.forwarded <= most


async def test_a_cancelled_call_leaves_the_engine_as_it_was(opens: Opens):
    engine = opens()
    full, question = views(engine)
    before = await draw(engine, question, range(2))
    task = asyncio.ensure_future(draw(engine, full, range(16), max_tokens=400))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    calls = engine.stats.calls
    after = await draw(engine, question, range(2))
    assert [one.tokens for one in after] == [one.tokens for one in before]
    assert engine.stats.calls <= calls + 2 + 24


async def test_closing_fails_what_is_under_way_and_leaves_the_tokenizer(opens: Opens):
    engine = opens()
    full, question = views(engine)
    task = asyncio.ensure_future(draw(engine, full, range(16), max_tokens=1000))
    await asyncio.sleep(0.1)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        await task
    with pytest.raises(EngineError, match="closed"):
        await draw(engine, question, range(1))
    engine.close()
    assert engine.tokenizer.decode(engine.tokenizer.encode("still here")) == "still here"


async def test_the_context_can_be_made_smaller_and_its_end_is_respected(opens: Opens):
    engine = opens(options=EngineOptions(max_context=64, threads=1))
    assert engine.capabilities.max_context == 64
    full, _ = views(engine)
    long = (full * 64)[:64]
    with pytest.raises(PromptTooLong, match="65 tokens, 1 more than the 64"):
        await draw(engine, long, range(1))
    for one in await draw(engine, long[:60], range(4)):
        assert len(one.tokens) <= 4


def test_a_larger_context_than_the_model_was_made_for_is_refused(exported: Exported):
    with pytest.raises(BadInput, match=r"2560 tokens.*--max-context 4000"):
        open_llamacpp(exported("f32"), EngineOptions(max_context=4000))


def test_a_file_that_was_cut_off_says_so(exported: Exported, tmp_path: Path):
    whole = Path(exported("f32")).read_bytes()
    for kept in (len(whole) // 2, 2000, 40):
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:kept])
        with pytest.raises(BadInput, match=r"cannot load .*cut\.gguf.*(damaged|cut off)"):
            open_llamacpp(str(path))


def test_a_device_that_this_build_has_not_is_refused(exported: Exported):
    with pytest.raises(BadInput, match="--device tpu"):
        open_llamacpp(exported("f32"), EngineOptions(device="tpu"))


def test_a_template_can_be_given_instead_of_the_files_own(exported: Exported):
    engine = open_llamacpp(exported("f32"), EngineOptions(chat_template="plain"))
    try:
        prompt = engine.tokenizer.render(MESSAGES)
        assert "User: What are" in "".join(engine.tokenizer.pieces(prompt))
    finally:
        engine.close()
