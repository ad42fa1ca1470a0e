"""The loop: batches in, adapter weights out, with evaluations, checkpoints and early stopping.

A loop of its own because what a trainer would bring is what must not be there: every random choice is keyed by
(seed, step), so that a run that was killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from preftilt.arm.attach import AttachedArm
from preftilt.errors import BadInput
from preftilt.train.losses import (
    CausalLM,
    ValidationResult,
    global_loss,
    margins,
    validate,
    weighted_loss,
)
from preftilt.train.settings import TrainSettings
from preftilt.train.tokens import TokenPair, epoch_batches, make_batch

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


@dataclass(frozen=True, slots=True)
class StepReport:
    """Progress after a step: its loss, and the validation result if one was computed."""

    step: int
    steps: int
    loss: float
    judged: ValidationResult | None


OnStep = Callable[[StepReport], None]


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A model, its adapter and the pairs it is trained on; ``key`` identifies the run when it is resumed."""

    lm: CausalLM
    arm: AttachedArm
    train: Sequence[TokenPair]
    held: Sequence[TokenPair]
    settings: TrainSettings
    out: Path
    key: str

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(len(self.train) / self.settings.batch_size)

    @property
    def steps(self) -> int:
        return self.settings.epochs * self.steps_an_epoch


def run(training: TrainingRun, on_step: OnStep) -> TrainingState:
    """Train from the start, or from the newest checkpoint; ends with the best weights in the adapter."""
    with _flushed_denormals():
        return _run(_TrainingLoop(training), training, on_step)


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Numbers too small to be normal are 0 on this thread: pairs that are well told apart leave gradients so small, and
    a CPU that computes with them takes up to twenty times as long for a step."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _run(loop: _TrainingLoop, training: TrainingRun, on_step: OnStep) -> TrainingState:
    while loop.state.step < training.steps and not loop.waited_enough:
        began = time.perf_counter()
        loss = loop.step()
        loop.state.seconds += time.perf_counter() - began
        judged = loop.validate() if loop.due else None
        on_step(StepReport(loop.state.step, training.steps, loss, judged))
        if loop.state.step % training.settings.checkpoint_every == 0:
            loop.save()
    loop.take_best()
    return loop.state


class _TrainingLoop:
    """The weights, their optimiser and the state, which change together."""

    def __init__(self, training: TrainingRun) -> None:
        self.training = training
        self.weights = training.arm.weights.trained()
        for weight in self.weights.values():
            weight.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.weights.values(),
            lr=training.settings.lr,
            weight_decay=training.settings.weight_decay,
        )
        self.state = TrainingState()
        self.best = {name: weight.detach().clone() for name, weight in self.weights.items()}
        if saved := load_checkpoint(training.out, training.key):
            self.state = saved.state
            self.optimizer.load_state_dict(saved.optimizer)
            _copy(saved.weights, self.weights)
            _copy(saved.best, self.best)
        self._batches: list[list[int]] = []
        self._epoch = -1

    @property
    def due(self) -> bool:
        """Whether validation pairs are judged after this step."""
        if not self.training.held:
            return False
        every = self.training.settings.evaluate_every or self.training.steps_an_epoch
        return self.state.step % every == 0 or self.state.step == self.training.steps

    @property
    def waited_enough(self) -> bool:
        return 0 < self.training.settings.patience <= self.state.waited

    def step(self) -> float:
        """One batch: its gradient, in parts, and a step of the optimiser. Returns the loss."""
        settings, step = self.training.settings, self.state.step
        batch = [self.training.train[number] for number in self._batch(step)]
        alphas = draw_alphas(settings, len(self.training.arm.spec.objectives), step, len(batch))
        signs = torch.tensor([pair.signs for pair in batch], dtype=torch.float32)
        counts = signs.abs().sum(dim=0)
        parts = np.array_split(np.arange(len(batch)), min(settings.accumulate, len(batch)))
        rate = settings.lr * share_of_rate(step, settings.warmup, self.training.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        total = 0.0
        device = self.training.lm.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(_key(settings.seed, step))
            for part in parts:
                rows = torch.from_numpy(part)
                chosen = [batch[number] for number in part]
                total += self._part(chosen, signs[rows], alphas[rows], counts, len(batch))
        torch.nn.utils.clip_grad_norm_(self.weights.values(), settings.clip)
        self.optimizer.step()
        self.state.step += 1
        self.state.steps.append({"step": step + 1, "loss": total, "lr": rate})
        return total

    def _part(
        self, pairs: Sequence[TokenPair], signs: Tensor, alphas: Tensor, counts: Tensor, size: int
    ) -> float:
        training, device = self.training, self.training.lm.device
        # Backward within: where activations are computed again, the adapter must still be there.
        with training.arm.rows(torch.cat([alphas, alphas]), dropout=training.settings.dropout):
            gaps = margins(training.lm, make_batch(pairs, device))
            gaps = gaps - torch.tensor([pair.reference for pair in pairs], device=device)
            signs, alphas, counts = signs.to(device), alphas.to(device), counts.to(device)
            loss = batch_loss(training.settings, training.arm, gaps, signs, alphas, counts, size)
            loss.backward()
        return float(loss.detach())

    def validate(self) -> ValidationResult:
        """Judge the validation pairs, and remember the weights if they are the best so far."""
        judged = validate(
            self.training.lm,
            self.training.arm,
            self.training.held,
            self.training.settings.batch_size,
        )
        value = (judged.accuracy, -judged.loss)
        self.state.waited += 1
        if self.state.best is None or value > self.state.best:
            self.state.best, self.state.best_step, self.state.waited = value, self.state.step, 0
            _copy(self.weights, self.best)
        self.state.evaluations.append(
            {
                "step": self.state.step,
                "loss": judged.loss,
                "accuracy": judged.accuracy,
                "accuracies": judged.accuracies,
            }
        )
        return judged

    def save(self) -> None:
        """Write a checkpoint."""
        saved = Checkpoint(self.state, self.weights, self.best, self.optimizer.state_dict())
        save_checkpoint(self.training.out, saved, self.training.key)

    def take_best(self) -> None:
        """Put the best weights in place; without validation, the last ones are."""
        if self.state.best is None:
            self.state.best_step = self.state.step
        else:
            _copy(self.best, self.weights)
        for weight in self.weights.values():
            weight.requires_grad_(False)

    def _batch(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.training.steps_an_epoch)
        if epoch != self._epoch:
            settings = self.training.settings
            self._batches = epoch_batches(
                self.training.train, settings.batch_size, settings.seed, epoch
            )
            self._epoch = epoch
        return self._batches[place]


def batch_loss(
    settings: TrainSettings,
    arm: AttachedArm,
    gaps: Tensor,
    signs: Tensor,
    alphas: Tensor,
    counts: Tensor,
    size: int,
) -> Tensor:
    """The method's loss of one part of a batch of ``size`` pairs; see ``losses.py`` for the shapes."""
    betas = torch.tensor([objective.beta for objective in arm.spec.objectives], device=gaps.device)
    if arm.spec.method == "uniarm" and settings.alpha_in == "layers":
        alphas = torch.full_like(alphas, 1 / alphas.shape[1])
    loss = weighted_loss(gaps, signs, alphas, betas, counts)
    if arm.spec.method == "uniarm" and settings.global_weight:
        second = global_loss(settings.global_loss, gaps, signs, alphas, betas, size)
        loss = loss + settings.global_weight * second
    return loss


def draw_alphas(settings: TrainSettings, objectives: int, step: int, pairs: int) -> Tensor:
    """α ~ Dirichlet for a batch [P, k]: one for all its pairs, or one each; keyed by (seed, step)."""
    rng = np.random.default_rng((settings.seed, step, 1))
    draws = 1 if settings.alpha_per == "batch" else pairs
    drawn = rng.dirichlet([settings.dirichlet] * objectives, size=draws)
    return torch.from_numpy(drawn).float().expand(pairs, -1).clone()


def share_of_rate(step: int, warmup: int, steps: int) -> float:
    """The learning rate at a step (from 0) as a share of its peak: linear warm-up, then a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def _key(seed: int, step: int) -> int:
    """A seed for the dropout of a step."""
    return int(np.random.SeedSequence((seed, step, 2)).generate_state(1, np.uint64)[0] >> 1)


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])
