"""JSON lines in and out: checked rows, and an output file that survives being killed."""

from preftilt.records.dates import Shown, check_dates, dated, shown_by, shown_in
from preftilt.records.journal import Journal, JournalEntry, Survey, error_record, survey
from preftilt.records.lines import (
    file_bytes,
    file_lines,
    json_line,
    lines_of,
    read_records,
    write_json,
    write_text,
)
from preftilt.records.method import MethodPatch, ignored_by_method, methods_with
from preftilt.records.parsing import parse_json
from preftilt.records.patch import (
    RENAMED,
    SearchPatch,
    SettingsPatch,
    complaints,
    ignored_by_search,
    search_of,
    searches_with,
)
from preftilt.records.rows import CheckedRow, InputRow, PromptRow, ScoreRow, iter_items, read_items
from preftilt.records.slim import RecordKind, record_kind, slim
from preftilt.records.work import CHECKED_FIRST, Work, check_items, realign_item, record_of

__all__ = [
    "CHECKED_FIRST",
    "RENAMED",
    "CheckedRow",
    "InputRow",
    "Journal",
    "JournalEntry",
    "MethodPatch",
    "PromptRow",
    "RecordKind",
    "ScoreRow",
    "SearchPatch",
    "SettingsPatch",
    "Shown",
    "Survey",
    "Work",
    "check_dates",
    "check_items",
    "complaints",
    "dated",
    "error_record",
    "file_bytes",
    "file_lines",
    "ignored_by_method",
    "ignored_by_search",
    "iter_items",
    "json_line",
    "lines_of",
    "methods_with",
    "parse_json",
    "read_items",
    "read_records",
    "realign_item",
    "record_kind",
    "record_of",
    "search_of",
    "searches_with",
    "shown_by",
    "shown_in",
    "slim",
    "survey",
    "write_json",
    "write_text",
]
