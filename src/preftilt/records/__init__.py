"""JSON lines in and out: checked rows, and an output file that survives being killed."""

from preftilt.records.journal import Journal, Survey, error_record, survey
from preftilt.records.parsing import parse_json
from preftilt.records.patch import (
    SEARCHES,
    SearchPatch,
    SettingsPatch,
    complaints,
    idle,
    takers,
)
from preftilt.records.rows import Item, Row, ScoreRow, read_items

__all__ = [
    "SEARCHES",
    "Item",
    "Journal",
    "Row",
    "ScoreRow",
    "SearchPatch",
    "SettingsPatch",
    "Survey",
    "complaints",
    "error_record",
    "idle",
    "parse_json",
    "read_items",
    "survey",
    "takers",
]
