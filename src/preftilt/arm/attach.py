"""Attaching a reward model to its base: one copy of the weights, run with the adapter or without, row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from preftilt.arm.adapter import (
    ArmWeights,
    Mixing,
    adapter_output,
    load_weights,
    merged_delta,
    mixing,
)
from preftilt.arm.spec import ArmSpec, read_spec
from preftilt.errors import BadInput

SAMPLES = 8
TOLERANCE = 0.05
"""Share of the largest sampled weight by which they may differ: a 16-bit or 8-bit copy of a model is the same model."""


def fingerprint(model: Any) -> str:
    """A description of the base's shape; ``model`` is a transformers causal language model."""
    config = model.config.get_text_config()
    rows = model.get_input_embeddings().weight.shape[0]
    return (
        f"{type(model).__name__}, hidden size {config.hidden_size},"
        f" {config.num_hidden_layers} layers, {rows} tokens"
    )


def weights_sample(model: Any) -> tuple[float, ...]:
    """Numbers evenly spaced over the input embedding, in float32."""
    flat = model.get_input_embeddings().weight.detach().reshape(-1)
    places = torch.linspace(0, flat.numel() - 1, SAMPLES + 2, dtype=torch.float64)[1:-1].long()
    return tuple(flat[places.to(flat.device)].float().tolist())


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of the ids of all tokens; ``tokenizer`` is a ``PreTrainedTokenizerBase``."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False)
    return hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def check_base(spec: ArmSpec, model: Any) -> None:
    """Raises :class:`~preftilt.errors.BadInput` if the reward model was trained on another base than ``model``."""
    shape = fingerprint(model)
    if shape != spec.fingerprint:
        raise BadInput(
            f"the reward model was trained on {spec.base} ({spec.fingerprint}), and this model is another ({shape});"
            " use its own base"
        )
    sample = weights_sample(model)
    allowed = TOLERANCE * max(map(abs, spec.sample))
    if any(abs(a - b) > allowed for a, b in zip(sample, spec.sample, strict=True)):
        raise BadInput(
            f"the reward model was trained on {spec.base}; this model has the same shape and other weights;"
            " use its own base"
        )


def check_tokenizer(spec: ArmSpec, tokenizer: Any) -> None:
    """Raises :class:`~preftilt.errors.BadInput` unless a model with ``tokenizer`` can be guided by the reward model."""
    if tokenizer_hash(tokenizer) != spec.tokenizer:
        raise BadInput(
            f"the reward model was trained with the tokenizer of {spec.base}, and this model has another vocabulary;"
            " its log-probs cannot be added to the model's; use a base of the same family"
        )


USUAL = (
    ("q_proj", "k_proj", "v_proj"),
    ("query_key_value",),
    ("qkv_proj",),
    ("c_attn",),
    ("Wqkv",),
    ("query", "key", "value"),
)
"""Names of the query, key and value projections in different architectures."""


def usual_targets(model: Any) -> tuple[str, ...]:
    """The projections to queries, keys and values; :class:`~preftilt.errors.BadInput` if none is found."""
    names = _linear_names(model)
    for group in USUAL:
        if set(group) <= names:
            return group
    raise BadInput(
        f"no query, key and value projections were found; name layers with --target: {', '.join(sorted(names))}"
    )


def target_modules(model: Any, targets: Sequence[str]) -> tuple[str, ...]:
    """Whole names of the linear layers that end in one of ``targets``, in the model's order."""
    names = _linear_names(model)
    if unknown := [target for target in targets if target not in names]:
        raise BadInput(
            f"the model has no linear layer called {', '.join(unknown)}; it has {', '.join(sorted(names))}"
        )
    return tuple(
        name
        for name, module in model.named_modules()
        if _is_linear(module) and name.rpartition(".")[2] in targets
    )


def layer_size(module: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer, of a transposed one (GPT-2's ``Conv1D``) too."""
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    assert isinstance(module, nn.Linear)
    return module.out_features, module.in_features


def is_transposed(module: nn.Module) -> bool:
    """Whether its weight is [in, out]."""
    return isinstance(module, Conv1D)


def _linear_names(model: Any) -> set[str]:
    """Last parts of the names of all linear layers but the one onto the vocabulary."""
    head = model.get_output_embeddings()
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if _is_linear(module) and module is not head
    }


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


Hook = Callable[[nn.Module, Any, Tensor], Tensor]
Hooks = tuple[tuple[nn.Module, Hook], ...]
"""Layers, and the forward hooks to register on them."""


@contextmanager
def registered_hooks(hooks: Hooks) -> Iterator[None]:
    """Register the forward hooks for the length of the block."""
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def attach(model: Any, folder: Path) -> AttachedArm:
    """The ARM in ``folder`` on ``model``, a transformers causal language model that is its base.

    The model's outputs stay what they were until :meth:`AttachedArm.rows` says otherwise. Raises
    :class:`~preftilt.errors.BadInput` for a damaged folder and for another base.
    """
    spec = read_spec(folder)
    check_base(spec, model)
    return AttachedArm(model, spec, load_weights(spec, folder))


class AttachedArm:
    """A reward model on its base; several can be attached to one base, and be active together or in turns.

    The adapter's weights are moved to the device of the layers they belong to and stay float32.
    """

    def __init__(self, model: Any, spec: ArmSpec, weights: ArmWeights) -> None:
        self.spec = spec
        self._modules: list[Any] = [model.get_submodule(name) for name in spec.modules]
        places = [module.weight.device for module in self._modules]
        by_layer = dict(zip(spec.modules, places, strict=True))
        self.weights = ArmWeights(
            {name: weight.to(by_layer[name]) for name, weight in weights.down.items()},
            {name: weight.to(by_layer[name]) for name, weight in weights.up.items()},
            {name: weight.to(places[0]) for name, weight in weights.mixing.items()},
        )
        self._unmerged: list[tuple[Any, Tensor, Tensor | None]] = []

    @contextmanager
    def rows(self, alphas: Tensor | None, *, dropout: float = 0.0) -> Iterator[None]:
        """Within the block, a forward of B rows adds the adapter's output under its α to each row.

        alphas [B, k]: row b is computed under ``alphas[b]``; a row of NaN is computed by the base alone, and its
        results are bit for bit those of the base in the same batch. None: the ARM is off, and costs nothing.
        dropout: dropout rate of the adapter's input, in training.
        """
        with registered_hooks(() if alphas is None else self.hooks(alphas, dropout=dropout)):
            yield

    def hooks(self, alphas: Tensor, *, dropout: float = 0.0) -> Hooks:
        """The hooks that :meth:`rows` registers; valid for any number of forwards while weights do not change."""
        if alphas.ndim != 2 or alphas.shape[1] != len(self.spec.objectives):
            raise BadInput(
                f"alphas of shape {tuple(alphas.shape)} do not fit {len(self.spec.objectives)} objectives"
            )
        reading = ~alphas.isnan().any(dim=1)
        if not reading.any():
            return ()
        chosen = None if reading.all() else reading.nonzero()[:, 0]
        mine = alphas if chosen is None else alphas[chosen]
        alike = self.spec.alpha_in == "loss" or bool((mine == mine[0]).all())
        mixed = self._mixing(mine[:1] if alike else mine)
        return tuple(
            (module, self._hook(name, mixed.layer(index), chosen, len(alphas), dropout))
            for index, (name, module) in enumerate(
                zip(self.spec.modules, self._modules, strict=True)
            )
        )

    def merge(self, alpha: Sequence[float]) -> None:
        """Add ΔW(α), and the bias that goes with it, to the base's layers; :meth:`unmerge` restores them.

        Rounded to the base's dtype. Raises :class:`~preftilt.errors.BadInput` for a base with quantised weights.
        """
        if self._unmerged:
            raise BadInput("the reward model is merged already; unmerge it first")
        if not all(module.weight.is_floating_point() for module in self._modules):
            raise BadInput(
                "a reward model cannot be merged into a quantised base; load it in 16 bits"
            )
        mixed = self._mixing(torch.tensor([list(alpha)], dtype=torch.float32))
        with torch.no_grad():
            for index, (name, module) in enumerate(
                zip(self.spec.modules, self._modules, strict=True)
            ):
                self._merge_layer(name, module, mixed.layer(index))

    def unmerge(self) -> None:
        """Restore the base's own weights exactly; does nothing if nothing is merged."""
        for module, weight, bias in self._unmerged:
            with torch.no_grad():
                module.weight.copy_(weight)
                if bias is None:
                    module.bias = None
                else:
                    module.bias.copy_(bias)
        self._unmerged.clear()

    def detach(self) -> None:
        """Leave the base as it was before :func:`attach`; the ARM cannot be used any more."""
        self.unmerge()
        self._modules.clear()

    def _mixing(self, alphas: Tensor) -> Mixing:
        if not self._modules:
            raise BadInput("the reward model was detached from its base; attach it again")
        place = next(iter(self.weights.down.values()))
        return mixing(self.spec, self.weights.mixing, alphas.to(place))

    def _hook(
        self,
        name: str,
        mix: Mixing,
        chosen: Tensor | None,
        rows: int,
        dropout: float,
    ) -> Hook:
        place = self.weights.down[name].device
        adds = partial(
            adapter_output,
            down=self.weights.down[name],
            up=self.weights.up[name],
            mix=_to_device(mix, place),
            scale=self.spec.scale,
            dropout=dropout,
        )
        chosen = None if chosen is None else chosen.to(place)

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            x = inputs[0]
            if len(x) != rows:
                raise BadInput(f"a forward of {len(x)} rows was announced as one of {rows}")
            if chosen is None:
                return output + adds(x).to(output.dtype)
            return output.index_add(0, chosen, adds(x[chosen]).to(output.dtype))

        return hook

    def _merge_layer(self, name: str, module: Any, mix: Mixing) -> None:
        down, up = self.weights.down[name], self.weights.up[name]
        weight, bias = merged_delta(down, up, _to_device(mix, down.device), self.spec.scale)
        old = None if module.bias is None else module.bias.detach().clone()
        self._unmerged.append((module, module.weight.detach().clone(), old))
        module.weight.add_(
            (weight.t() if is_transposed(module) else weight).to(module.weight.dtype)
        )
        if bias is None:
            return
        if module.bias is None:
            module.bias = nn.Parameter(bias.to(module.weight.dtype), requires_grad=False)
            # An engine may have patched ``forward`` for a layer without bias; the layer's own forward adds it.
            module.__dict__.pop("forward", None)
        else:
            module.bias.add_(bias.to(module.bias.dtype))


def _to_device(mix: Mixing, place: torch.device) -> Mixing:
    return Mixing(
        *(
            None if tensor is None else tensor.to(place)
            for tensor in (mix.matrix, mix.scale, mix.shift)
        )
    )
