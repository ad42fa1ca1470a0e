"""The JSON Schemas (draft 2020-12) of what preftilt writes and reads.

Records are described by the files in ``preftilt/schema`` and, as far as they hold settings, by what these declare; rows
by the models that check them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from preftilt.declare import Declared, declarations
from preftilt.errors import BadInput
from preftilt.prompt import PromptSettings
from preftilt.records.rows import InputRow, ScoreRow
from preftilt.records.work import SCHEMAS
from preftilt.reward import Reward
from preftilt.rivals import METHODS
from preftilt.search import SEARCHES
from preftilt.types import Sampling

RECORDS = ("realigned", "scores", "text", "error", "influence")
ROWS = {"row": InputRow, "score-row": ScoreRow}


def schema_text(name: str) -> str:
    """The schema called ``name``, as JSON text."""
    if name == "scores":
        return json.dumps(_of_scores(json.loads(schema_text("realigned"))), indent=2) + "\n"
    if name in RECORDS:
        path = files("preftilt") / "schema" / f"{name}.schema.json"
        schema = json.loads(path.read_text(encoding="utf-8"))
        whole = _with_settings(schema) if name == "realigned" else schema
        return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    if name not in ROWS:
        raise BadInput(f"no schema {name!r}; there are {', '.join((*RECORDS, *ROWS))}")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:preftilt:{name}.schema.json",
    }
    return json.dumps(head | ROWS[name].model_json_schema(), indent=2) + "\n"


def _with_settings(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of records with the settings in it, as they are declared."""
    defs = schema["$defs"]
    for part in (Reward, PromptSettings, Sampling):
        properties = {setting.name: _of_setting(setting) for setting in declarations(part)}
        defs["settings"]["properties"] |= properties
    searches = {name: kind for name, kind in SEARCHES.items() if name != "auto"}
    defs["search"] = _of_kinds(searches) | {
        "description": "given: the responses were there, none was searched for."
    }
    defs["search"]["oneOf"].append(_of_kind("given", ()))
    defs["method"] = _of_kinds({name: type(method) for name, method in METHODS.items()}) | {
        "description": "What the answer was picked by; rear is the score itself. Absent in records of versions before"
        " there were methods, which is rear."
    }
    return schema


def _of_kinds(kinds: Mapping[str, type[Any]]) -> dict[str, Any]:
    own = {
        name: [setting for setting in declarations(kind) if setting.name != "name"]
        for name, kind in kinds.items()
    }
    return {"type": "object", "oneOf": [_of_kind(*named) for named in own.items()]}


def _of_kind(name: str, settings: Sequence[Declared]) -> dict[str, Any]:
    properties = {setting.name: _of_setting(setting) for setting in settings}
    return {
        "properties": {"name": {"const": name}, **properties},
        "required": ["name", *properties],
        "additionalProperties": False,
    }


def _of_setting(setting: Declared) -> dict[str, Any]:
    facts = setting.facts
    kind = {int: "integer", float: "number", bool: "boolean", str: "string"}[setting.kind]
    told = {
        "description": setting.words or None,
        "enum": [*setting.choices] or None,
        "minLength" if setting.kind is str else "minimum": facts.least,
        "exclusiveMinimum": facts.above,
        "exclusiveMaximum": facts.below,
        "maximum": facts.most,
    }
    types = {"type": [kind, "null"] if setting.optional else kind}
    return types | {key: value for key, value in told.items() if value is not None}


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
