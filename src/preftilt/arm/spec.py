"""The specification of a trained autoregressive reward model (ARM): the ``arm.json`` in its folder.

Four methods share one shape of adapter, B(M(α) A x + c(α)) beside a linear layer W x (``adapter.py``):

- ``genarm`` (Xu et al., ICLR 2025): plain LoRA, one objective; a standard peft adapter.
- ``parm`` (Lin et al., ICML 2025): PBLoRA, M(α) = blockdiag(W₁, Σ αᵢ Uᵢ).
- ``uniarm``: a reconstruction of the MoSLoRA of UniARM (arXiv 2602.09538), whose internals are not all public:
  A and B are shared, M(α) and c(α) are linear in the mixed embedding e(α) = Σ αᵢ oᵢ of the objectives' descriptions.
- ``dpo``: plain LoRA as ``genarm``, but trained as a policy; what rewarded soups and MOD mix.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from preftilt.errors import BadInput

Method = Literal["genarm", "parm", "uniarm", "dpo"]
Modulation = Literal["scale", "affine", "full"]
"""UniARM: u′ = γ(e) ∘ u; the same plus b(e); or a whole r × r matrix of e times u, plus b(e)."""

AlphaIn = Literal["both", "loss", "layers"]
"""UniARM: whether α weighs the losses, enters the layers (which otherwise see equal weights), or both."""

SCHEMA = "preftilt.arm/1"
SPEC_FILE = "arm.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_NAME = re.compile(r"[A-Za-z0-9_.\-]+")


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective that a reward model was trained for; ``beta`` is β of its Bradley–Terry loss.

    ``name`` is its name in preference vectors; ``description`` is the sentence that UniARM embeds.
    """

    name: str
    description: str
    beta: float

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BadInput(
                f"{self.name!r} cannot name an objective; use letters, digits, '.', '-' and '_'"
            )
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise BadInput(f"beta of {self.name} is {self.beta}; give a number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSpec:
    """Everything about an ARM but its weights.

    base: the base model's hub id or path, as it was given.
    fingerprint: of the base's shape (architecture, hidden size, layers, rows of its vocabulary).
    sample: some weights of the base, evenly spaced, to tell it from another of the same shape.
    tokenizer: hash of the base's vocabulary; a model can be guided by the ARM if its own is the same.
    targets: last parts of the names of the adapted layers; modules: their whole names, in the order of the weights.
    rank: r, the number of features A x; ``parm``: shared and conditioned ones together.
    conditioned_rank: r₂ of ``parm``, 0 elsewhere. scale: s in W x + s B(…).
    """

    method: Method
    base: str
    fingerprint: str
    sample: tuple[float, ...]
    tokenizer: str
    objectives: tuple[Objective, ...]
    targets: tuple[str, ...]
    modules: tuple[str, ...]
    rank: int
    scale: float
    conditioned_rank: int = 0
    modulation: Modulation = "affine"
    alpha_in: AlphaIn = "both"

    def __post_init__(self) -> None:
        names = [objective.name for objective in self.objectives]
        if self.method not in get_args(Method):
            raise BadInput(f"method is {self.method!r}; known are {', '.join(get_args(Method))}")
        if self.method in ("genarm", "dpo") and len(names) != 1:
            raise BadInput(
                f"{self.method} learns one objective, not {len(names)}; train one adapter for each"
            )
        if len(set(names)) < len(names) or not names:
            raise BadInput(f"objectives need names of their own, at least one: {', '.join(names)}")
        if self.rank < 1 or not 0 <= self.conditioned_rank <= self.rank:
            raise BadInput("rank must be at least 1 and the conditioned rank no larger than it")

    @property
    def mixes(self) -> bool:
        """Whether the adapter's output depends on the preference vector."""
        return self.method in ("parm", "uniarm") and self.alpha_in != "loss"


def read_spec(folder: Path) -> ArmSpec:
    """The spec of the ARM in ``folder``; raises :class:`~preftilt.errors.BadInput`."""
    path = folder / SPEC_FILE
    if not path.is_file():
        raise BadInput(
            f"{folder} holds no reward model ({SPEC_FILE} is missing); make one with preftilt train"
        )
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as failure:
        raise BadInput(f"{path} cannot be read: {failure}; train the reward model again") from None
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise BadInput(f"{path} is not of the schema {SCHEMA}; use the preftilt that wrote it")
    return _from_json(data, path)


def spec_json(spec: ArmSpec) -> str:
    """The text of ``arm.json``."""
    return json.dumps({"schema": SCHEMA, **asdict(spec)}, indent=1, ensure_ascii=False) + "\n"


def _from_json(data: Mapping[str, Any], path: Path) -> ArmSpec:
    values = {key: value for key, value in data.items() if key != "schema"}
    known = {field.name for field in fields(ArmSpec)}
    if unknown := sorted(values.keys() - known):
        raise BadInput(f"{path} has unknown fields: {', '.join(unknown)}")
    try:
        objectives = tuple(Objective(**objective) for objective in values.pop("objectives"))
        listed: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return ArmSpec(objectives=objectives, **listed)
    except (TypeError, KeyError) as failure:
        raise BadInput(f"{path} is damaged: {failure}; train the reward model again") from None


SUM_TOLERANCE = 1e-6


def parse_alpha(text: str, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """``help=0.7,harmless=0.3`` → (0.7, 0.3), in the order of ``objectives``.

    Raises :class:`~preftilt.errors.BadInput` for names that are unknown, missing or repeated, and as
    :func:`check_alpha` does.
    """
    parts = text.split(",")
    if nameless := [part.strip() for part in parts if "=" not in part]:
        raise BadInput(f"alpha {nameless[0]!r} is not NAME=NUMBER; {_known(objectives)}")
    weights = named_numbers(parts, "alpha")
    names = [objective.name for objective in objectives]
    if unknown := [name for name in weights if name not in names]:
        raise BadInput(f"alpha names {', '.join(unknown)}, unknown here; {_known(objectives)}")
    if missing := [name for name in names if name not in weights]:
        raise BadInput(f"alpha leaves out {', '.join(missing)}; {_known(objectives)}")
    return check_alpha([weights[name] for name in names], objectives)


def named_numbers(texts: Iterable[str], what: str) -> dict[str, float]:
    """The numbers of ``NAME=NUMBER`` each, by name; a ``NUMBER`` alone is under the name "".

    Raises :class:`~preftilt.errors.BadInput` for what is no number and for a name that is there twice; ``what`` is what
    the reader calls them.
    """
    numbers: dict[str, float] = {}
    for text in texts:
        name, _, number = (part.strip() for part in text.rpartition("="))
        if name in numbers:
            raise BadInput(f"{what} is given twice{f' for {name}' if name else ''}; give it once")
        try:
            numbers[name] = float(number)
        except ValueError:
            raise BadInput(f"{what} {text.strip()}: {number!r} is not a number") from None
    return numbers


def check_alpha(alpha: Sequence[float], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """``alpha`` as floats.

    Raises :class:`~preftilt.errors.BadInput` unless it lies in the simplex over ``objectives``.
    """
    if len(alpha) != len(objectives):
        raise BadInput(f"alpha has {len(alpha)} numbers; {_known(objectives)}")
    for value, objective in zip(alpha, objectives, strict=True):
        if not math.isfinite(value) or value < 0:
            raise BadInput(f"alpha of {objective.name} is {value}; give a number from 0 to 1")
    total = math.fsum(alpha)
    if abs(total - 1) > SUM_TOLERANCE:
        raise BadInput(f"alpha sums to {total:g}; its numbers must sum to 1")
    return tuple(float(value) for value in alpha)


def _known(objectives: Sequence[Objective]) -> str:
    return "the objectives are " + ", ".join(objective.name for objective in objectives)
