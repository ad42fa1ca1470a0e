"""What is trained and what is measured: objectives, methods, and the sizes of the measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from preftilt.arm.spec import Method as TrainMethod
from preftilt.eval.fronts.metrics import RewardScale
from preftilt.eval.objectives.rewards import BRIEF, HELPFUL

OBJECTIVES = (HELPFUL, BRIEF)
"""They pull apart: an answer that helps more is longer. The third reward, ``keeping``, is recorded beside them."""

SCALE = RewardScale(objectives=OBJECTIVES, low=(0.0, 0.0), high=(1.0, 1.0), reference=(0.0, 0.0))
"""The rewards lie in [0, 1] by their making, so their units are the scale's."""

ASKED_FOR = {HELPFUL: "Give me plenty of ideas.", BRIEF: "Please keep it short."}
"""The objectives as preferences in words, which is all that REAR needs of them; the bundled model knows both wishes."""

Alpha = tuple[float, float]

ALPHAS: tuple[Alpha, ...] = tuple((step / 10, (10 - step) / 10) for step in range(11))
TUNING_ALPHAS: tuple[Alpha, ...] = ((0.1, 0.9), (0.5, 0.5), (0.9, 0.1))


@dataclass(frozen=True, slots=True)
class AdapterTraining:
    """An adapter that is trained before anything is measured."""

    name: str
    method: TrainMethod
    objectives: tuple[str, ...]


TRAININGS = (
    AdapterTraining("uniarm", "uniarm", OBJECTIVES),
    AdapterTraining("parm", "parm", OBJECTIVES),
    *(AdapterTraining(f"genarm-{objective}", "genarm", (objective,)) for objective in OBJECTIVES),
    *(AdapterTraining(f"dpo-{objective}", "dpo", (objective,)) for objective in OBJECTIVES),
)


@dataclass(frozen=True, slots=True)
class ArmsMethod:
    """A row of the table.

    weights: its strengths that validation chooses from (w of reward models, λ of REAR); none: it has none. trained:
    the adapters that it needs. forwards: of a model a token of the answer, candidates that are not taken included.
    """

    name: str
    title: str
    weights: tuple[float, ...]
    trained: tuple[str, ...]
    forwards: str


STRENGTHS = (0.5, 1.0, 2.0, 4.0)
_GENARMS = tuple(f"genarm-{objective}" for objective in OBJECTIVES)
_POLICIES = tuple(f"dpo-{objective}" for objective in OBJECTIVES)
SAMPLES = 16

DECODED: Mapping[str, ArmsMethod] = {
    method.name: method
    for method in (
        ArmsMethod("base", "the bundled model, greedy", (), (), "1"),
        ArmsMethod("uniarm", "UniARM (reconstruction), guided", STRENGTHS, ("uniarm",), "2"),
        ArmsMethod("parm", "PARM, guided", STRENGTHS, ("parm",), "2"),
        ArmsMethod("genarm", "GenARM, guided", STRENGTHS, _GENARMS, "1 + 2"),
        ArmsMethod("rs", "rewarded soups of two DPO policies", (), _POLICIES, "1"),
        ArmsMethod("mod", "MOD of two DPO policies", (), _POLICIES, "2"),
        ArmsMethod("rear", "REAR a token, two preferences", STRENGTHS, (), "1 + 2"),
    )
}
"""Every token is chosen by the method; greedy, as PARM measures."""

PICKED: Mapping[str, ArmsMethod] = {
    method.name: method
    for method in (
        ArmsMethod(
            "bon-rear", f"REAR best-of-{SAMPLES}, two preferences", STRENGTHS, (), "16 · (1 + 2)"
        ),
        ArmsMethod("bon-genarm", f"GenARM best-of-{SAMPLES}", STRENGTHS, _GENARMS, "16 · (1 + 2)"),
    )
}
"""One pool of samples of the bundled model serves them under every α and strength."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured: pairs' items (train, validation, test), prompts of the sweep, epochs of training."""

    pairs: tuple[int, int, int] = (1500, 150, 150)
    prompts: int = 100
    tuning_prompts: int = 40
    epochs: int = 1
    seed: int = 0
