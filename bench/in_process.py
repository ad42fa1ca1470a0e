"""``python -m bench.in_process``: engines in one process beside each other on SmolLM2; writes docs/bench/in-process.md.

It runs in the environment of ``make test-servers``, on a machine that does nothing else. A part takes one to three
minutes; each can be run alone.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.figures import CANDIDATES, NEW_TOKENS
from bench.limits import Figure, Say, measure_parts, ratios
from bench.serving.sides import SideProcess
from bench.serving.words import QUESTIONS, WISH
from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.llamacpp import LlamaCppEngine, open_llamacpp
from preftilt.engines.llamacpp.bindings import ContextSettings, LlamaContext, LlamaModel
from preftilt.engines.models import SMOLLM2, gguf_file
from preftilt.messages import Message
from preftilt.types import Completion, Sampling, Stream, Tokens

REPEATS = 3

INTRODUCTION = f"""\
Medians of n values, with the least and the greatest, in seconds a token of {CANDIDATES} answers of up to {NEW_TOKENS}
tokens. The two sides of a ratio are measured in turns; a value is one turn.

- **llama.cpp's own batch**: the calls of llama.cpp's `llama-batched-bench` through the same bindings, with the
  same weights and types: the prompt once, copied to {CANDIDATES} sequences, and then a token of each in every call.
  Nothing is drawn.
- **Embedded ÷ vLLM**: best-of-{CANDIDATES} with REAR's scores by `smollm2` and by `vllm:smollm2`, each in a process of
  its own, of which one is asked at a time.
"""


def llamacpp(say: Say) -> list[Figure]:
    """Scoring and drawing by llama.cpp, and drawing beside llama.cpp's own loop."""
    engine = open_llamacpp(SMOLLM2)
    settings = ContextSettings(
        cells=CANDIDATES * (NEW_TOKENS + 1) + 512,
        sequences=CANDIDATES,
        batch=512,
        outputs=CANDIDATES,
        threads=torch.get_num_threads(),
    )
    context = LlamaContext(LlamaModel(str(gguf_file(SMOLLM2)), gpu_layers=0), settings)
    drawing: list[float] = []
    scoring: list[float] = []
    own: list[float] = []
    for repeat in range(REPEATS + 1):
        prompt, question = prompts(engine, repeat)
        began = time.perf_counter()
        completions = asyncio.run(draw(engine, prompt, repeat))
        drawn = time.perf_counter()
        asyncio.run(score(engine, question, completions))
        scored = time.perf_counter()
        tokens = sum(len(completion.tokens) for completion in completions)
        seconds = own_loop(context, prompt)
        if repeat:  # The first is for warming up.
            drawing.append((drawn - began) / tokens)
            scoring.append((scored - drawn) / tokens)
            own.append(seconds / (CANDIDATES * NEW_TOKENS))
        say(
            f"llama.cpp: {tokens} tokens, {drawn - began:.1f} s drawn, {scored - drawn:.1f} s scored"
        )
    context.close()
    engine.close()
    weights = engine.versions["weights"]
    return [
        Figure(f"llama.cpp ({weights}): scoring ÷ drawing", 0.4, "×", ratios(scoring, drawing)),
        Figure(
            "llama.cpp: tokens a second of its own batch ÷ those drawn by preftilt",
            1 / 0.9,
            "×",
            ratios(drawing, own),
        ),
        Figure("llama.cpp: a drawn token", None, "ms", [1000 * seconds for seconds in drawing]),
    ]


def prompts(engine: LlamaCppEngine, number: int) -> tuple[Tokens, Tokens]:
    """The prompt with the preference, and without."""
    question = Message("user", QUESTIONS[number % len(QUESTIONS)])
    render = engine.tokenizer.render
    return render([Message("system", WISH), question]), render([question])


async def draw(engine: LlamaCppEngine, prompt: Tokens, seed: int) -> list[Completion]:
    request = SampleRequest(
        prompt=prompt,
        slots=tuple(range(CANDIDATES)),
        stream=Stream(seed),
        sampling=Sampling(),
        max_tokens=NEW_TOKENS,
    )
    [completions] = await engine.sample([request])
    return completions


async def score(engine: LlamaCppEngine, prompt: Tokens, completions: Sequence[Completion]) -> None:
    await engine.score(
        [ScoreRequest(prompt=prompt, completion=completion.tokens) for completion in completions]
    )


def own_loop(context: LlamaContext, prompt: Tokens) -> float:
    """Seconds that as many tokens take by calls of llama.cpp alone."""
    context.clear()
    last = len(prompt) - 1
    context.forward(
        prompt, range(len(prompt)), [0] * len(prompt), [i == last for i in range(len(prompt))]
    )
    for sequence in range(1, CANDIDATES):
        context.copy(0, sequence, len(prompt))
    began = time.perf_counter()
    for step in range(NEW_TOKENS):
        position = len(prompt) + step
        context.forward(
            [prompt[step % len(prompt)]] * CANDIDATES,
            [position] * CANDIDATES,
            range(CANDIDATES),
            [True] * CANDIDATES,
        )
    return time.perf_counter() - began


def beside_vllm(dtype: str, say: Say) -> list[Figure]:
    """Best-of-16 with its scores by the embedded engine and by vLLM in-process."""
    values: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="preftilt-bench-") as folder:
        sides: dict[str, SideProcess] = {}
        try:
            for engine in (SMOLLM2, f"vllm:{SMOLLM2}"):
                command = [sys.executable, "-m", "bench.serving.engine_side", engine, dtype]
                sides[engine] = SideProcess(engine, command, Path(folder) / "side.log")
                sides[engine].ready()
            for repeat in range(REPEATS + 1):
                for engine, side in sides.items():
                    reply = side.ask(seed=repeat, question=QUESTIONS[repeat % len(QUESTIONS)])
                    say(f"{engine}, {dtype}: {reply['drawn']} tokens, {reply['seconds']:.1f} s")
                    if repeat:
                        values.setdefault(engine, []).append(reply["seconds"] / reply["drawn"])
        finally:
            for side in sides.values():
                side.close()
    ours, theirs = values[SMOLLM2], values[f"vllm:{SMOLLM2}"]
    return [
        Figure(f"embedded ÷ vLLM in-process, {dtype}", 1.2, "×", ratios(ours, theirs)),
        *(
            Figure(f"{engine}, {dtype}: a token", None, "ms", [1000 * each for each in seconds])
            for engine, seconds in values.items()
        ),
    ]


PARTS = {
    "llamacpp": llamacpp,
    "vllm-float32": lambda say: beside_vllm("float32", say),
    "vllm-bfloat16": lambda say: beside_vllm("bfloat16", say),
}


def main() -> None:
    """Measure, print the table, save it."""
    measure_parts("in_process", __doc__, "Engines in one process", INTRODUCTION, PARTS)


if __name__ == "__main__":
    main()
