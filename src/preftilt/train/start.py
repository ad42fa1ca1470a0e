"""``train``: from a file of pairs and a base model to an adapter's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftilt.arm.spec import SPEC_FILE, Objective
from preftilt.errors import BadInput, MissingPackage, PreftiltError
from preftilt.plots.style import check_picture
from preftilt.train.pairs import PreferencePair, objective_names, read_pairs, split_pairs
from preftilt.train.settings import TrainSettings

if TYPE_CHECKING:
    from preftilt.train.loop import StepReport

NEEDED = ("torch", "transformers", "safetensors", "peft", "matplotlib")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The adapter's folder, and the object of its ``training.json``."""

    folder: Path
    record: dict[str, Any]


def train(
    data: str,
    out: Path,
    settings: TrainSettings,
    *,
    validation: str | None = None,
    resume: bool = False,
    on_step: Callable[[StepReport], None] = lambda told: None,
) -> TrainResult:
    """Train a reward model on preference pairs and write its folder.

    data, validation: JSONL files or ids of data sets on the hub; see ``pairs.py`` for rows. Without ``validation``
    a share of the prompts of ``data`` is set aside (``settings.validation``). resume: go on from the checkpoints in
    ``out``, with the same settings and data; the result is the one an unbroken run gives. on_step is told after every
    step.

    Raises :class:`~preftilt.errors.BadInput` for what cannot be trained, before the first step;
    :class:`~preftilt.errors.MissingPackage`; and what opening a model raises.
    """
    _check_packages()
    _check_out(out, resume)
    check_picture(out / "training.png")
    drop = settings.bad_rows == "drop"
    read = read_pairs(data, drop=drop)
    if validation is None:
        pairs, held = split_pairs(read.pairs, settings.validation, settings.seed)
    else:
        pairs, held = read.pairs, read_pairs(validation, drop=drop).pairs
    if not pairs:
        raise BadInput(
            f"{data} is too small to set pairs aside; give --validation FILE, or a share of 0"
        )
    objectives = choose_objectives(settings, pairs)
    from preftilt.train.assembly import finish, prepare

    training = prepare(
        pairs, held, objectives, settings, out, _key(settings, objectives, pairs, held)
    )
    left_out = read.dropped + len(pairs) - len(training.train)
    try:
        record = finish(training, left_out, on_step)
    except OSError as failure:
        raise PreftiltError(f"cannot write to {out}: {failure.strerror}") from None
    return TrainResult(out, record)


def choose_objectives(
    settings: TrainSettings, pairs: Sequence[PreferencePair]
) -> tuple[Objective, ...]:
    """The objectives to train: those of the settings, or all of the data's."""
    known = objective_names(pairs)
    wanted = settings.objectives or tuple(Objective(name, name, settings.beta) for name in known)
    if missing := [objective.name for objective in wanted if objective.name not in known]:
        raise BadInput(
            f"no pair has a verdict on {', '.join(missing)}; the data's objectives are {', '.join(known)}"
        )
    if settings.method in ("genarm", "dpo") and len(wanted) != 1:
        raise BadInput(
            f"{settings.method} learns one objective, and the data have {', '.join(known)}; choose one"
            f" (--objective {known[0]})"
        )
    return wanted


def _check_packages() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingPackage(f'training needs {", ".join(missing)}: pip install "preftilt[train]"')


def _check_out(out: Path, resume: bool) -> None:
    if (out / SPEC_FILE).exists():
        raise BadInput(f"{out} holds a trained adapter already; choose another --out")
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; name a folder")
    if out.exists() and any(out.iterdir()) and not resume:
        raise BadInput(f"{out} is not empty; go on with --resume, or choose another --out")


def _key(
    settings: TrainSettings,
    objectives: Sequence[Objective],
    pairs: Sequence[PreferencePair],
    held: Sequence[PreferencePair],
) -> str:
    """Settings and data as one hash: what must be the same for a resumed training to end as the first would have."""
    whole = {
        "settings": asdict(settings) | {"checkpoint_every": 0},
        "objectives": [asdict(objective) for objective in objectives],
        "pairs": [
            [
                [[message.role, message.content] for message in pair.messages],
                pair.responses,
                sorted(pair.preferred.items()),
            ]
            for pair in (*pairs, *held)
        ],
        "train": len(pairs),
    }
    return sha256(json.dumps(whole).encode()).hexdigest()
