"""The layers of a model that an adapter is attached to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from preftilt.errors import BadInput

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
