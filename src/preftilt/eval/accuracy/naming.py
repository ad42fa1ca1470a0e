"""Rules by name, as ``--rule NAME`` and ``--rule NAME=NUMBER`` have them."""

from __future__ import annotations

from collections.abc import Sequence

from preftilt.errors import BadInput
from preftilt.eval.accuracy.judged import ArgsRule, RewardModelRule
from preftilt.eval.accuracy.rules import (
    EXAMPLES,
    PLAIN,
    VALUED,
    Amulet,
    ArmRule,
    BaseRule,
    GuidedDecodingRule,
    InContextExamplesRule,
    LinearAlignment,
    PromptedRule,
    RearRule,
    Rule,
    number_of,
)
from preftilt.rivals.methods import PreferenceIn

WEIGHT = 1.5
"""Of the reward in the default rule ARGS, as in the search of that name."""


def default_rules(
    *,
    preferences: bool,
    examples: bool,
    reward_model: bool,
    arms: bool,
    place: PreferenceIn = "system",
) -> list[Rule]:
    """The rules that are measured if none is named: those that the data and the models at hand allow."""
    rules: list[Rule] = [BaseRule()]
    if preferences:
        guides = {"linear-alignment": LinearAlignment().guide, "amulet": Amulet().guide}
        rules += [PromptedRule(), RearRule(3.0), RearRule(20.0)]
        rules += [GuidedDecodingRule(name, guide) for name, guide in guides.items()]
    if examples:
        rules += [InContextExamplesRule(EXAMPLES), parse_rule("rear-icl=3")]
    if arms:
        rules.append(ArmRule(1.0))
    if reward_model:
        rules += [RewardModelRule(place), ArgsRule(WEIGHT, place=place)]
    return rules


def parse_rules(names: Sequence[str], place: PreferenceIn = "system") -> list[Rule]:
    """The rules of these ``names``, each once, in order."""
    by_name = {rule.name: rule for rule in (parse_rule(name, place) for name in names)}
    return list(by_name.values())


def parse_rule(spec: str, place: PreferenceIn = "system") -> Rule:
    """``base``, ``rear=3``, ``icl=4``, …; ``place`` is where reward models find the preference."""
    name, equals, text = (part.strip() for part in spec.partition("="))
    if name == "args":
        return ArgsRule(number_of("args", text) if equals else WEIGHT, place=place)
    if name == "reward-model" and not equals:
        return RewardModelRule(place)
    if equals and name in VALUED:
        return VALUED[name](spec.strip(), text)
    if not equals and name in PLAIN:
        return PLAIN[name]()
    if name in VALUED or name in PLAIN or name == "reward-model":
        raise BadInput(
            f"--rule {spec}: {name} takes {'no number' if equals else 'a number: ' + name + '=NUMBER'}"
        )
    known = sorted({*PLAIN, "reward-model", "args=NUMBER", *(f"{name}=NUMBER" for name in VALUED)})
    raise BadInput(f"there is no rule {spec!r}; there are {', '.join(known)}")
