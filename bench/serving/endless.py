"""The bundled model as one whose responses never end, so that every side draws equally many tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from preftilt.engines.models import demo_folder

END, NEVER = "<|end|>", "<|pad|>"
"""The token that ends a response, and one that is never drawn because the model has never seen it."""


def write_endless(folder: Path) -> Path:
    """Write it into ``folder``: the same weights, with another token named as the end."""
    source = Path(demo_folder())
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(source / name, folder / name)
    never = json.loads((source / "config.json").read_text(encoding="utf-8"))["pad_token_id"]
    for name, end in (
        ("config.json", ("eos_token_id", never)),
        ("generation_config.json", ("eos_token_id", never)),
        ("tokenizer_config.json", ("eos_token", NEVER)),
    ):
        told = json.loads((source / name).read_text(encoding="utf-8")) | dict([end])
        (folder / name).write_text(json.dumps(told), encoding="utf-8")
    template = (source / "chat_template.jinja").read_text(encoding="utf-8")
    # A special token right behind an answer is taken for its end; a full stop between them makes it none.
    marked = template.replace(f"'{END}'", f"'.{END}'")
    (folder / "chat_template.jinja").write_text(marked, encoding="utf-8")
    return folder
