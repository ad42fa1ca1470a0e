"""The whole measurement by one call: pairs, adapters, soups, sweep, report; what is there already is not made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import preftilt
from preftilt.arm.spec import SPEC_FILE
from preftilt.engines.models import demo_folder
from preftilt.eval.arms.decode import (
    ALPHAS,
    ASKED_FOR,
    DECODED,
    OBJECTIVES,
    PICKED,
    SCALE,
    TRAININGS,
    TUNING_ALPHAS,
    AdapterTraining,
    OnUnit,
    Sizes,
    Sweep,
    soup_name,
)
from preftilt.eval.fronts import draw_front, fronts, read_rewards, scale_in_words, table
from preftilt.eval.objectives import PairSettings, objectives, write_pairs
from preftilt.eval.report import Heading, Picture, Table, Text, write_report
from preftilt.eval.report import markdown as document
from preftilt.eval.runner import divided
from preftilt.records.lines import json_line
from preftilt.train.settings import TrainSettings
from preftilt.train.soups import soup
from preftilt.train.start import train

OnTrained = Callable[[int, int], None]


def experiment(
    out: Path,
    records: Path,
    sizes: Sizes,
    *,
    command: str,
    processes: int = 1,
    on_trained: OnTrained = lambda done, total: None,
    on_unit: OnUnit = lambda what, done, total: None,
) -> str:
    """Train and measure everything of ``decode.py``; writes report.md, report.json and front.png into ``out``.

    Pairs, adapters and records are kept in ``records``, under a name that changes with the sizes, the bundled model and
    the version. Returns the Markdown.
    """
    digest = sha256(repr((sizes, preftilt.__version__)).encode())
    digest.update((Path(demo_folder()) / "model.safetensors").read_bytes())
    folder = records / digest.hexdigest()[:12]
    adapters = folder / "adapters"
    pairs = _pairs(folder / "pairs", sizes)
    _train_all(folder / "pairs", adapters, sizes, processes, on_trained)
    policies = [adapters / f"dpo-{name}" for name in OBJECTIVES]
    for alpha in ALPHAS:
        if not (adapters / soup_name(alpha) / SPEC_FILE).is_file():
            soup(policies, alpha, adapters / soup_name(alpha))
    sweep = Sweep(adapters, folder / "records.jsonl", sizes, processes, on_unit)
    chosen, answers = sweep.run()
    rewards_file = folder / "rewards.jsonl"
    with rewards_file.open("wb") as file:
        for name, by_alpha in answers.items():
            for alpha, some in by_alpha.items():
                mix = dict(zip(OBJECTIVES, alpha, strict=True))
                for answer in some:
                    row = {"method": _title(name), "alpha": mix, **asdict(answer)}
                    file.write(json_line(row) + b"\n")
    report = fronts(read_rewards([rewards_file], OBJECTIVES), SCALE)
    report |= {
        "command": command,
        "sizes": asdict(sizes),
        "pairs": pairs,
        "strengths": chosen,
        "trainings": {training.name: _training(adapters / training.name) for training in TRAININGS},
        "keeping": {
            _title(name): float(
                sum(answer.rewards["keeping"] for some in by_alpha.values() for answer in some)
                / sum(len(some) for some in by_alpha.values())
            )
            for name, by_alpha in answers.items()
        },
        "version": preftilt.__version__,
    }
    out.mkdir(parents=True, exist_ok=True)
    draw = partial(draw_front, report)
    return write_report(report, out, partial(markdown, report), draw, "front.png")


def _title(name: str) -> str:
    return (DECODED[name] if name in DECODED else PICKED[name]).title


def _pairs(folder: Path, sizes: Sizes) -> dict[str, int]:
    """Write the pairs unless they are there; how many each split has."""
    done = folder / "counts.json"
    if not done.is_file():
        settings = PairSettings(sizes=sizes.pairs, seed=sizes.seed)
        counts = write_pairs(folder, settings)
        done.write_text(json.dumps(counts), "utf-8")
    return json.loads(done.read_text("utf-8"))


def _train_all(
    pairs: Path, adapters: Path, sizes: Sizes, processes: int, on_trained: OnTrained
) -> None:
    """Train what is not trained yet, several at a time, each on its share of the cores."""
    left = [
        training for training in TRAININGS if not (adapters / training.name / SPEC_FILE).is_file()
    ]
    on_trained(len(TRAININGS) - len(left), len(TRAININGS))
    if not left:
        return
    with divided(min(processes, len(left))) as pool:
        jobs = [
            pool.submit(_train, training, pairs, adapters / training.name, sizes)
            for training in left
        ]
        for number, job in enumerate(as_completed(jobs), start=len(TRAININGS) - len(left) + 1):
            job.result()
            on_trained(number, len(TRAININGS))


RECIPE = {"lr": 0.005, "batch_size": 16, "alpha_per": "pair", "dropout": 0.0}
"""For a model of 5 M parameters; the rates that the papers use for 7 B hardly move it in so few steps."""

MEAN_BETA = 5.0
"""β of reward models, whose losses compare means over tokens here: sums favour short answers whatever is learned, and
an objective that is about length is ranked by that alone. DPO compares with the base, and needs nothing of the kind."""


def _train(training: AdapterTraining, pairs: Path, out: Path, sizes: Sizes) -> None:
    policy = training.method == "dpo"
    known = {each.name: each for each in (objectives() if policy else objectives(MEAN_BETA))}
    settings = TrainSettings(
        method=training.method,
        model="demo",
        objectives=tuple(known[name] for name in training.objectives),
        epochs=sizes.epochs,
        seed=sizes.seed,
        reduction="sum" if policy else "mean",
        **RECIPE,
    )
    validation = str(pairs / "validation.jsonl")
    train(str(pairs / "train.jsonl"), out, settings, validation=validation, resume=True)


def _training(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "training.json").read_text("utf-8"))
    kept = ("method", "parameters", "pairs", "steps", "seconds", "accuracies")
    return {name: record[name] for name in kept}


def markdown(report: Mapping[str, Any], picture: str | None) -> str:
    """The tables with everything needed to judge them; ``picture`` is a file beside the report."""
    sizes = report["sizes"]
    header = [
        "adapter", "trained parameters", "share of the model", "steps", "seconds",
        "accuracy on validation pairs",
    ]  # fmt: skip
    rows = []
    for name, training in report["trainings"].items():
        accuracies = [f"{key} {value:.2f}" for key, value in training["accuracies"].items()]
        rows.append(
            [
                name,
                f"{training['parameters']['trained']:,}",
                f"{100 * training['parameters']['share']:.2f} %",
                str(training["steps"]),
                f"{training['seconds']:.0f}",
                ", ".join(accuracies),
            ]
        )
    return document(
        [
            Heading("Several objectives: reward models that decode, on the demo world", 1),
            Text(
                f"Made by `{report['command']}`, seed {sizes['seed']}, preftilt {report['version']}."
            ),
            Text(_objectives(report)),
            Text(_protocol(report)),
            Text(table(report, _columns(report))),
            *(
                [Picture(picture, "Mean rewards as α goes from one objective to the other")]
                if picture
                else []
            ),
            Heading("What was trained"),
            Table(header, rows),
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
