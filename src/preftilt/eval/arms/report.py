"""The measurement as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preftilt.eval.arms.plan import ASKED_FOR, DECODED, PICKED, TUNING_ALPHAS
from preftilt.eval.fronts.report import scale_in_words, table


def markdown(report: Mapping[str, Any]) -> str:
    """The tables with everything needed to judge them."""
    sizes = report["sizes"]
    return "\n".join(
        [
            "# Several objectives: reward models that decode, on the demo world",
            "",
            f"Made by `{report['command']}`, seed {sizes['seed']}, preftilt {report['version']}.",
            "",
            _objectives(report),
            "",
            _protocol(report),
            "",
            table(report, _columns(report)),
            "",
            "![Mean rewards as α goes from one objective to the other](front.png)",
            "",
            "## What was trained",
            "",
            "| adapter | trained parameters | share of the model | steps | seconds | accuracy on validation pairs |",
            "|---|---|---|---|---|---|",
            *(_training(name, training) for name, training in report["trainings"].items()),
            "",
        ]
    )


def _objectives(report: Mapping[str, Any]) -> str:
    return (
        "Objectives with exact rewards: *helpful* (recommendations that answer the question, five count fully) and"
        " *brief* (few words), which pull apart. *keeping* (the user's own preference, which stands in every prompt) is"
        f" measured beside them. {scale_in_words(report)}"
    )


def _protocol(report: Mapping[str, Any]) -> str:
    sizes = report["sizes"]
    pairs = ", ".join(f"{count} {split}" for split, count in report["pairs"].items())
    wishes = ", ".join(f"{name} “{text}”" for name, text in ASKED_FOR.items())
    return (
        f"Adapters are trained for {sizes['epochs']} epoch(s) on pairs of answers by the world's writer ({pairs}). REAR"
        f" is not trained: it is asked for the objectives in words ({wishes}). Strengths (w, λ) were chosen by MIP on"
        f" {sizes['tuning_prompts']} validation prompts under {len(TUNING_ALPHAS)} preference vectors. Answers are"
        " greedy; reward models are trained on means over tokens, policies (DPO) on sums; the best-of-16 methods pick"
        " among samples at temperature 1 with top-p 0.9. Adapters are trained side by side, each on its share of the"
        " cores."
    )


def _columns(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Columns beside the fronts' own, a cell for every method in the order of the rows."""
    methods = [*DECODED.values(), *PICKED.values()]
    known = report["trainings"]
    return {
        "keeping": [f"{report['keeping'][method.title]:.3f}" for method in methods],
        "strength": [
            f"{report['strengths'][method.name]:g}" if method.name in report["strengths"] else "–"
            for method in methods
        ],
        "forwards a token": [method.forwards for method in methods],
        "trained parameters": [
            f"{sum(known[name]['parameters']['trained'] for name in method.trained):,}"
            for method in methods
        ],
        "training, s": [
            f"{sum(known[name]['seconds'] for name in method.trained):.0f}" for method in methods
        ],
    }


def _training(name: str, training: Mapping[str, Any]) -> str:
    parameters = training["parameters"]
    accuracies = ", ".join(f"{key} {value:.2f}" for key, value in training["accuracies"].items())
    return (
        f"| {name} | {parameters['trained']:,} | {100 * parameters['share']:.2f} % | {training['steps']} |"
        f" {training['seconds']:.0f} | {accuracies} |"
    )
