"""The state of a training run, and its checkpoints, from which it resumes exactly."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from preftilt.errors import BadInput

FOLDER = "checkpoints"


@dataclass(slots=True)
class TrainingState:
    """Steps taken, the best evaluation so far, evaluations since then, and the curve.

    steps: one entry a step (step, loss, learning rate). evaluations: one each (step, loss, accuracy by objective and
    their mean). seconds: spent in steps, in all runs together.
    """

    step: int = 0
    best_step: int = 0
    best: tuple[float, float] | None = None
    waited: int = 0
    seconds: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in memory: the state, the weights, the best weights, the optimiser's own state."""

    state: TrainingState
    weights: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Any]


def save_checkpoint(out: Path, saved: Checkpoint, task: str) -> None:
    """Write a checkpoint; it takes the place of the one before only when it is complete.

    task: what is being trained, in a form that can be compared (:func:`load_checkpoint`).
    """
    folder = out / FOLDER
    done, partial = folder / f"step-{saved.state.step:07d}", folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_plain(saved.weights), str(partial / "weights.safetensors"))
    save_file(_plain(saved.best), str(partial / "best.safetensors"))
    torch.save(saved.optimizer, partial / "optimizer.pt")
    (partial / "state.json").write_text(json.dumps({"task": task, **asdict(saved.state)}), "utf-8")
    if done.exists():
        return
    os.replace(partial, done)
    for older in folder.glob("step-*"):
        if older != done:
            shutil.rmtree(older)


def load_checkpoint(out: Path, task: str) -> Checkpoint | None:
    """The newest complete checkpoint, or None; :class:`~preftilt.errors.BadInput` if it is of another task."""
    complete = sorted((out / FOLDER).glob("step-*"))
    if not complete:
        return None
    folder = complete[-1]
    data = json.loads((folder / "state.json").read_text("utf-8"))
    if data.pop("task") != task:
        raise BadInput(
            f"{out} holds a training of other settings or data; resume with the same ones, or choose another --out"
        )
    best = data.pop("best")
    return Checkpoint(
        TrainingState(best=None if best is None else (best[0], best[1]), **data),
        load_file(str(folder / "weights.safetensors")),
        load_file(str(folder / "best.safetensors")),
        torch.load(folder / "optimizer.pt", weights_only=True),
    )


def drop_checkpoints(out: Path) -> None:
    """Training is done: the adapter stands in the folder itself."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().clone().contiguous() for name, weight in weights.items()}
