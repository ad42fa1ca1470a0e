"""Assembles a training run (tokens, base, adapter), runs the loop and writes the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from preftilt.arm.adapter import ArmWeights, extended, load_weights, new_weights
from preftilt.arm.attach import (
    AttachedArm,
    check_base,
    fingerprint,
    layer_size,
    target_modules,
    tokenizer_hash,
    usual_targets,
    weights_sample,
)
from preftilt.arm.spec import ArmSpec, Objective, read_spec
from preftilt.errors import BadInput
from preftilt.train.base import BaseFiles, FrozenBase, describe, find_base, load_base
from preftilt.train.loop import OnStep, TrainingRun, drop_checkpoints, run
from preftilt.train.losses import margins
from preftilt.train.pairs import PreferencePair
from preftilt.train.report import training_record, write_adapter
from preftilt.train.settings import TrainSettings
from preftilt.train.tokens import TokenPair, make_batch, sorted_batches, tokenise


def prepare(
    pairs: Sequence[PreferencePair],
    held: Sequence[PreferencePair],
    objectives: tuple[Objective, ...],
    settings: TrainSettings,
    out: Path,
    key: str,
) -> TrainingRun:
    """Load the base, tokenise the pairs and attach a new adapter; nothing is trained yet."""
    files = find_base(settings)
    base = load_base(files, settings)
    drop = settings.bad_rows == "drop"
    train, judged = (
        tokenise(some, files.chat, base.end, objectives, base.context, drop=drop) if some else []
        for some in (pairs, held)
    )
    if settings.method == "dpo":
        train, judged = (_referred(base, some, settings.batch_size) for some in (train, judged))
    spec, weights = _adapter(base, files, objectives, settings)
    return TrainingRun(
        base.lm, AttachedArm(base.lm.model, spec, weights), train, judged, settings, out, key
    )


def finish(training: TrainingRun, left_out: int, on_step: OnStep) -> dict[str, Any]:
    """Train, write the folder, and return the record."""
    training.out.mkdir(parents=True, exist_ok=True)
    state = run(training, on_step)
    record = training_record(training, state, left_out)
    write_adapter(training.arm, record, training.out)
    drop_checkpoints(training.out)
    return record


def _adapter(
    base: FrozenBase,
    files: BaseFiles,
    objectives: tuple[Objective, ...],
    settings: TrainSettings,
) -> tuple[ArmSpec, ArmWeights]:
    """A new adapter, or the one to go on from."""
    generator = torch.Generator().manual_seed(settings.seed)
    embeddings = describe(base, files, objectives) if settings.method == "uniarm" else None
    if settings.start is not None:
        return _continued(Path(settings.start), base, objectives, settings, generator, embeddings)
    spec = new_spec(base, files, objectives, settings)
    sizes = {name: layer_size(base.lm.model.get_submodule(name)) for name in spec.modules}
    return spec, new_weights(spec, sizes, generator, embeddings)


def new_spec(
    base: FrozenBase,
    files: BaseFiles,
    objectives: tuple[Objective, ...],
    settings: TrainSettings,
) -> ArmSpec:
    """The spec of an adapter that is about to be trained."""
    model = base.lm.model
    targets = settings.targets or usual_targets(model)
    rank, conditioned = settings.ranks
    return ArmSpec(
        method=settings.method,
        base=settings.model,
        fingerprint=fingerprint(model),
        sample=weights_sample(model),
        tokenizer=tokenizer_hash(files.tokenizer),
        objectives=objectives,
        targets=targets,
        modules=target_modules(model, targets),
        rank=rank,
        scale=settings.scale,
        conditioned_rank=conditioned,
        modulation=settings.modulation,
        alpha_in=settings.alpha_in,
    )


def _continued(
    folder: Path,
    base: FrozenBase,
    objectives: tuple[Objective, ...],
    settings: TrainSettings,
    generator: torch.Generator,
    embeddings: torch.Tensor | None,
) -> tuple[ArmSpec, ArmWeights]:
    """The adapter in ``folder``, with room for objectives that it does not know yet."""
    old = read_spec(folder)
    check_base(old, base.lm.model)
    if old.method != settings.method:
        raise BadInput(f"{folder} is of method {old.method}, and {settings.method} is asked for")
    known = [objective.name for objective in old.objectives]
    if [objective.name for objective in objectives[: len(known)]] != known:
        raise BadInput(
            f"{folder} knows {', '.join(known)}; name these objectives first, in this order, and then new ones"
        )
    spec = replace(old, objectives=objectives)
    return spec, extended(load_weights(old, folder), spec, generator, embeddings)


@torch.no_grad()
def _referred(base: FrozenBase, pairs: Sequence[TokenPair], size: int) -> list[TokenPair]:
    """The pairs with the base's log-prob margins: DPO's reference."""
    referred = list(pairs)
    for numbers in sorted_batches(pairs, size):
        rows = make_batch([pairs[number] for number in numbers], base.lm.device)
        for number, gap in zip(numbers, margins(base.lm, rows).tolist(), strict=True):
            referred[number] = replace(pairs[number], reference=gap)
    return referred
