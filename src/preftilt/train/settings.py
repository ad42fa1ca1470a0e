"""Everything that training takes besides data, with the papers' values where they give any."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from preftilt.arm.spec import AlphaIn, Method, Modulation, Objective
from preftilt.errors import BadInput

GlobalLoss = Literal["soft-label", "hard-label", "mixed-margin"]
"""UniARM's second term: Bradley–Terry on the label Σ αᵢ zᵢ, on that label rounded, or on the margin Σ αᵢ βᵢ sᵢ Δ."""

AlphaPer = Literal["batch", "pair"]
LossReduction = Literal["sum", "mean"]

RANKS: dict[Method, tuple[int, int]] = {
    "genarm": (8, 0),
    "parm": (8, 4),
    "uniarm": (8, 0),
    "dpo": (8, 0),
}
"""Rank and conditioned rank of every method, where none is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How a reward model is trained; the same settings, data and machine give the same weights, bit for bit, on a CPU.

    method, model: see :mod:`preftilt.arm.spec`; ``model`` is a hub id, a path, or ``demo``.
    objectives: which of the data's objectives, in which order, with descriptions and betas; none: all in the data,
        by name, with ``beta``.

    Adapter: targets (none: projections to queries, keys and values), rank, conditioned_rank (``parm``: the part of
    the rank that α conditions), lora_alpha, dropout. The scale s is lora_alpha / r, in ``parm`` lora_alpha / r₂.
    modulation, alpha_in: of ``uniarm``. start: an adapter's folder to go on from; it takes objectives that it does
        not know yet (``parm``, ``uniarm``).

    Loss: dirichlet is the concentration that α is drawn with; alpha_per, whether once a batch (as PARM does) or for
    every pair; reduction, whether a response counts by the sum of its log-probs, as in the papers, or by their mean,
    which wants a larger ``beta``; global_weight (λ) and global_loss are UniARM's second term.

    Steps: AdamW with learning rate ``lr``, warm-up over ``warmup`` steps and then a cosine; gradients clipped at norm
    ``clip``. A batch is ``batch_size`` pairs, computed in ``accumulate`` parts. Every ``evaluate_every`` steps (0: once
    an epoch) validation pairs are judged; training stops after ``patience`` evaluations without a better accuracy
    (0: never), and the best weights are kept. validation is the share of prompts set aside where no file is given.
    max_length: tokens of prompt and response together; None is the model's context. bad_rows: whether a row that is no
    pair, or a longer one, is an error or left out and counted. now: the date that the chat template shows, if it does.
    """

    method: Method
    model: str
    objectives: tuple[Objective, ...] = ()
    beta: float = 0.1
    targets: tuple[str, ...] = ()
    rank: int | None = None
    conditioned_rank: int | None = None
    lora_alpha: float | None = None
    dropout: float = 0.05
    modulation: Modulation = "affine"
    alpha_in: AlphaIn = "both"
    start: str | None = None
    dirichlet: float = 0.5
    alpha_per: AlphaPer = "batch"
    reduction: LossReduction = "sum"
    global_weight: float = 1.0
    global_loss: GlobalLoss = "soft-label"
    epochs: int = 1
    batch_size: int = 32
    accumulate: int = 1
    lr: float = 5e-4
    weight_decay: float = 0.05
    warmup: int = 20
    clip: float = 1.0
    evaluate_every: int = 0
    patience: int = 3
    validation: float = 0.1
    checkpoint_every: int = 50
    max_length: int | None = None
    bad_rows: Literal["error", "drop"] = "error"
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    four_bit: bool = False
    gradient_checkpointing: bool = False
    chat_template: str | None = None
    now: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        _one_of("method", self.method, get_args(Method))
        _one_of("modulation", self.modulation, get_args(Modulation))
        _one_of("alpha_in", self.alpha_in, get_args(AlphaIn))
        _one_of("alpha_per", self.alpha_per, get_args(AlphaPer))
        _one_of("reduction", self.reduction, get_args(LossReduction))
        _one_of("global_loss", self.global_loss, get_args(GlobalLoss))
        _one_of("bad_rows", self.bad_rows, ("error", "drop"))
        for name in ("epochs", "batch_size", "accumulate", "checkpoint_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("warmup", "evaluate_every", "patience", "weight_decay", "global_weight"):
            _at_least(name, getattr(self, name), 0)
        for name in ("beta", "lr", "clip", "dirichlet"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BadInput(f"{name} is {getattr(self, name)}; give a number above 0")
        for name in ("dropout", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; give 0 or more, below 1")
        if self.max_length is not None:
            _at_least("max_length", self.max_length, 2)
        self._check_ranks()

    def _check_ranks(self) -> None:
        rank, conditioned = self.ranks
        if rank < 1:
            raise BadInput(f"rank is {rank}; give 1 or more")
        if self.method == "parm" and not 1 <= conditioned <= rank:
            raise BadInput(
                f"conditioned_rank is {conditioned}; of rank {rank} give at least 1 and at most all"
            )
        if self.method != "parm" and conditioned:
            raise BadInput("conditioned_rank is for method parm; leave it out")

    @property
    def ranks(self) -> tuple[int, int]:
        """r and r₂."""
        rank, conditioned = RANKS[self.method]
        if self.rank is not None:
            rank, conditioned = self.rank, (self.rank + 1) // 2 if conditioned else 0
        return rank, conditioned if self.conditioned_rank is None else self.conditioned_rank

    @property
    def scale(self) -> float:
        """s: 2, as all the papers have it, unless ``lora_alpha`` says otherwise."""
        rank, conditioned = self.ranks
        divisor = conditioned or rank
        return 2.0 if self.lora_alpha is None else self.lora_alpha / divisor


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadInput(f"{name} is {value!r}; use {', '.join(known)}")


def _at_least(name: str, value: float, least: int) -> None:
    if not (math.isfinite(value) and value >= least):
        raise BadInput(f"{name} is {value}; give {least} or more")
