"""The JSON Schemas (draft 2020-12) of what preftilt writes and reads.

Records are described by the files in ``preftilt/schema``; rows by the models that check them.
"""

from __future__ import annotations

import json
from importlib.resources import files

from preftilt.errors import BadInput
from preftilt.records.rows import Row, ScoreRow

RECORDS = ("realigned", "error")
ROWS = {"row": Row, "score-row": ScoreRow}


def schema_text(name: str) -> str:
    """The schema called ``name``, as JSON text."""
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
