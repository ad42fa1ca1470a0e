"""What is opened beside a model: reward models (ARMs), and the smaller model that some of them were trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from preftilt.arm.attach import AttachedArm, attach
from preftilt.arm.fingerprint import check_base, check_tokenizer
from preftilt.arm.spec import ArmSpec, read_spec
from preftilt.engines.base import KnownArm
from preftilt.engines.transformers.arms import AttachedArms
from preftilt.engines.transformers.loading import LoadedModel
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.vocabulary import known_ids
from preftilt.errors import BadInput

NAME = re.compile(r"[A-Za-z0-9_.\-]+")


@dataclass(frozen=True, slots=True)
class ArmFolder:
    """An ARM that is to be opened: where it is, and what it says about itself."""

    folder: Path
    spec: ArmSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSetup:
    """What stands beside a model: ARMs by name, and the model of those that are not its own."""

    arms: Mapping[str, ArmFolder]
    model: LoadedModel | None = None

    @property
    def known(self) -> tuple[KnownArm, ...]:
        """The ARMs as an engine's capabilities tell them."""
        specs = {name: arm.spec for name, arm in self.arms.items()}
        return tuple(KnownArm(name, spec.objectives, spec.method) for name, spec in specs.items())


def read_arms(arms: Mapping[str, str], tokenizer: object) -> dict[str, ArmFolder]:
    """The ARMs in these folders, before any weights are read.

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


def attach_arms(runner: ModelRunner, beside: ArmSetup) -> list[ModelRunner]:
    """Put every ARM on its model; the runners of other models than ``runner``'s, none or one.

    Raises :class:`~preftilt.errors.BadInput` for an ARM that was trained on none of the models.
    """
    other = None if beside.model is None else _runner(beside.model, runner)
    homes = {
        name: runner if _belongs(arm.spec, runner) else other for name, arm in beside.arms.items()
    }
    if other is not None and other not in homes.values():
        raise BadInput("every reward model belongs to the model itself; leave --arm-base out")
    attached = {
        name: _attached(name, beside.arms[name], home or runner) for name, home in homes.items()
    }
    for model_runner in filter(None, (runner, other)):
        mine = {
            name: arm for name, arm in attached.items() if (homes[name] or runner) is model_runner
        }
        model_runner.arms = AttachedArms(mine, model_runner.device) if mine else None
    if other is None:
        return []
    runner.beside = {name: other for name, home in homes.items() if home is other}
    return [other]


def _belongs(spec: ArmSpec, runner: ModelRunner) -> bool:
    try:
        check_base(spec, runner.model)
    except BadInput:
        return False
    return True


def _attached(name: str, arm: ArmFolder, runner: ModelRunner) -> AttachedArm:
    try:
        return attach(runner.model, arm.folder)
    except BadInput as failure:
        remedy = f", or open that one beside this model (--arm-base {arm.spec.base})"
        other = "" if _belongs(arm.spec, runner) else remedy
        raise BadInput(f"--arm {name}: {failure}{other}") from None


def _runner(loaded: LoadedModel, base: ModelRunner) -> ModelRunner:
    """The other model, over the same ids as ``base`` and counted with it."""
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
