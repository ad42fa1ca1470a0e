"""preftilt as vLLM finds it where it is installed: a folder with the entry points that pyproject.toml names."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def installed(folder: Path) -> Path:
    """``folder`` with the metadata of a preftilt that is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    metadata = folder / f"preftilt-{project['version']}.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    lines = ["Metadata-Version: 2.1", "Name: preftilt", f"Version: {project['version']}", ""]
    (metadata / "METADATA").write_text("\n".join(lines), "utf-8")
    groups = {
        group: entries
        for group, entries in project["entry-points"].items()
        if group.startswith("vllm.")
    }
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder
