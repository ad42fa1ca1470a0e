"""Linear and decoder layers on the CPU compute what the model's own do, in whichever way was measured to be fastest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from preftilt.engines.transformers import kernel_choices, linears
from preftilt.engines.transformers.joined_layers import JoinedLayer
from preftilt.engines.transformers.linears import CpuLinear, Kernel, choose_kernels, patch_linears
from tests.engine.asking import draw, prompt, score, tokens
from tests.engine.conftest import Opened, Oracle

pytestmark = pytest.mark.model


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Choices are kept for the process and for later ones; every test begins without."""
    monkeypatch.setattr(kernel_choices, "_CHOSEN", {})
    monkeypatch.setenv("PREFTILT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def layer(kernel: Kernel, dtype: torch.dtype, *, bias: bool) -> CpuLinear:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(40, 32, generator=generator).half().to(dtype)
    return CpuLinear(
        weight, torch.randn(40, generator=generator).to(dtype) if bias else None, kernel=kernel
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 6, 16, 49])
@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        ("columns", torch.float32),
        ("columns", torch.bfloat16),
        ("packed", torch.float32),
        ("packed", torch.bfloat16),
        ("half", torch.float32),
    ],
)
def test_every_kernel_computes_the_same(
    kernel: Kernel, dtype: torch.dtype, rows: int, bias: bool
) -> None:
    x = torch.randn(1, rows, 32, generator=torch.Generator().manual_seed(rows)).to(dtype)
    expected = layer("plain", dtype, bias=bias)(x)
    packed = layer(kernel, dtype, bias=bias)
    packed(x[:, :1])
    torch.testing.assert_close(
        packed(x), expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.25
    )


def test_a_packed_weight_takes_the_place_of_the_plain_one_at_the_first_few_rows():
    layer = nn.Linear(32, 40)
    model = nn.Sequential(layer, nn.Linear(40, 8))
    x = torch.randn(64, 32)
    expected = model(x)
    first, second = patch_linears(model)
    first.kernel = second.kernel = "packed"
    torch.testing.assert_close(model(x), expected)
    assert layer.weight.numel() == 32 * 40
    torch.testing.assert_close(model(x[:16]), expected[:16])
    assert (layer.weight.numel(), first.weight.numel()) == (0, 0)
    torch.testing.assert_close(model(x), expected)


def test_the_kernel_that_takes_the_least_time_is_chosen_for_every_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linears, "SMALL_BYTES", 1)
    costs = {(40, "plain"): 3, (40, "columns"): 2, (40, "packed"): 1, (8, "plain"): 1}
    clock = [0.0]
    call = CpuLinear.__call__

    def timed(linear: CpuLinear, x: torch.Tensor) -> torch.Tensor:
        clock[0] += costs.get((linear.shape.outputs, linear.kernel), 4)
        return call(linear, x)

    monkeypatch.setattr(CpuLinear, "__call__", timed)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    model = nn.Sequential(nn.Linear(32, 40), nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 8))
    patched = patch_linears(model)
    assert choose_kernels(patched) == "3 packed, 1 plain"
    assert [linear.kernel for linear in patched] == ["packed"] * 3 + ["plain"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[str, int]]:
    """Opens two layers in a new process, as it were: what was chosen, and how many layers were measured for it."""
    monkeypatch.setattr(linears, "SMALL_BYTES", 1)

    def choose() -> tuple[str, int]:
        monkeypatch.setattr(kernel_choices, "_CHOSEN", {})
        samples: list[int] = []
        fastest = linears._fastest

        def counted(
            sample: Sequence[CpuLinear],
        ) -> tuple[dict[linears.Shape, Kernel], set[linears.Shape]]:
            samples.append(len(sample))
            shapes, _ = fastest(sample)
            return dict.fromkeys(shapes, "columns"), set(shapes)

        with monkeypatch.context() as patch:
            patch.setattr(linears, "_fastest", counted)
            model = nn.Sequential(nn.Linear(32, 40), nn.Linear(40, 8))
            return choose_kernels(patch_linears(model)), sum(samples)

    return choose


def test_a_shape_is_measured_once_on_a_machine(measured: Callable[[], tuple[str, int]]):
    assert measured() == ("2 columns", 2)
    assert measured() == ("2 columns", 0)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"40 x 32 float32": "no such kernel", "8 x 40 float32": 3}']
)
def test_a_damaged_file_of_choices_does_no_harm(
    text: str, measured: Callable[[], tuple[str, int]]
) -> None:
    measured()
    file = kernel_choices._file(torch.get_num_threads())
    file.write_text(text)
    assert measured() == (("2 plain", 0) if "such" in text else ("2 columns", 2))


def test_choices_that_cannot_be_kept_hold_for_the_process(
    measured: Callable[[], tuple[str, int]], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert measured() == ("2 columns", 2)
    assert set(kernel_choices.read_choices(torch.get_num_threads()).values()) == {"columns"}


@pytest.mark.parametrize(("columns", "kept"), [([2.0, 2.0], True), ([2.0, 5.0], False)])
def test_a_choice_that_its_turns_contradict_is_not_kept(
    columns: list[float], kept: bool, monkeypatch: pytest.MonkeyPatch
):
    """A layer's seconds in its even and odd turns; the plain one takes 3 in every turn."""
    monkeypatch.setattr(linears, "SMALL_BYTES", 1)
    seconds = {"plain": [3.0, 3.0], "columns": columns}
    turns: Counter[Kernel] = Counter()

    def timed(layers: Sequence[CpuLinear]) -> list[float]:
        if not layers:
            return []
        kernel = layers[0].kernel
        turns[kernel] += 1
        return [seconds.get(kernel, [9.0, 9.0])[turns[kernel] % 2]] * len(layers)

    monkeypatch.setattr(linears, "_pass", timed)
    threads = torch.get_num_threads()
    assert choose_kernels(patch_linears(nn.Sequential(nn.Linear(32, 40)))) == "1 columns"
    assert kernel_choices.read_choices(threads) == {"40 x 32 float32": "columns"}
    monkeypatch.setattr(kernel_choices, "_CHOSEN", {})
    assert bool(kernel_choices.read_choices(threads)) is kept


def test_a_kernel_that_computes_something_else_is_not_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linears, "SMALL_BYTES", 1)
    monkeypatch.setattr(linears, "WORTH", 1e9)
    monkeypatch.setattr(linears, "_columns", lambda x, weight, bias: 2 * (x @ weight.t()))
    monkeypatch.setitem(
        linears.PACKERS, "packed", lambda weight, bias: lambda x: x @ weight.t() + 1
    )
    assert choose_kernels(patch_linears(nn.Sequential(nn.Linear(32, 40)))) == "1 plain"


def test_float16_holds_only_what_came_from_it():
    exact = torch.randn(600, 32).half().float()
    assert linears._is_half(exact)
    exact[-1, -1] += 1e-7
    assert not linears._is_half(exact)


@pytest.mark.parametrize(
    ("architecture", "joined"),
    [("llama", True), ("qwen2", True), ("mistral", False), ("gemma2", False)],
)
def test_layers_are_joined_where_they_are_known_to_be_of_the_family(
    architecture: str, joined: bool, opened: Opened
) -> None:
    """A window, or a cap on attention scores, is not in the joined layer."""
    engine = opened(architecture)
    layers = engine._runner.body.layers
    assert all(isinstance(layer.__dict__.get("forward"), JoinedLayer) == joined for layer in layers)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
async def test_joined_and_packed_layers_draw_and_score_as_the_model_itself(
    architecture: str, opened: Opened, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linears, "SMALL_BYTES", 1)
    monkeypatch.setattr(linears, "_best", lambda seconds: "packed")
    engine = opened(architecture)
    assert engine.kernels == "9 packed"
    completions = await draw(engine, prompt(30), slots=6)
    scores = await score(engine, prompt(30), *tokens(completions))
    for completion, scored in zip(completions, scores, strict=True):
        expected = oracle(architecture, prompt(30), completion.tokens)
        np.testing.assert_allclose(completion.logprobs, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(scored, expected, rtol=0, atol=1e-4)
