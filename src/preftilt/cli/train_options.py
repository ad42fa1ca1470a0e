"""The flags of ``preftilt train``: what is trained, what is learned, for how long, on which base."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from preftilt.cli.grouping import option
from preftilt.engines.models import default_model

_adapter = partial(option, "Adapter")
_loss = partial(option, "Loss")
_steps = partial(option, "Steps")
_model = partial(option, "Model")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFlags:
    """What is trained."""

    target: Annotated[
        list[str] | None,
        _adapter(
            metavar="LAYER",
            help="Adapt linear layers whose names end so; may be repeated.",
            default="those that make queries, keys and values",
        ),
    ] = None
    rank: Annotated[int | None, _adapter(help="Rank of the adapter.", default="8")] = None
    conditioned_rank: Annotated[
        int | None, _adapter(help="parm: the part of it that α conditions.", default="half")
    ] = None
    lora_alpha: Annotated[
        float | None,
        _adapter(help="Scale times rank (parm: times the conditioned rank).", default="scale 2"),
    ] = None
    dropout: Annotated[float | None, _adapter(help="Of the adapter's input.", default="0.05")] = (
        None
    )
    modulation: Annotated[
        str | None,
        _adapter(
            metavar="scale|affine|full",
            help="uniarm: what the mixed embedding does to the shared features.",
            default="affine",
        ),
    ] = None
    alpha_in: Annotated[
        str | None,
        _adapter(
            metavar="both|loss|layers", help="uniarm: where the vector enters.", default="both"
        ),
    ] = None
    start: Annotated[
        str | None,
        _adapter(metavar="DIR", help="Go on from this adapter; new objectives come after its own."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFlags:
    """What is learned."""

    objective: Annotated[
        list[str] | None,
        _loss(
            metavar="NAME[=TEXT]",
            help="Learn this one of the data's objectives; TEXT describes it; may be repeated.",
            default="all in the data",
        ),
    ] = None
    beta: Annotated[
        list[str] | None,
        _loss(
            metavar="[NAME=]NUMBER",
            help="β of the Bradley–Terry loss, of all objectives or of one; may be repeated.",
            default="0.1",
        ),
    ] = None
    dirichlet: Annotated[
        float | None, _loss(help="Concentration that vectors are drawn with.", default="0.5")
    ] = None
    alpha_per: Annotated[
        str | None,
        _loss(metavar="batch|pair", help="Draw a vector for each batch, or pair.", default="batch"),
    ] = None
    reduction: Annotated[
        str | None,
        _loss(
            metavar="sum|mean",
            help="Responses count by the sum of their log-probs, or the mean.",
            default="sum",
        ),
    ] = None
    global_weight: Annotated[
        float | None, _loss(help="uniarm: weight of the global loss; 0: none.", default="1")
    ] = None
    global_loss: Annotated[
        str | None,
        _loss(
            metavar="soft-label|hard-label|mixed-margin",
            help="uniarm: which it is.",
            default="soft-label",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFlags:
    """How long, and how fast."""

    epochs: Annotated[int | None, _steps(help="Times through the pairs.", default="1")] = None
    batch_size: Annotated[int | None, _steps(help="Pairs a step.", default="32")] = None
    accumulate: Annotated[
        int | None, _steps(help="Compute each step in so many parts.", default="1")
    ] = None
    lr: Annotated[float | None, _steps(help="Highest learning rate.", default="0.0005")] = None
    weight_decay: Annotated[float | None, _steps(help="Of AdamW.", default="0.05")] = None
    warmup: Annotated[int | None, _steps(help="Steps up to it.", default="20")] = None
    clip: Annotated[float | None, _steps(help="Largest norm of gradients.", default="1")] = None
    evaluate_every: Annotated[
        int | None, _steps(metavar="STEPS", help="Judge validation pairs.", default="once an epoch")
    ] = None
    patience: Annotated[
        int | None,
        _steps(help="Stop after so many without a better accuracy; 0: never.", default="3"),
    ] = None
    checkpoint_every: Annotated[
        int | None, _steps(metavar="STEPS", help="Write a checkpoint.", default="50")
    ] = None
    seed: Annotated[int | None, _steps(help="Of everything drawn.", default="0")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFlags:
    """The base, and how it is loaded."""

    model: Annotated[
        str,
        _model(
            "--model",
            "-m",
            metavar="ID|PATH",
            help="The frozen base; smollm2 and demo are short names, as for ask.",
        ),
    ] = field(default_factory=default_model)
    max_length: Annotated[
        int | None,
        _model(metavar="TOKENS", help="Of prompt and response.", default="the model's context"),
    ] = None
    dtype: Annotated[
        str | None, _model(metavar="TYPE", help="float32, bfloat16, float16.", default="auto")
    ] = None
    device: Annotated[
        str | None, _model(metavar="DEVICE", help="cpu, cuda, cuda:1.", default="auto")
    ] = None
    four_bit: Annotated[
        bool | None,
        _model("--four-bit/--no-four-bit", help="Load it in 4 bits (NVIDIA GPU).", default="no"),
    ] = None
    gradient_checkpointing: Annotated[
        bool | None,
        _model(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Less memory, more time.",
            default="no",
        ),
    ] = None
    chat_template: Annotated[
        str | None, _model(metavar="FILE|plain", help="Chat template for a model without one.")
    ] = None
    now: Annotated[
        str | None,
        _model(metavar="MOMENT", help="The date that the chat template shows: 2026-11-28."),
    ] = None
    trust_remote_code: Annotated[
        bool | None, _model("--trust-remote-code", help="Run code that the model brings along.")
    ] = None
    allow_pickle: Annotated[
        bool | None, _model("--allow-pickle", help="Load weights that are not safetensors.")
    ] = None
