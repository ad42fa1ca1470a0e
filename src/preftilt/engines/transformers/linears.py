"""Linear layers on the CPU, each in the way that is fastest here: measured once on a machine, on the model's weights;
and the output layer on a GPU.

Which way is fastest differs by processor, shape and dtype, and by several times. MKL packs the whole weight in every
call of x Wᵀ, which for 16 rows can take longer than multiplying; W xᵀ packs the 16 columns instead. oneDNN can pack a
weight once and for all, and FBGEMM multiplies float32 rows by weights of 16 bits, which are half as much to read. A
packed weight replaces the plain one, so that it takes no memory beside it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from preftilt.engines.transformers.kernel_choices import keep_choices, read_choices

Kernel = Literal["plain", "columns", "packed", "half"]
"""x Wᵀ as torch computes it; W xᵀ for :data:`FEW_ROWS`; a weight that oneDNN has packed; and one that FBGEMM has packed
in float16, for float32 weights that float16 holds without loss, as those of most 16-bit checkpoints."""

FEW_ROWS = (6, 48)
"""Range of row numbers in which ``columns`` computes W xᵀ; a weight is packed when so few are first multiplied."""

PACKED_FOR = 16
"""Number of rows that a weight is packed for, and that kernels are measured on: a step of best-of-16. In both dtypes
512 rows took as long with a weight that is packed for 16 as with a plain one."""

SAMPLE_BYTES = 96 << 20
"""Weights that are measured: the first layers that have so many, one after another as in a forward, so that they are in
the processor's cache as far as they would be there. On weights that are, W xᵀ is often faster; on others it is not."""

REPEATS = 6
"""Each kernel is measured so often, in turns; the shortest time of each layer counts."""

SECONDS = 1.0
"""After so long no further turn begins: on a busy machine the first one has to do."""

CLOSE = 1.15
"""A packed weight is preferred to what was faster by less: a short measurement flatters weights that it just read."""

TRIED_ROWS = 256
"""Rows of a weight that are tried first for whether float16 holds them without loss."""

SMALL_BYTES = 1 << 18
"""Smaller weights stay plain: there is nothing to gain."""

WORTH = 0.95
"""A kernel is preferred to ``plain`` if it takes at most this share of its time."""

EXACT: Mapping[torch.dtype, float] = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest difference of a kernel's output from the plain one's, relative to the largest output. Other dtypes stay
plain."""

Multiply = Callable[[Tensor], Tensor]


class Shape(NamedTuple):
    """What layers have in common that are computed by the same kernel."""

    outputs: int
    inputs: int
    dtype: torch.dtype
    is_half: bool
    """Whether float16 holds the first rows of the (float32) weight without loss."""

    @property
    def bytes(self) -> int:
        """Size of the weight."""
        return self.outputs * self.inputs * self.dtype.itemsize

    def __str__(self) -> str:
        """How it is named in what is kept of the choices."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.outputs} x {self.inputs} {dtype}{' of float16' if self.is_half else ''}"


class CpuLinear:
    """A linear layer ``x`` [..., in] → [..., out] with ``weight`` [out, in].

    owners: modules whose weights are views of ``weight``, and are given up with it when it is packed.
    """

    __slots__ = ("_packed", "bias", "kernel", "owners", "shape", "weight")

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        owners: tuple[nn.Module, ...] = (),
        kernel: Kernel = "plain",
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.owners = owners
        self.kernel: Kernel = kernel
        self.shape = Shape(
            weight.shape[0], weight.shape[1], weight.dtype, _is_half(weight[:TRIED_ROWS])
        )
        self._packed: Multiply | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed is not None:
            return self._packed(x)
        rows = x.numel() // x.shape[-1]
        if self.kernel in PACKERS and rows <= FEW_ROWS[1]:
            return self.pack()(x)
        if self.kernel == "columns" and FEW_ROWS[0] <= rows <= FEW_ROWS[1]:
            return _columns(x, self.weight, self.bias)
        return nn.functional.linear(x, self.weight, self.bias)

    def pack(self) -> Multiply:
        """Give up the plain weight for a packed one.

        All layers together take as long as several steps, so it is done in the first step: a process that draws one
        token, or only scores, has no use for it.
        """
        self._packed = PACKERS[self.kernel](self.weight, self.bias)
        self.weight = self.weight.new_empty(0)
        for owner in self.owners:
            owner.weight = nn.Parameter(self.weight, requires_grad=False)
        return self._packed


class RoundedHead:
    """An output layer with ``weight`` [V, C] in 16 bits on a GPU, and its logits in float32.

    The product of 16-bit numbers is added up in float32 either way; the logits are not rounded again, and there is no
    copy of the weights in float32.
    """

    __slots__ = ("bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, states: Tensor) -> Tensor:
        """[n, C] in the weight's dtype → float32 [n, V]."""
        logits = torch.mm(states, self.weight.t(), out_dtype=torch.float32)
        return logits if self.bias is None else logits.add_(self.bias)


def patch_linears(model: nn.Module) -> list[CpuLinear]:
    """Let every linear layer of ``model`` that computes its own forward do so by a :class:`CpuLinear`."""
    patched: list[CpuLinear] = []
    for module in model.modules():
        if type(module) is nn.Linear and "forward" not in module.__dict__:
            linear = CpuLinear(module.weight, module.bias, (module,))
            setattr(module, "forward", linear)  # noqa: B010
            patched.append(linear)
    return patched


def choose_kernels(linears: Sequence[CpuLinear]) -> str:
    """Let each layer use the kernel that is fastest for its shape; tells what was chosen.

    Shapes that were never measured on this machine (:mod:`.kernel_choices`) are measured now; a choice is kept where
    every second turn alone would have made the same. ``linears`` are in the order of a forward.
    """
    threads = torch.get_num_threads()
    chosen = read_choices(threads)
    sample = _sample([linear for linear in linears if str(linear.shape) not in chosen])
    if sample:
        fastest, certain = _fastest(sample)
        measured = {str(shape): kernel for shape, kernel in fastest.items()}
        keep_choices(threads, measured, {str(shape) for shape in certain})
        chosen.update(measured)
    for shape in {linear.shape for linear in linears}:
        kernel = _named(chosen.get(str(shape)))
        alike = [linear for linear in linears if linear.shape == shape]
        if kernel != "half" or all(_is_half(linear.weight) for linear in alike):
            for linear in alike:
                linear.kernel = kernel
    kernels = Counter(linear.kernel for linear in linears)
    return ", ".join(f"{count} {kernel}" for kernel, count in kernels.most_common())


def _named(name: object) -> Kernel:
    kernels: Mapping[object, Kernel] = {kernel: kernel for kernel in KERNELS}
    return kernels.get(name, "plain")


def _sample(linears: Sequence[CpuLinear]) -> list[CpuLinear]:
    """The first layers of up to :data:`SAMPLE_BYTES`, and at least one of each shape that is worth measuring."""
    sample: list[CpuLinear] = []
    left, seen = SAMPLE_BYTES, set[Shape]()
    for linear in linears:
        shape = linear.shape
        measured = shape.bytes >= SMALL_BYTES and shape.dtype in EXACT
        if measured and (left >= shape.bytes or shape not in seen):
            sample.append(linear)
            left -= shape.bytes
            seen.add(shape)
    return sample


def _fastest(sample: Sequence[CpuLinear]) -> tuple[dict[Shape, Kernel], set[Shape]]:
    """For every shape the kernel that is fastest, of those that agree with the plain one, and the shapes for which
    every second turn says the same as the others."""
    trials: dict[Kernel, list[CpuLinear]] = {kernel: _trial(sample, kernel) for kernel in KERNELS}
    turns: list[dict[Kernel, list[float]]] = []
    began = time.perf_counter()
    for repeat in range(REPEATS):
        if repeat and time.perf_counter() - began > SECONDS:
            break
        turns.append({kernel: _pass(trial) for kernel, trial in trials.items()})
    fastest = _choices(trials, turns)
    halves = [_choices(trials, turns[start::2]) for start in range(min(2, len(turns)))]
    certain = {
        shape
        for shape, kernel in fastest.items()
        if len(halves) == 2 and all(half[shape] == kernel for half in halves)
    }
    return fastest, certain


def _choices(
    trials: Mapping[Kernel, Sequence[CpuLinear]], turns: Sequence[Mapping[Kernel, list[float]]]
) -> dict[Shape, Kernel]:
    """For every shape the best kernel by the shortest time of each layer in ``turns``."""
    seconds: dict[Shape, dict[Kernel, float]] = {}
    for kernel, trial in trials.items():
        for i, layer in enumerate(trial):
            took = seconds.setdefault(layer.shape, {})
            took[kernel] = took.get(kernel, 0.0) + min(turn[kernel][i] for turn in turns)
    return {shape: _best(measured) for shape, measured in seconds.items()}


def _best(seconds: Mapping[Kernel, float]) -> Kernel:
    best = min(seconds, key=lambda kernel: seconds[kernel] / (CLOSE if kernel in PACKERS else 1.0))
    return best if seconds[best] <= WORTH * seconds["plain"] else "plain"


def _trial(sample: Sequence[CpuLinear], kernel: Kernel) -> list[CpuLinear]:
    """Copies of the layers of those shapes that ``kernel`` computes, and computes alike."""
    if kernel == "plain":
        return list(sample)
    excluded: set[Shape] = set()
    layers: dict[Shape, list[CpuLinear]] = {}
    for linear in sample:
        shape, layer = linear.shape, CpuLinear(linear.weight, linear.bias, kernel=kernel)
        if shape in excluded:
            continue
        first = shape not in layers
        if not _is_possible(kernel, linear.weight) or (first and not _agrees(layer, linear)):
            excluded.add(shape)
        elif kernel in PACKERS and not first:
            layer.pack()
        layers.setdefault(shape, []).append(layer)
    return [layer for shape, alike in layers.items() if shape not in excluded for layer in alike]


def _is_possible(kernel: Kernel, weight: Tensor) -> bool:
    if kernel == "half":
        return "fbgemm" in torch.backends.quantized.supported_engines and _is_half(weight)
    return kernel != "packed" or torch.backends.mkldnn.is_available()


def _is_half(weight: Tensor) -> bool:
    """Whether float16 holds a float32 weight without loss; the first rows usually tell."""
    return weight.dtype == torch.float32 and all(
        torch.equal(part.half().float(), part) for part in (weight[:TRIED_ROWS], weight)
    )


def _agrees(layer: CpuLinear, plain: CpuLinear) -> bool:
    x = _input(layer.shape)
    expected = plain(x).float()
    gap = (layer(x).float() - expected).abs().max()
    return bool(gap <= EXACT[x.dtype] * expected.abs().max())


def _pass(layers: Sequence[CpuLinear]) -> list[float]:
    """Seconds that a step takes in each layer, one after another."""
    inputs = {layer.shape: _input(layer.shape) for layer in layers}
    seconds: list[float] = []
    for layer in layers:
        began = time.perf_counter()
        layer(inputs[layer.shape])
        seconds.append(time.perf_counter() - began)
    return seconds


def _input(shape: Shape) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(PACKED_FOR, shape.inputs, generator=generator).to(shape.dtype)


def _columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = torch.mm(weight, x.reshape(-1, x.shape[-1]).t()).t().contiguous()
    if bias is not None:
        product += bias
    return product.view(*x.shape[:-1], -1)


def _onednn(weight: Tensor, bias: Tensor | None) -> Multiply:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR)
    multiply: Any = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, bias, "none", [], "")


def _fbgemm(weight: Tensor, bias: Tensor | None) -> Multiply:
    packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)
    multiply: Any = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x: multiply(x, packed)


KERNELS: tuple[Kernel, ...] = ("plain", "columns", "packed", "half")
PACKERS: Mapping[Kernel, Callable[[Tensor, Tensor | None], Multiply]] = {
    "packed": _onednn,
    "half": _fbgemm,
}
