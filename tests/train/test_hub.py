"""Data sets by id: read by the library ``datasets``, here from a local folder of that name."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftilt.errors import BadInput
from preftilt.train.pairs import hub_rows
from tests.train.conftest import rows, write


@pytest.fixture(autouse=True)
def _local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, a cache of its own, no progress bars."""
    import datasets

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)


def test_rows_of_a_split_come_with_their_places(tmp_path):
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    write(folder / "train.jsonl", rows()[:2])
    write(folder / "test.jsonl", rows()[2:3])
    read = list(hub_rows("org/name"))
    assert [where for _, where in read] == ["org/name, row 1", "org/name, row 2"]
    assert [row for row, _ in read] == rows()[:2]
    assert [row for row, _ in hub_rows("org/name:test")] == rows()[2:3]


def test_a_data_set_that_is_nowhere_is_refused():
    with pytest.raises(BadInput, match="the hub does not give out such a data set"):
        list(hub_rows("nowhere/at-all"))
