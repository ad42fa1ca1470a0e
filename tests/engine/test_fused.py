"""The attention of a GPU, with torch's kernels computed on the CPU (``gpu_kernels.py``): our calls and what is made of
their answers. Whether the real kernels do as torch documents is checked when a model is opened on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from preftilt.engines.base import GuidedView, GuideRequest
from preftilt.engines.options import EngineOptions
from preftilt.engines.transformers import (
    fused,
    joined_layers,
    open_model,
    open_transformers,
    probe,
    runner,
    sampler,
)
from preftilt.engines.transformers.attention import AttentionParams
from preftilt.engines.transformers.decode import DecodePlan, RowPosition, TailBuffers
from preftilt.engines.transformers.extend import ExtendPlan, ExtendSegment
from preftilt.engines.transformers.fused import FusedAttention, efficient, flash, fused_kernels
from preftilt.engines.transformers.jobs import draw_job
from preftilt.engines.transformers.linears import RoundedHead
from preftilt.engines.transformers.prefix_cache import CachedPrompt, Layers
from preftilt.testing.laws import check_laws
from preftilt.types import Sampling, Stream
from tests.engine.asking import draw, prompt, request, score, tokens
from tests.engine.conftest import Opened, Oracle
from tests.engine.gpu_kernels import KernelCalls, gpu_kernels_on_cpu
from tests.engine.models import save

pytestmark = pytest.mark.model

CPU = torch.device("cpu")
SIZE = 16
SCALE = 0.3
KERNELS = pytest.mark.parametrize(
    ("kernel", "dtype", "tolerance"),
    [(efficient, torch.float32, 2e-6), (flash, torch.bfloat16, 0.02)],
    ids=["efficient-float32", "flash-bfloat16"],
)
HEADS = pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)], ids=["equal", "grouped"])


@pytest.fixture(autouse=True)
def calls() -> Iterator[KernelCalls]:
    with gpu_kernels_on_cpu() as calls, torch.inference_mode():
        yield calls


class Random:
    """Random tensors of a head size and dtype, the same in every run."""

    def __init__(self, dtype: torch.dtype, heads: int, kv_heads: int) -> None:
        self._generator = torch.Generator().manual_seed(5)
        self._dtype = dtype
        self.heads, self.kv_heads = heads, kv_heads

    def normal(self, heads: int, tokens: int) -> Tensor:
        return torch.randn(heads, tokens, SIZE, generator=self._generator).to(self._dtype)

    def layers(self, tokens: int) -> Layers:
        """A cache of one layer; none for no tokens."""
        if not tokens:
            return {}
        return {0: (self.normal(self.kv_heads, tokens), self.normal(self.kv_heads, tokens))}

    def prompt(self, tokens: int) -> CachedPrompt:
        return CachedPrompt(tuple(range(tokens)), self.layers(tokens), torch.zeros(1))

    def new(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of new tokens."""
        return (
            self.normal(self.heads, tokens),
            self.normal(self.kv_heads, tokens),
            self.normal(self.kv_heads, tokens),
        )


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The last queries of a text over all of it, causally: [H, L, D], [Hkv, S, D] → [L, H, D] in float32."""
    k, v = (x.float().repeat_interleave(len(q) // len(k), dim=0) for x in (k, v))
    new, stored = q.shape[1], k.shape[1] - q.shape[1]
    later = torch.ones(new, k.shape[1], dtype=torch.bool).triu(stored + 1)
    scores = (q.float() @ k.transpose(1, 2) * SCALE).masked_fill(later, -torch.inf)
    return (scores.softmax(dim=-1) @ v).transpose(0, 1)


def after(*caches: Layers) -> tuple[Tensor, Tensor]:
    """Keys and values of caches, one after another."""
    keys = [cache[0][0] for cache in caches if cache]
    values = [cache[0][1] for cache in caches if cache]
    return torch.cat(keys, dim=1), torch.cat(values, dim=1)


DECODED = {
    "one prompt": ([40], [(0, 3), (0, 0), (0, 7)]),
    "several groups": ([40, 9, 17], [(0, 3), (0, 5), (1, 1), (2, 0), (2, 2), (2, 2)]),
    "groups of one": ([40, 9, 17], [(0, 4), (1, 4), (2, 4)]),
    "out of order": ([40, 9], [(0, 3), (1, 5), (0, 1), (1, 0)]),
    "prompts of their own": ([40], [(None, 12), (0, 2), (None, 3), (0, 6)]),
    "no shared prompt": ([], [(None, 12), (None, 3)]),
    "first tokens": ([11], [(0, 0), (0, 0)]),
}
"""Lengths of prompts, and rows: the number of their prompt, and the tokens in their tails."""


@KERNELS
@HEADS
@pytest.mark.parametrize("case", DECODED)
def test_decoding_equals_plain_attention_token_by_token(
    case: str,
    heads: int,
    kv_heads: int,
    kernel: FusedAttention,
    dtype: torch.dtype,
    tolerance: float,
    calls: KernelCalls,
):
    random = Random(dtype, heads, kv_heads)
    lengths, rows = DECODED[case]
    prompts = [random.prompt(length) for length in lengths]
    buffers, texts, places = TailBuffers(0), list[Layers](), list[RowPosition]()
    buffers.reserve(len(rows), 1 + max(length for _, length in rows))
    for row, (number, length) in enumerate(rows):
        tail = random.layers(length)
        buffers.write(row, 0, tail)
        shared = None if number is None else prompts[number]
        texts.append({0: after(shared.layers, tail)} if shared is not None else tail)
        places.append(RowPosition(shared, length))
    plan = DecodePlan(buffers, places, CPU)
    shape = AttentionParams(SCALE, fused=kernel)
    for step in range(3):
        if step:
            plan.advance()
        q, k, v = random.new(len(rows))
        out = plan.attend(0, q, k, v, shape)
        for row in range(len(rows)):
            here = slice(row, row + 1)
            texts[row] = {0: after(texts[row], {0: (k[:, here], v[:, here])})}
            expected = plain(q[:, here], *texts[row][0])
            torch.testing.assert_close(out[here].float(), expected, rtol=0, atol=tolerance)
    assert calls.count == 3 * (2 if lengths else 1)


EXTENDED = {
    "prompts": [(0, 0, 30), (0, 0, 5)],
    "a chunk of a prompt": [(21, 0, 12)],
    "candidates": [(40, 0, 7), (40, 0, 3), (40, 0, 11)],
    "several prompts": [(40, 0, 7), (40, 0, 3), (9, 0, 4), (17, 0, 1)],
    "tails": [(40, 6, 7), (40, 0, 3), (9, 2, 4), (0, 5, 6)],
    "single tokens": [(40, 6, 1), (9, 0, 1)],
    "some without a prompt": [(0, 0, 4), (9, 0, 6), (0, 0, 3)],
}
"""Segments: the lengths of their prompt (equal ones share it), of their tail, and of what is new."""


@KERNELS
@HEADS
@pytest.mark.parametrize("case", EXTENDED)
def test_reading_equals_plain_attention(
    case: str,
    heads: int,
    kv_heads: int,
    kernel: FusedAttention,
    dtype: torch.dtype,
    tolerance: float,
    calls: KernelCalls,
):
    random = Random(dtype, heads, kv_heads)
    shared: dict[int, Layers] = {}
    segments = [
        ExtendSegment(
            tuple(range(new)),
            shared.setdefault(length, random.layers(length)),
            length,
            random.layers(tail),
            tail,
        )
        for length, tail, new in EXTENDED[case]
    ]
    plan = ExtendPlan(segments, CPU)
    q, k, v = random.new(len(plan.tokens))
    out = plan.attend(0, q, k, v, AttentionParams(SCALE, fused=kernel))
    for number, segment in enumerate(segments):
        here = slice(plan.offsets[number], plan.offsets[number + 1])
        text = after(segment.prefix, segment.tail, {0: (k[:, here], v[:, here])})
        expected = plain(q[:, here], *text)
        torch.testing.assert_close(out[here].float(), expected, rtol=0, atol=tolerance)
    assert calls.count == 1 + any(segment.prefix_length for segment in segments)


def test_sinks_share_the_softmax():
    """A learned score a head, with no value: as a key whose value is zero."""
    random = Random(torch.float32, 4, 2)
    shared, sinks = random.prompt(9), torch.tensor([0.5, -1.0, 2.0, 0.0])
    q, k, v = random.new(2)
    outs = []
    for kernel in (efficient, None):
        plan = DecodePlan(TailBuffers(0), [RowPosition(shared, 0)] * 2, CPU)
        shape = AttentionParams(SCALE, sinks=sinks, fused=kernel)
        outs.append(plan.attend(0, q, k, v, shape))
    torch.testing.assert_close(*outs)


def test_prompts_that_are_not_kept_end_to_end_are_laid_so_every_time(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(fused, "PACKED_BYTES", 0)
    random = Random(torch.float32, 4, 2)
    places = [RowPosition(random.prompt(length), 0) for length in (9, 5)]
    plan = DecodePlan(TailBuffers(0), places, CPU)
    q, k, v = random.new(2)
    out = plan.attend(0, q, k, v, AttentionParams(SCALE, fused=efficient))
    assert plan._prompts._kept == {}
    for row, place in enumerate(places):
        here = slice(row, row + 1)
        assert place.prompt is not None
        text = after(place.prompt.layers, {0: (k[:, here], v[:, here])})
        torch.testing.assert_close(out[here], plain(q[:, here], *text), rtol=0, atol=2e-6)


def test_a_kernel_is_chosen_by_device_and_dtype():
    gpu = torch.device("cuda")
    assert fused_kernels(CPU, torch.float32) == fused_kernels(CPU, torch.bfloat16) == ()
    assert fused_kernels(gpu, torch.float32) == (efficient,)
    assert fused_kernels(gpu, torch.bfloat16) == fused_kernels(gpu, torch.float16)
    assert fused_kernels(gpu, torch.bfloat16) == (flash, efficient)


@pytest.mark.parametrize(
    ("shape", "reach", "is_fused"),
    [
        (AttentionParams(SCALE), 1000, True),
        (AttentionParams(SCALE, window=8), 8, True),
        (AttentionParams(SCALE, window=8), 9, False),
        (AttentionParams(SCALE, softcap=30.0), 5, False),
    ],
    ids=["plain", "window not reached", "window", "cap"],
)
def test_windows_that_end_and_caps_are_left_to_the_explicit_path(
    shape: AttentionParams, reach: int, is_fused: bool
):
    shape = AttentionParams(shape.scale, shape.window, shape.softcap, fused=efficient)
    q, v = torch.zeros(4, 1, SIZE), torch.zeros(2, 1, SIZE)
    assert shape.kernel(q, v, reach) is (efficient if is_fused else None)
    assert shape.kernel(q, torch.zeros(2, 1, 2 * SIZE), 1) is None


Forced = Callable[..., None]


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Forced:
    """Models that are opened from then on try these kernels, on the CPU, too."""

    def force(*kernels: FusedAttention) -> None:
        monkeypatch.setattr(probe, "fused_kernels", lambda device, dtype: kernels)

    return force


async def test_all_laws_hold_with_a_fused_kernel(opened: Opened, forced: Forced):
    forced(efficient)
    engine = opened("qwen2")
    assert engine.versions["attention_kernel"] == "efficient"
    await check_laws(engine)


@pytest.fixture
def as_on_gpu(forced: Forced, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that are opened from then on take every way of a GPU; tensors, and their numbers, are the CPU's."""
    forced(flash, efficient)
    for module in (joined_layers, open_model, probe, runner, sampler):
        monkeypatch.setattr(module, "on_cpu", lambda device: False)


@pytest.mark.usefixtures("as_on_gpu")
async def test_all_laws_hold_in_bfloat16_as_on_a_gpu(tmp_path: Path, calls: KernelCalls):
    """With logits in float32 by the model's own output layer: there is no copy of it."""
    folder = save(tmp_path / "wide", "qwen2", hidden_size=64)
    engine = open_transformers(folder, EngineOptions(dtype="bfloat16", sampler_logprobs="off"))
    try:
        assert engine.versions["attention_kernel"] == "flash"
        await check_laws(engine, tolerance=0.5)
        head = engine._runner.head
        own = engine._runner.model.get_output_embeddings().weight
        assert isinstance(head, RoundedHead)
        assert head.weight.untyped_storage().data_ptr() == own.untyped_storage().data_ptr()
        logits = head(torch.randn(2, 64).bfloat16())
        assert logits.dtype == torch.float32
        assert not torch.equal(logits, logits.bfloat16().float())
    finally:
        engine.close()
    assert calls.flash
    assert calls.products
    assert not calls.efficient


def test_an_output_layer_with_a_bias_adds_it_in_float32():
    states, weight = torch.randn(3, 16).bfloat16(), torch.randn(20, 16).bfloat16()
    bias = torch.randn(20)
    expected = states.float() @ weight.float().t() + bias
    torch.testing.assert_close(RoundedHead(weight, bias)(states), expected)


WAITS = frozenset(
    f"aten::{name}"
    for name in ("item", "_local_scalar_dense", "is_nonzero", "nonzero", "argwhere", "equal")
)
"""What reads a number of a tensor, or has as many results as the numbers say: on a GPU the host waits for it."""

PICKS = frozenset({"aten::index", "aten::index_put", "aten::index_put_", "aten::masked_select"})
"""So do these, by a mask."""


class Waits(TorchDispatchMode):
    """Records what a thread waits for; reading the drawn tokens (``tolist``), which must be, is no such operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.operations += 1
        if name in WAITS or (name in PICKS and any(map(is_mask, tree_leaves(args[1])))):
            self.names.append(name)
        return func(*args, **kwargs or {})


def is_mask(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype == torch.bool


STEPS = {
    "plain": (Sampling(), None, 0),
    "greedy": (Sampling(temperature=0.0), None, 0),
    "top-k": (Sampling(top_k=5), None, 0),
    "guided": (Sampling(), (-1.0, 2.0), 0),
    "guided by divergence": (Sampling(), (-1.0, 2.0), 0),
    "top-p": (Sampling(top_p=0.9), None, 1),
}


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize("case", STEPS)
def test_the_host_waits_for_nothing_in_a_step_but_for_its_tokens(case: str, opened: Opened):
    """Only the nucleus is looked at once, whether it is among the likeliest tokens."""
    sampling, weights, waits = STEPS[case]
    path = opened("qwen2")._scheduler
    if weights is None:
        requests = [
            request(prompt(20 + n, n), 3, 30, item=str(n), sampling=sampling) for n in (0, 1)
        ]
    else:
        views = tuple(
            GuidedView(prompt(20 + n, n), weight) for n, weight in enumerate(weights, start=2)
        )
        requests = [
            GuideRequest(
                views=views,
                slots=(0, 1, 2),
                stream=Stream(3),
                sampling=sampling,
                max_tokens=30,
                strength_by="divergence" if "divergence" in case else "fixed",
            )
        ]
    path.add([draw_job(each) for each in requests])
    for _ in range(3):
        path.step()
    with Waits() as seen:
        path.step()
    assert seen.operations > 100
    assert len(seen.names) == waits, seen.names


@pytest.mark.parametrize(
    ("architecture", "facts"),
    [
        ("qwen2", "efficient"),
        ("mistral", "efficient; explicit in layers with a window, once a text is longer"),
        (
            "gemma2",
            "efficient; explicit in layers with a window, once a text is longer;"
            " explicit in layers with a cap on scores",
        ),
    ],
)
async def test_draws_and_scores_equal_plain_forwards_and_the_engine_says_by_what(
    architecture: str, facts: str, opened: Opened, oracle: Oracle, forced: Forced
):
    forced(efficient)
    engine = opened(architecture)
    assert engine.versions["attention_kernel"] == facts
    for length in (5, 40):
        question = prompt(length)
        drawn = await draw(engine, question, 4, 12)
        scores = await score(engine, question, *tokens(drawn))
        for completion, scored in zip(drawn, scores, strict=True):
            expected = oracle(architecture, question, completion.tokens)
            np.testing.assert_allclose(scored, expected, rtol=0, atol=1e-4)
            np.testing.assert_allclose(completion.logprobs, expected, rtol=0, atol=1e-4)


async def test_a_kernel_that_fails_or_computes_something_else_is_not_used(
    opened: Opened, forced: Forced, calls: KernelCalls
):
    def missing(*arguments: object, **options: object) -> tuple[Tensor, Tensor]:
        raise RuntimeError("no kernel image is available for execution on the device")

    def wrong(*arguments, **options) -> tuple[Tensor, Tensor]:
        out, lse = efficient(*arguments, **options)
        return 1.5 * out, lse

    forced(missing, wrong, efficient)
    assert opened("qwen2").versions["attention_kernel"] == "efficient"
    forced(missing, wrong)
    engine = opened("qwen2")
    assert engine.path == "shared prefix"
    assert "attention_kernel" not in engine.versions


@pytest.mark.parametrize("items", [1, 6])
async def test_attention_calls_a_step_do_not_grow_with_the_number_of_prompts(
    items: int, opened: Opened, forced: Forced, calls: KernelCalls
):
    """Two a layer, over the prompts and over the tails, and one in the forward that reads the prompts."""
    forced(efficient)
    engine = opened("qwen2")
    calls.efficient = calls.most_sequences = 0
    requests = [request(prompt(20 + n, n), 2, 8, item=str(n)) for n in range(items)]
    drawn = await engine.sample(requests)
    longest = max(len(completion.tokens) for each in drawn for completion in each)
    assert engine.stats.forwards == longest
    assert calls.efficient == 2 * (1 + 2 * (longest - 1))
    assert calls.most_sequences == 2 * items


async def test_what_a_batch_is_made_of_reaches_the_device_when_rows_come_or_go(
    opened: Opened, forced: Forced, monkeypatch: pytest.MonkeyPatch
):
    """And not with every token: a plan lasts for as long as its rows do."""
    forced(efficient)
    engine = opened("qwen2")
    made: list[int] = []
    init = DecodePlan.__init__

    def counted(plan: DecodePlan, *arguments, **options) -> None:
        made.append(1)
        init(plan, *arguments, **options)

    monkeypatch.setattr(DecodePlan, "__init__", counted)
    drawn = await engine.sample(
        [request(prompt(30, seed), 3, 20, item=str(seed)) for seed in range(2)]
    )
    ends = {len(completion.tokens) for each in drawn for completion in each}
    assert 1 <= len(made) <= len(ends)
    assert engine.stats.forwards > len(made)
