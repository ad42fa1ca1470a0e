"""MMHal-Bench: rows, pictures, ratings, and what is wrong with a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from preftilt.errors import BadInput
from preftilt.eval.benchmarks.mmhal import (
    FOLDER,
    check_wish,
    load_items,
    load_pictures,
    method_protocol,
    rate,
    read_rating,
    request_for,
    rules_for,
)
from preftilt.eval.harness.benchmark import choose_method, read_request
from tests.eval.mmhal_files import rows, write_pictures, write_rows


@pytest.fixture
def data(tmp_path: Path) -> str:
    write_pictures(tmp_path)
    return write_rows(tmp_path, rows())


def test_every_item_has_its_picture(data: str) -> None:
    items = load_items(data)
    pictures = load_pictures(data, items, fetch=False)
    assert [one.id for one in items[:2]] == ["id0", "id1"]
    assert items[9].type == "adversarial"
    assert pictures["id3"].url.endswith("/images/id3.png")
    assert len({one.digest for one in pictures.values()}) == 96


def test_a_picture_may_have_the_name_of_its_source(data: str) -> None:
    images = Path(data, FOLDER, "images")
    (images / "id3.png").rename(images / "3_o.png")
    assert load_pictures(data, load_items(data), fetch=False)["id3"].url.endswith("/3_o.png")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("question_type", "colour", r"row 5: field \"question_type\" is 'colour', none of"),
        ("gt_answer", " ", r"row 5: field \"gt_answer\" is empty"),
        ("image_content", "Tree", r"row 5: field \"image_content\" must be a list"),
        ("image_id", "id4", "has the image_id 'id4' twice"),
    ],
)
def test_a_file_of_another_version_is_named_by_row_and_field(
    field: str, value: object, message: str, tmp_path: Path
) -> None:
    found = rows()
    found[5][field] = value
    with pytest.raises(BadInput, match=message):
        load_items(write_rows(tmp_path, found))


def test_missing_rows_and_pictures_are_counted(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has 95 rows, not 96"):
        load_items(write_rows(tmp_path, rows()[:-1]))
    write_pictures(tmp_path, count=90)
    data = write_rows(tmp_path, rows())
    with pytest.raises(BadInput, match=r"6 of 96 pictures are not in .* \(as id90\.jpg\).*fetch="):
        load_pictures(data, load_items(data), fetch=False)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_missing_pictures_are_fetched_once(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    images, source = tmp_path / FOLDER / "images", tmp_path / "pictures"
    source.mkdir()
    for number in (7, 8):
        (images / f"id{number}.png").rename(source / f"{number}_o.png")
    with served(tmp_path) as address:
        data = write_rows(tmp_path, rows(address))
        items = load_items(data)
        pictures = load_pictures(data, items, fetch=True)
    assert pictures["id7"].url.endswith("/images/id7.png")
    assert load_pictures(data, items, fetch=True) == pictures


def test_a_picture_that_cannot_be_fetched_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, count=95)
    with served(tmp_path) as address:
        data = write_rows(tmp_path, rows(address))
        with pytest.raises(BadInput, match=r"95_o\.png cannot be fetched .*as id95\.jpg"):
            load_pictures(data, load_items(data), fetch=True)
    data = write_rows(tmp_path, rows("ftp://example.org"))
    with pytest.raises(BadInput, match="is no web address"):
        load_pictures(data, load_items(data), fetch=True)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("It fits. Rating: 4", 4),
        ("rating: 0.", 0),
        ("**Rating:** 6, as nothing is made up", 6),
        ("Rating: 5/6", 5),
        ("Rating: 4\nRating: 4", 4),
        ("Rating: 7", None),
        ("Rating: 3.5", None),
        ("Rating: 2, or rather Rating: 4", None),
        ("I rate it 4", None),
        ("", None),
    ],
)
def test_a_rating_is_one_whole_number_from_0_to_6(text: str, rating: int | None) -> None:
    assert read_rating(text) == rating


def test_a_rating_below_3_is_made_up() -> None:
    assert [rate(i)["hallucinated"] for i in range(7)] == [1.0] * 3 + [0.0] * 4
    assert (rate(3)["score"], rate(6)["rating"]) == (0.5, 6.0)
    assert set(rate(None).values()) == {None}


def test_presets_differ_where_paper_code_and_benchmark_do(data: str) -> None:
    [item, *_] = items = load_items(data)
    picture = load_pictures(data, items, fetch=False)[item.id]
    requests = {
        preset: request_for(item, picture, rules_for(preset, None))
        for preset in ("rear-paper", "rear-official", "mmhal")
    }
    drawn_from = {name: one.conversation() for name, one in requests.items()}
    assert [one.role for one in drawn_from["rear-paper"]] == ["system", "user"]
    assert [one.role for one in drawn_from["rear-official"]] == ["user"]
    assert drawn_from["mmhal"] == drawn_from["rear-official"]
    assert requests["mmhal"].plain
    assert not requests["rear-official"].plain
    for one in requests.values():
        assert one.messages[-1].images == (picture,)
        assert read_request(one.to_json()) == one
    assert method_protocol(rules_for("mmhal", None)).search == "greedy"


def test_a_method_without_a_preference_is_refused() -> None:
    rules = rules_for("mmhal", None)
    check_wish(rules, choose_method(method_protocol(rules)))
    with pytest.raises(BadInput, match="lambda would do nothing"):
        check_wish(rules, choose_method(method_protocol(rules), lam=3.0))
    own = rules_for("mmhal", {"preference": "Be short."})
    check_wish(own, choose_method(method_protocol(own), lam=3.0, search="best-of-n"))
    with pytest.raises(BadInput, match="preference is empty"):
        rules_for("mmhal", {"preference": " "})
