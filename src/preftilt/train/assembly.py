"""Assembles a training run, runs the loop and writes the folder: the tokens; the base that adapters are trained on,
loaded, frozen, in 4 bits if asked for; and the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

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
from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.transformers.loading import (
    ModelSource,
    context_of,
    find_model,
    load_model,
    load_tokenizer,
)
from preftilt.engines.vocabulary import end_ids, known_ids
from preftilt.errors import BadInput, MissingPackage
from preftilt.prompt import read_moment
from preftilt.train.loop import OnStep, TrainingRun, drop_checkpoints, run
from preftilt.train.losses import CausalLM, causal_lm, margins
from preftilt.train.pairs import PreferencePair
from preftilt.train.report import training_record, write_adapter
from preftilt.train.settings import TrainSettings
from preftilt.train.tokens import TokenPair, make_batch, sorted_batches, tokenise


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """The base's source, tokenizer and chat template: all that tokenising takes, before the weights are loaded."""

    source: ModelSource
    tokenizer: Any
    chat: HfChatTokenizer


@dataclass(frozen=True, slots=True)
class FrozenBase:
    """A frozen model, the token id that ends a turn, and its context in tokens."""

    lm: CausalLM
    end: int
    context: int


def find_base(settings: TrainSettings) -> BaseFiles:
    """Look for the base and load its tokenizer; raises as :func:`~preftilt.engines.open.open_engine` does."""
    source = find_model(
        settings.model,
        dtype=settings.dtype,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
    )
    if settings.four_bit:
        _check_four_bit(source)
    tokenizer = load_tokenizer(source)
    now = None if settings.now is None else read_moment(settings.now)
    chat = HfChatTokenizer(tokenizer, chat_template=settings.chat_template, now=now)
    _ = chat.template  # Raises now, before the weights are read, if there is none.
    if now is None and (moment := chat.moment) is not None:
        raise BadInput(
            f"the chat template shows the date ({', '.join(moment.shown)}), and training may go on another day: say"
            f" which one it shows, --now {moment.now:%Y-%m-%d}"
        )
    return BaseFiles(source, tokenizer, chat)


def load_base(files: BaseFiles, settings: TrainSettings) -> FrozenBase:
    """The model in memory. Its own weights take no gradients."""
    model = (
        _quantised(files) if settings.four_bit else load_model(files.source, files.tokenizer).model
    )
    rows = model.get_output_embeddings().weight.shape[0]
    size, holes = known_ids(files.tokenizer, rows)
    _, end = end_ids(model, files.tokenizer, files.chat.template)
    if end is None:
        raise BadInput(
            f"{settings.model} names no token that ends a response; set eos_token_id in its generation_config.json"
        )
    if settings.gradient_checkpointing:
        _checkpoint_gradients(model)
    context = context_of(model.config)
    lm = causal_lm(model, size, holes, settings.reduction)
    return FrozenBase(lm, end, min(context, settings.max_length or context))


def describe(base: FrozenBase, files: BaseFiles, objectives: Sequence[Objective]) -> Tensor:
    """Embeddings [k, d] of the objectives' descriptions, of unit length, on the CPU.

    The mean of the base's last hidden states over the description's tokens: part of our reconstruction of UniARM,
    whose reviews say no more than that the base itself embeds the descriptions.
    """
    embeddings: list[Tensor] = []
    for objective in objectives:
        ids = files.chat.encode(objective.description)
        if not ids:
            raise BadInput(
                f"objective {objective.name} has an empty description; say what it asks for"
            )
        with torch.no_grad():
            states = base.lm.model(
                input_ids=torch.tensor([ids], device=base.lm.device), output_hidden_states=True
            ).hidden_states[-1]
        embeddings.append(torch.nn.functional.normalize(states[0].float().mean(dim=0), dim=0).cpu())
    return torch.stack(embeddings)


def _check_four_bit(source: ModelSource) -> None:
    if source.device.type != "cuda":
        raise BadInput(
            f"a base in 4 bits needs an NVIDIA GPU, and the device is {source.device.type}; leave --four-bit out"
        )
    if find_spec("bitsandbytes") is None:
        raise MissingPackage("a base in 4 bits needs bitsandbytes: pip install bitsandbytes")


def _quantised(files: BaseFiles) -> Any:
    """NF4 weights, computed with in bfloat16, as GenARM and PARM were trained."""
    source = files.source
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.place,
        dtype=torch.bfloat16,
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
        device_map={"": source.device.index or 0},
        trust_remote_code=source.trust_remote_code,
        local_files_only=source.cached_only,
        use_safetensors=None if source.allow_pickle else True,
    )
    return model.eval().requires_grad_(False)


def _checkpoint_gradients(model: Any) -> None:
    """Compute activations twice instead of keeping them; the base's own dropout stays off."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()


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
