"""Small adapters with random numbers everywhere, on small random models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from preftilt.arm.adapter import ArmWeights, mixing_shapes, new_weights, save_weights
from preftilt.arm.attach import (
    fingerprint,
    layer_size,
    target_modules,
    usual_targets,
    weights_sample,
)
from preftilt.arm.spec import SPEC_FILE, ArmSpec, Objective, spec_json
from tests.engine.models import build

HELP = Objective("help", "The answer is helpful.", 0.5)
SAFE = Objective("safe", "The answer harms nobody.", 0.1)
WIDTH = 6


def base(architecture: str = "llama") -> Any:
    """A random model of hidden size 16 (GPT-2: 48)."""
    sizes = {} if architecture == "gpt2" else {"hidden_size": 16, "intermediate_size": 24}
    return build(architecture, **sizes).requires_grad_(False)


def spec_for(model: Any, method: str, **options: Any) -> ArmSpec:
    """A spec of rank 4 for ``model``; two objectives where the method takes several."""
    targets = usual_targets(model)
    several = method in ("parm", "uniarm")
    given: dict[str, Any] = {
        "method": method,
        "base": "random",
        "fingerprint": fingerprint(model),
        "sample": weights_sample(model),
        "tokenizer": "bytes",
        "objectives": (HELP, SAFE) if several else (HELP,),
        "targets": targets,
        "modules": target_modules(model, targets),
        "rank": 4,
        "scale": 2.0,
        "conditioned_rank": 2 if method == "parm" else 0,
    }
    return ArmSpec(**given | options)


def fresh(model: Any, spec: ArmSpec) -> ArmWeights:
    """Weights as they are before training."""
    generator = torch.Generator().manual_seed(3)
    sizes = {name: layer_size(model.get_submodule(name)) for name in spec.modules}
    embeddings = None
    if spec.method == "uniarm":
        embeddings = torch.nn.functional.normalize(
            torch.randn(len(spec.objectives), WIDTH, generator=generator)
        )
    return new_weights(spec, sizes, generator, embeddings)


def shaken(model: Any, spec: ArmSpec) -> ArmWeights:
    """Weights as training might leave them: nothing is zero any more."""
    generator = torch.Generator().manual_seed(4)
    weights = fresh(model, spec)
    up = {
        name: 0.3 * torch.randn(one.shape, generator=generator) for name, one in weights.up.items()
    }
    mixing = dict(weights.mixing)
    for name in mixing_shapes(spec, WIDTH):
        if name in ("gain", "shift"):
            mixing[name] = torch.randn(mixing[name].shape, generator=generator)
    return replace(weights, up=up, mixing=mixing)


def saved(folder: Path, spec: ArmSpec, weights: ArmWeights) -> Path:
    """The adapter's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC_FILE).write_text(spec_json(spec), "utf-8")
    save_weights(weights, folder)
    return folder
