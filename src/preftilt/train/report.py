"""Writes an adapter's folder: the weights, the spec, peft's config, the training record, its curve and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import preftilt
from preftilt.arm.adapter import save_weights
from preftilt.arm.attach import AttachedArm
from preftilt.arm.spec import SPEC_FILE, ArmSpec, spec_json
from preftilt.plots.style import BLUE, FAINT, INK, VERMILION, picture
from preftilt.train.loop import TrainingRun, TrainingState

SMOOTHING = 0.9
COLOURS = (BLUE, VERMILION, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "os^Dv<"


def draw_curve(curve: Mapping[str, Any], path: Path) -> None:
    """Draw ``training.json``'s curve; without evaluations there is one panel."""
    steps, evaluations = curve["steps"], curve["evaluations"]
    with picture(path, width=8.0 if evaluations else 4.5, height=3.2) as figure:
        axes = figure.subplots(1, 2 if evaluations else 1, squeeze=False)[0]
        places, losses = [step["step"] for step in steps], [step["loss"] for step in steps]
        axes[0].plot(places, losses, color=FAINT, linewidth=0.8, label="batch")
        axes[0].plot(places, _smooth(losses), color=INK, linewidth=1.6, label="smoothed")
        axes[0].set_title("Loss")
        axes[0].set_xlabel("step")
        axes[0].legend()
        if not evaluations:
            return
        names = dict.fromkeys(
            name for evaluation in evaluations for name in evaluation["accuracies"]
        )
        for index, name in enumerate(names):
            measured = [
                evaluation for evaluation in evaluations if name in evaluation["accuracies"]
            ]
            axes[1].plot(
                [evaluation["step"] for evaluation in measured],
                [100 * evaluation["accuracies"][name] for evaluation in measured],
                marker=MARKERS[index % len(MARKERS)],
                markersize=4,
                color=COLOURS[index % len(COLOURS)],
                label=name,
            )
        axes[1].axhline(50, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        axes[1].set_title("Validation pairs ranked right (%)")
        axes[1].set_xlabel("step")
        axes[1].legend()


def _smooth(values: list[float]) -> list[float]:
    """An exponential moving average, corrected for its start."""
    averages: list[float] = []
    total, weight = 0.0, 0.0
    for value in values:
        total, weight = SMOOTHING * total + value, SMOOTHING * weight + 1
        averages.append(total / weight)
    return averages


SCHEMA = "preftilt.training/1"
RECORD_FILE = "training.json"

_TITLES = {
    "genarm": "GenARM (plain LoRA), one objective",
    "parm": "PARM (PBLoRA), conditioned on a preference vector",
    "uniarm": "a reconstruction of UniARM's MoSLoRA, conditioned on a preference vector",
    "dpo": "DPO (plain LoRA), a policy for one objective",
}


def training_record(training: TrainingRun, state: TrainingState, dropped: int) -> dict[str, Any]:
    """The object of ``training.json``: what was trained on how much, for how long, and what came out."""
    base = sum(parameter.numel() for parameter in training.lm.model.parameters())
    trained = sum(weight.numel() for weight in training.arm.weights.trained().values())
    last = next(
        (evaluation for evaluation in state.evaluations if evaluation["step"] == state.best_step),
        None,
    )
    return {
        "schema": SCHEMA,
        "method": training.arm.spec.method,
        "base": training.arm.spec.base,
        "objectives": [asdict(objective) for objective in training.arm.spec.objectives],
        "parameters": {"trained": trained, "base": base, "share": trained / base},
        "pairs": {
            "train": len(training.train),
            "validation": len(training.held),
            "left_out": dropped,
        },
        "steps": state.step,
        "best_step": state.best_step,
        "stopped": "early" if state.step < training.steps else "at the end",
        "seconds": round(state.seconds, 3),
        "accuracy": None if last is None else last["accuracy"],
        "accuracies": {} if last is None else last["accuracies"],
        "settings": asdict(training.settings),
        "versions": {
            "preftilt": preftilt.__version__,
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
        "curve": {"steps": state.steps, "evaluations": state.evaluations},
    }


def write_adapter(arm: AttachedArm, record: Mapping[str, Any], out: Path) -> None:
    """The finished folder; its ``arm.json`` comes last, so that a folder with one is whole."""
    save_weights(arm.weights, out)
    if arm.spec.method in ("genarm", "dpo"):
        write_peft_config(arm.spec, out)
    (out / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    draw_curve(record["curve"], out / "training.png")
    (out / "README.md").write_text(card(arm.spec, record), "utf-8")
    (out / SPEC_FILE).write_text(spec_json(arm.spec), "utf-8")


def write_peft_config(spec: ArmSpec, out: Path, *, bias: bool = False) -> None:
    """``adapter_config.json``, by peft itself, so that ``PeftModel.from_pretrained`` opens the folder.

    bias: whether B has one.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.scale * spec.rank,  # pyright: ignore[reportArgumentType]
        target_modules=list(spec.targets),
        base_model_name_or_path=spec.base,
        task_type="CAUSAL_LM",
        fan_in_fan_out="c_attn" in spec.targets,
        lora_bias=bias,
        inference_mode=True,
    )
    config.save_pretrained(str(out))


def card(spec: ArmSpec, record: Mapping[str, Any]) -> str:
    """The folder's ``README.md``, as model cards are written."""
    names = ", ".join(objective.name for objective in spec.objectives)
    alpha = ",".join(
        f"{objective.name}={1 / len(spec.objectives):.3g}" for objective in spec.objectives
    )
    judged = "".join(
        f"| {name} | {100 * share:.1f} % |\n" for name, share in record["accuracies"].items()
    )
    table = f"\n| objective | validation accuracy |\n|---|---|\n{judged}" if judged else ""
    pairs = record["pairs"]
    return (
        f"---\nbase_model: {json.dumps(spec.base)}\nlibrary_name: preftilt\n"
        f"tags: [autoregressive-reward-model, {spec.method}]\n---\n\n"
        f"# An adapter for {spec.base}: {names}\n\n"
        f"Trained by preftilt {record['versions']['preftilt']} as {_TITLES[spec.method]}, on {pairs['train']} pairs"
        f" ({pairs['validation']} for validation), {record['steps']} steps, {record['seconds']:.0f} s;"
        f" {record['parameters']['trained']:,} parameters beside the base's {record['parameters']['base']:,}.\n"
        f"{table}\n"
        + "".join(
            f"- **{objective.name}** (β {objective.beta:g}): {objective.description}\n"
            for objective in spec.objectives
        )
        + f"\nA preference vector for it looks like `{alpha}`. It belongs to this base ({spec.fingerprint}) and can"
        " guide any model with the same tokenizer. How training went: `training.json`, `training.png`.\n"
    )
