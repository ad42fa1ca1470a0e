"""MMHal-Bench's rows and pictures (LLaVA-RLHF; the data set's card says Apache-2.0).

The rows are one file, ``response_template.json``; the pictures lie beside it in ``images/``, each named by its row's
``image_id`` or as in ``image_src``, from where they can be fetched. Nothing of it is in this package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from preftilt.errors import BadInput
from preftilt.eval.harness.rows import HUB, DataRow, check_count, data_folder, json_rows
from preftilt.images import Image, load_image

FOLDER = "mmhal_bench"
FILE = "response_template.json"
ROWS = 96
TYPES = (
    "attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other",
)  # fmt: skip
FETCH_SECONDS = 60.0
"""How long a picture's server may keep silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MMHalItem:
    """One row: a question about the picture, what is in the picture, and a right answer."""

    id: str
    type: str
    topic: str
    source: str
    content: tuple[str, ...]
    question: str
    reference: str


def load_items(data: str) -> tuple[MMHalItem, ...]:
    """All items in file order; ``data`` is a folder."""
    rows = json_rows(_folder(data) / FILE)
    check_count(rows, FILE, ROWS)
    items = tuple(map(_item, rows))
    twice = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise BadInput(f"{FILE} has the image_id {twice[0]!r} twice; it is of another version")
    return items


def load_pictures(data: str, items: Sequence[MMHalItem], *, fetch: bool) -> dict[str, Image]:
    """The picture of every item, by the item's id.

    fetch: get those that are missing from their ``image_src``, once and for good. Raises
    :class:`~preftilt.errors.BadInput` if one is not there or cannot be had.
    """
    folder = _folder(data) / "images"
    missing = [item for item in items if _file(folder, item) is None]
    if missing and not fetch:
        raise BadInput(
            f"{len(missing)} of {len(items)} pictures are not in {folder} (as {missing[0].id}.jpg); put them there, or"
            " let them be fetched from the addresses in image_src (inspect eval preftilt/mmhal -T fetch=true, 170 MB)"
        )
    for item in missing:
        _fetch(folder, item)
    return {item.id: _picture(folder, item) for item in items}


def _folder(data: str) -> Path:
    if data.startswith(HUB):
        raise BadInput(
            f"the hub has MMHal-Bench as an archive; unpack it and give its folder, with {FILE} and images/"
            " (-T data=FOLDER)"
        )
    return data_folder(data, FOLDER)


def _item(row: DataRow) -> MMHalItem:
    kind = row.text("question_type")
    if kind not in TYPES:
        raise row.wrong("question_type", f"is {kind!r}, none of {', '.join(TYPES)}")
    return MMHalItem(
        id=row.text("image_id"),
        type=kind,
        topic=row.text("question_topic"),
        source=row.text("image_src"),
        content=row.texts("image_content"),
        question=row.text("question"),
        reference=row.text("gt_answer"),
    )


def _file(folder: Path, item: MMHalItem) -> Path | None:
    """The item's picture, by its id with any ending or by the name that its source has."""
    named = folder / Path(urlsplit(item.source).path).name
    files = [*sorted(folder.glob(f"{item.id}.*")), *([named] if named.is_file() else [])]
    return files[0] if files else None


def _picture(folder: Path, item: MMHalItem) -> Image:
    file = _file(folder, item)
    assert file is not None
    return load_image(str(file), where=f"the picture of {item.id} ({file.name})")


def _fetch(folder: Path, item: MMHalItem) -> None:
    address = item.source
    if urlsplit(address).scheme not in ("http", "https"):
        raise BadInput(f"{FILE}, {item.id}: image_src {address!r} is no web address")
    try:
        with urlopen(address, timeout=FETCH_SECONDS) as answer:
            raw = answer.read()
    except (URLError, OSError) as error:
        raise BadInput(
            f"{address} cannot be fetched ({error}); put the picture into {folder} as {item.id}.jpg"
        ) from error
    folder.mkdir(exist_ok=True)
    part = folder / f".{item.id}.part"
    part.write_bytes(raw)
    part.rename(folder / f"{item.id}{Path(urlsplit(address).path).suffix or '.jpg'}")
