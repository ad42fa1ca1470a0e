"""The JSON Schemas (draft 2020-12) of what preftilt writes and reads.

Records are described by the files in ``preftilt/schema``; rows by the models that check them.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from preftilt.errors import BadInput
from preftilt.records.rows import InputRow, ScoreRow
from preftilt.records.slim import SCHEMAS

RECORDS = ("realigned", "scores", "text", "error", "influence")
ROWS = {"row": InputRow, "score-row": ScoreRow}


def schema_text(name: str) -> str:
    """The schema called ``name``, as JSON text."""
    if name == "scores":
        return json.dumps(_of_scores(json.loads(schema_text("realigned"))), indent=2) + "\n"
    if name in RECORDS:
        path = files("preftilt") / "schema" / f"{name}.schema.json"
        return path.read_text(encoding="utf-8")
    if name not in ROWS:
        raise BadInput(f"no schema {name!r}; there are {', '.join((*RECORDS, *ROWS))}")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:preftilt:{name}.schema.json",
    }
    return json.dumps(head | ROWS[name].model_json_schema(), indent=2) + "\n"


def _of_scores(whole: dict[str, Any]) -> dict[str, Any]:
    """The schema of records without tokens and log-probs, from that of whole ones."""
    whole |= {
        "$id": "urn:preftilt:scores.schema.json",
        "title": "A record of `preftilt run --records scores`: candidates with their scores, without their tokens",
        "required": [name for name in whole["required"] if name != "prompts"],
    }
    whole["properties"]["schema"] = {"const": SCHEMAS["scores"]}
    del whole["properties"]["prompts"]
    candidate = whole["$defs"]["candidate"]
    for name in ("tokens", "logprobs"):
        del candidate["properties"][name]
        candidate["required"].remove(name)
    candidate["properties"]["length"] = {"type": "integer", "minimum": 1, "description": "Tokens."}
    candidate["required"].append("length")
    return whole
