"""Reward models (ARMs) of an engine: loaded, attached to the model or to the smaller one that they were trained on, and
active for the tokens of a forward that they read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from preftilt.arm.attach import (
    AttachedArm,
    Hooks,
    attach,
    check_base,
    check_tokenizer,
    registered_hooks,
)
from preftilt.arm.spec import ArmSpec, read_spec
from preftilt.engines.base import KnownArm
from preftilt.engines.transformers.loading import (
    LoadedModel,
    ModelSource,
    find_model,
    load_model,
    load_tokenizer,
)
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.vocabulary import known_ids
from preftilt.errors import BadInput
from preftilt.types import Reader

NAME = re.compile(r"[A-Za-z0-9_.\-]+")


@dataclass(frozen=True, slots=True)
class ArmFolder:
    """An ARM to be loaded: its folder and its specification."""

    folder: Path
    spec: ArmSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSetup:
    """The ARMs of an engine by name, and the base model (``--arm-base``) of those not trained on the engine's model."""

    arms: Mapping[str, ArmFolder]
    model: LoadedModel | None = None

    @property
    def known(self) -> tuple[KnownArm, ...]:
        """The ARMs as :class:`~preftilt.engines.base.Capabilities` lists them."""
        specs = {name: arm.spec for name, arm in self.arms.items()}
        return tuple(KnownArm(name, spec.objectives, spec.method) for name, spec in specs.items())


def read_arms(arms: Mapping[str, str], tokenizer: object) -> dict[str, ArmFolder]:
    """Read the specifications of the ARMs in these folders; no weights are read.

    Raises :class:`~preftilt.errors.BadInput` for a damaged folder, and for an ARM that was trained with another
    tokenizer than ``tokenizer`` (a ``PreTrainedTokenizerBase``).
    """
    folders: dict[str, ArmFolder] = {}
    for name, path in arms.items():
        if not NAME.fullmatch(name):
            raise BadInput(
                f"{name!r} cannot name a reward model; use letters, digits, '.', '-', '_'"
            )
        folder = Path(path).expanduser()
        spec = read_spec(folder)
        try:
            check_tokenizer(spec, tokenizer)
        except BadInput as failure:
            raise BadInput(f"--arm {name}: {failure}") from None
        folders[name] = ArmFolder(folder, spec)
    return folders


def load_arms(
    arms: Mapping[str, str], base: str | None, source: ModelSource, tokenizer: object
) -> ArmSetup:
    """The ARMs in these folders by name, for the model of ``source``, whose tokenizer is ``tokenizer``.

    base: the other model that some of them were trained on, loaded with the dtype and device of ``source``. Raises as
    :func:`read_arms` and :func:`~.loading.find_model`.
    """
    folders = read_arms(arms, tokenizer)
    if base is None:
        return ArmSetup(arms=folders)
    base_source = find_model(
        base,
        dtype=str(source.dtype).removeprefix("torch."),
        device=str(source.device),
        trust_remote_code=source.trust_remote_code,
        allow_pickle=source.allow_pickle,
    )
    return ArmSetup(arms=folders, model=load_model(base_source, load_tokenizer(base_source)))


def attach_arms(runner: ModelRunner, arm_setup: ArmSetup) -> list[ModelRunner]:
    """Attach every ARM to its base; returns the runners of other models than ``runner``'s (none or one).

    Raises :class:`~preftilt.errors.BadInput` for an ARM that was trained on none of the models.
    """
    base_runner = None if arm_setup.model is None else _base_runner(arm_setup.model, runner)
    runners = {
        name: runner if _belongs(arm.spec, runner) else base_runner
        for name, arm in arm_setup.arms.items()
    }
    if base_runner is not None and base_runner not in runners.values():
        raise BadInput("every reward model belongs to the model itself; leave --arm-base out")
    attached = {
        name: _attach(name, arm_setup.arms[name], runner_of_arm or runner)
        for name, runner_of_arm in runners.items()
    }
    for model_runner in filter(None, (runner, base_runner)):
        own_arms = {
            name: arm for name, arm in attached.items() if (runners[name] or runner) is model_runner
        }
        model_runner.arms = AttachedArms(own_arms, model_runner.device) if own_arms else None
    if base_runner is None:
        return []
    runner.arm_runners = {
        name: base_runner for name, runner_of_arm in runners.items() if runner_of_arm is base_runner
    }
    return [base_runner]


def _belongs(spec: ArmSpec, runner: ModelRunner) -> bool:
    try:
        check_base(spec, runner.model)
    except BadInput:
        return False
    return True


def _attach(name: str, arm: ArmFolder, runner: ModelRunner) -> AttachedArm:
    try:
        return attach(runner.model, arm.folder)
    except BadInput as failure:
        remedy = f", or open that one beside this model (--arm-base {arm.spec.base})"
        hint = "" if _belongs(arm.spec, runner) else remedy
        raise BadInput(f"--arm {name}: {failure}{hint}") from None


def _base_runner(loaded: LoadedModel, base: ModelRunner) -> ModelRunner:
    """The runner of the other base model; it must have the same token ids, and shares the statistics of ``base``."""
    rows = loaded.model.get_output_embeddings().weight.shape[0]
    size, holes = known_ids(loaded.tokenizer, rows)
    ours = () if base.holes is None else tuple(base.holes.tolist())
    if (size, holes) != (base.vocabulary, ours):
        raise BadInput(
            f"the model of --arm-base has another vocabulary ({size - len(holes)} tokens, and this one"
            f" {base.vocabulary - len(ours)}), so log-probs cannot be added up; use one of the same family"
        )
    runner = ModelRunner(loaded.model, vocabulary=size, holes=base.holes)
    runner.stats = base.stats
    return runner


Readers = tuple[Reader | None, ...]
"""The reader of every token of a forward; None is the base model."""

MAX_CACHED_HOOKS, MAX_CACHED_ROWS = 4, 128
"""How many forwards' hooks are cached, and up to how many rows: while no row ends, the readers stay the same."""


class AttachedArms:
    """The ARMs that are attached to one model, by name."""

    def __init__(self, arms: Mapping[str, AttachedArm], device: torch.device) -> None:
        self.by_name = dict(arms)
        self._device = device
        self._cached_hooks = lru_cache(maxsize=MAX_CACHED_HOOKS)(self._hooks)

    @contextmanager
    def active(self, readers: Readers) -> Iterator[None]:
        """Within the block, a forward of a batch of len(``readers``) rows computes row i under ``readers[i]``."""
        hooks = self._cached_hooks if len(readers) <= MAX_CACHED_ROWS else self._hooks
        with registered_hooks(hooks(readers)):
            yield

    def _hooks(self, readers: Readers) -> Hooks:
        """The hooks of every ARM that is active in any row; its preference vectors [M, k] are NaN in the others."""
        hooks: Hooks = ()
        for name in sorted({reader.arm for reader in readers if reader is not None}):
            arm = self.by_name[name]
            inactive = (float("nan"),) * len(arm.spec.objectives)
            rows = [
                reader.alpha if reader is not None and reader.arm == name else inactive
                for reader in readers
            ]
            hooks += arm.hooks(torch.tensor(rows, dtype=torch.float32, device=self._device))
        return hooks
