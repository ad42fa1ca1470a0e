"""The measured table as JSON and as Markdown, with everything needed to judge it."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

import preftilt
from bench.figures import (
    CANDIDATES,
    EVERY,
    ITEM_CANDIDATES,
    ITEM_PROMPT,
    ITEM_TOKENS,
    ITEMS,
    NEW_TOKENS,
    Figure,
)
from preftilt.engines.transformers.kernel_choices import processor_field

TITLES = {
    "ask": "best-of-16 with REAR scores ÷ `generate(num_return_sequences=16)` alone, 55-token prompt",
    "drawing": "the drawing of the same alone, seconds ÷ `generate`'s: as many tokens",
    "generate": "best-of-16 with REAR scores ÷ `generate(num_return_sequences=16)` alone, 1,000-token prompt",
    "naive": "the same ÷ `generate` followed by 2·16 plain forwards (the naive REAR)",
    "scoring": "scoring time ÷ sampling time",
    "floor": "scoring time ÷ plain forwards over the same tokens, prompt once and candidates batched (the floor)",
    "growth": "best-of-16 at 2,000 ÷ at 256 prompt tokens, prefills subtracted",
    "tree": "DVTS 4×4: tokens forwarded ÷ (tokens drawn × views), prompts apart",
    "items": f"{ITEMS} short items (best of {ITEM_CANDIDATES}, {ITEM_PROMPT} + {ITEM_TOKENS} tokens),"
    " batched ÷ one after another",
    "guided-1": "guided decoding (two views) ÷ plain decoding, time per token, one row",
    "guided-16": "guided decoding (two views) ÷ plain decoding, time per token, 16 rows",
    "twice": "plain decoding of 32 rows ÷ of 16: what twice the rows, one a view, cost without any guidance",
    "start": "`preftilt ask` with one token, the whole process ÷ a process that imports torch and transformers' models",
    "amulet": "Amulet's rule in closed form ÷ its literal game of 60 iterations, numpy",
}
REAL_AIMS: dict[str, dict[str, float | None]] = {
    "smollm2": {"ask": 0.6, "drawing": None, "guided-16": 1.2, "start": None},
    "smollm2-bf16": {"ask": None, "drawing": 0.5, "guided-16": 1.2},
}
"""Aims of the real model, whose ordinary case is a short prompt; by model."""

AIMS: dict[str, dict[str, float | None]] = {
    "cpu": {
        "generate": 0.5,
        "naive": 0.25,
        "scoring": 0.5,
        "floor": 1.6,
        "growth": 1.3,
        "tree": 1.0,
        "items": 0.5,
        "guided-1": 1.6,
        "guided-16": 1.2,
        "twice": None,
        "amulet": 0.1,
    },
    "cuda": {
        "ask": None,
        "drawing": None,
        "guided-16": 1.15,
        "twice": None,
        "generate": 0.5,
        "naive": 0.4,
        "scoring": 0.05,
        "floor": 1.3,
        "growth": 1.3,
    },
}
"""Aims by device. What a GPU's column leaves out is counts, arithmetic of the processor, and what takes longest."""

COLUMNS = {"cpu": "CPU", "cuda": "GPU"}


INSTRUCTIONS = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}
"""Flags of a processor that the figures depend on."""


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """One model's figures; ``kernels`` of linear layers and ``attention``, as chosen at opening."""

    model: str
    parameters: int
    kernels: str
    figures: Sequence[Figure]
    attention: str = ""


def circumstances(device: str, seed: int, command: str) -> dict[str, object]:
    """What the numbers depend on; ``command`` makes them again."""
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2),
        "dtype": "bfloat16" if device == "cuda" else "float32, and bfloat16 where a name says so",
        "instructions": ", ".join(sorted(INSTRUCTIONS & set(processor_field("flags").split()))),
        "seed": seed,
        "candidates": CANDIDATES,
        "new_tokens": NEW_TOKENS,
        "versions": {
            "preftilt": preftilt.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def save(
    folder: Path, device: str, facts: dict[str, object], measured: Sequence[MeasuredModel]
) -> None:
    """Write ``DEVICE.json`` and ``DEVICE.md``; the other device's table, if there is one, then points to this one."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"circumstances": facts, "models": [asdict(model) for model in measured]}
    (folder / f"{device}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    there = [name for name in COLUMNS if (folder / f"{name}.json").is_file()]
    for name in there:
        table = markdown(name, *load(folder, name), others=there)
        (folder / f"{name}.md").write_text(table, encoding="utf-8")


def load(folder: Path, device: str) -> tuple[dict[str, object], list[MeasuredModel]]:
    """What ``DEVICE.json`` holds: the circumstances, and the figures of every model."""
    record = json.loads((folder / f"{device}.json").read_text(encoding="utf-8"))
    measured = [
        MeasuredModel(
            model["model"],
            model["parameters"],
            model.get("kernels", ""),
            [Figure(**figure) for figure in model["figures"]],
            model.get("attention", ""),
        )
        for model in record["models"]
    ]
    return record["circumstances"], measured


def markdown(
    device: str,
    facts: dict[str, object],
    measured: Sequence[MeasuredModel],
    others: Sequence[str] = (),
) -> str:
    """One table a model; medians, with the range of the values and how many there are.

    others: devices that have a table of their own.
    """
    lines = [
        f"# Speed on {facts['device']}",
        "",
        f"Made by `{facts['command']}`. Medians of n values, both sides of each measured right after each other. Of"
        f" plain forwards of candidates and of items one after another every {EVERY}th is timed and counted {EVERY}"
        " times. Peak memory is what is held above the loaded models.",
        "",
    ]
    told = {name: value for name, value in facts.items() if name != "command"}
    lines += [f"- {name}: {_plain(value)}" for name, value in told.items()]
    lines += [
        f"- {column} column: {'see its own table' if name in others else 'not measured'}"
        for name, column in COLUMNS.items()
        if name != device
    ]
    lines += [""]
    for model in measured:
        lines += [f"## {model.model} ({model.parameters / 1e6:.1f} M parameters)", ""]
        if model.kernels:
            lines += [f"Linear layers as measured at opening: {model.kernels}.", ""]
        if model.attention:
            lines += [f"Attention: {model.attention}.", ""]
        lines += [
            "| figure | aim | measured (min–max, n) | ours | other side | peak MiB, ours / other |"
        ]
        lines += ["|---|---|---|---|---|---|"]
        lines += [_row(figure) for figure in model.figures]
        lines += [""]
    return "\n".join(lines)


def _row(figure: Figure) -> str:
    if not figure.values:
        return f"| {TITLES[figure.name]} | {_aim(figure)} | not measured | – | – | – |"
    unit = " tokens" if figure.name == "tree" else " s"
    cells = [
        TITLES[figure.name],
        _aim(figure),
        f"**{statistics.median(figure.values):.2f}** ({_spread(figure.values)})",
        f"{statistics.median(figure.ours):.4g}{unit}",
        f"{statistics.median(figure.theirs):.4g}{unit}",
        " / ".join(
            "–" if peak is None else f"{peak:.0f}"
            for peak in (figure.peak_ours, figure.peak_theirs)
        ),
    ]
    return "| " + " | ".join(cells) + " |"


def _aim(figure: Figure) -> str:
    return "–" if figure.aim is None else f"≤ {figure.aim:g}"


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return "n 1"
    return f"{min(values):.2f}–{max(values):.2f}, n {len(values)}"


def _plain(value: object) -> str:
    return (
        ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    )


def processor() -> str:
    """What the machine calls its processor, and how many cores there are."""
    name = processor_field("model name")
    return f"{name}, {os.cpu_count()} cores" if name else platform.processor() or platform.machine()
