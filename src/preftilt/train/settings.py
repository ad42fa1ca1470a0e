"""Everything that training takes besides data, with the papers' values where they give any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preftilt.arm.spec import AlphaIn, Method, Modulation, Objective
from preftilt.declare import check_settings, setting
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

    Attributes:
        method: see :mod:`preftilt.arm.spec`.
        model: a hub id, a path, or ``demo``.
        objectives: learn this one of the data's objectives; TEXT describes it. Each has a ``beta`` of its own; none:
            all in the data, by name, with ``beta``.
        beta: β of the Bradley–Terry loss, of all objectives or of one.
        targets: adapt linear layers whose names end so.
        rank: rank of the adapter.
        conditioned_rank: parm: the part of it that α conditions.
        lora_alpha: scale times rank (parm: times the conditioned rank).
        dropout: of the adapter's input.
        modulation: uniarm: what the mixed embedding does to the shared features.
        alpha_in: uniarm: where the vector enters.
        start: go on from this adapter; new objectives come after its own (``parm``, ``uniarm``).
        dirichlet: concentration that vectors are drawn with.
        alpha_per: draw a vector for each batch (as PARM does), or pair.
        reduction: responses count by the sum of their log-probs, or the mean. The papers take the sum; the mean wants a
            larger ``beta``.
        global_weight: uniarm: weight of the global loss; 0: none.
        global_loss: uniarm: which it is.
        epochs: times through the pairs.
        batch_size: pairs a step.
        accumulate: compute each step in so many parts.
        lr: highest learning rate, of AdamW, after ``warmup`` and before a cosine.
        weight_decay: of AdamW.
        warmup: steps up to the highest learning rate.
        clip: largest norm of gradients.
        evaluate_every: judge validation pairs. 0: once an epoch.
        patience: stop after so many evaluations without a better accuracy; 0: never. The best weights are kept.
        validation: the share of prompts set aside where no file is given.
        checkpoint_every: write a checkpoint.
        max_length: of prompt and response.
        bad_rows: what to do with rows that are no pair, or too long.
        seed: of everything drawn.
        dtype: float32, bfloat16, float16.
        device: cpu, cuda, cuda:1.
        four_bit: load it in 4 bits (NVIDIA GPU).
        gradient_checkpointing: less memory, more time.
        chat_template: chat template for a model without one.
        now: the date that the chat template shows: 2026-11-28.
        trust_remote_code: run code that the model brings along.
        allow_pickle: load weights that are not safetensors.
    """

    method: Method
    model: str
    objectives: tuple[Objective, ...] = setting(
        (),
        alias="objective",
        metavar="NAME[=TEXT]",
        repeats=True,
        told="all in the data",
        panel="Loss",
    )
    beta: float = setting(0.1, above=0, metavar="[NAME=]NUMBER", repeats=True, panel="Loss")
    targets: tuple[str, ...] = setting(
        (),
        alias="target",
        metavar="LAYER",
        repeats=True,
        told="those that make queries, keys and values",
        panel="Adapter",
    )
    rank: int | None = setting(None, told="8", panel="Adapter")
    conditioned_rank: int | None = setting(None, told="half", panel="Adapter")
    lora_alpha: float | None = setting(None, told="scale 2", panel="Adapter")
    dropout: float = setting(0.05, least=0, below=1, panel="Adapter")
    modulation: Modulation = setting("affine", panel="Adapter")
    alpha_in: AlphaIn = setting("both", panel="Adapter")
    start: str | None = setting(None, metavar="DIR", panel="Adapter")
    dirichlet: float = setting(0.5, above=0, panel="Loss")
    alpha_per: AlphaPer = setting("batch", panel="Loss")
    reduction: LossReduction = setting("sum", panel="Loss")
    global_weight: float = setting(1.0, least=0, panel="Loss")
    global_loss: GlobalLoss = setting("soft-label", panel="Loss")
    epochs: int = setting(1, least=1, panel="Steps")
    batch_size: int = setting(32, least=1, panel="Steps")
    accumulate: int = setting(1, least=1, panel="Steps")
    lr: float = setting(5e-4, above=0, panel="Steps")
    weight_decay: float = setting(0.05, least=0, panel="Steps")
    warmup: int = setting(20, least=0, panel="Steps")
    clip: float = setting(1.0, above=0, panel="Steps")
    evaluate_every: int = setting(0, least=0, metavar="STEPS", told="once an epoch", panel="Steps")
    patience: int = setting(3, least=0, panel="Steps")
    validation: float = setting(0.1, least=0, below=1)
    checkpoint_every: int = setting(50, least=1, metavar="STEPS", panel="Steps")
    max_length: int | None = setting(None, least=2, metavar="TOKENS", told="the model's context")
    bad_rows: Literal["error", "drop"] = setting("error", panel="Options")
    seed: int = setting(0, panel="Steps")
    dtype: str = setting("auto", metavar="TYPE")
    device: str = setting("auto", metavar="DEVICE")
    four_bit: bool = False
    gradient_checkpointing: bool = False
    chat_template: str | None = setting(None, metavar="FILE|plain")
    now: str | None = setting(None, metavar="MOMENT")
    trust_remote_code: bool = setting(False, flags=("--trust-remote-code",))
    allow_pickle: bool = setting(False, flags=("--allow-pickle",))

    def __post_init__(self) -> None:
        check_settings(self)
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
