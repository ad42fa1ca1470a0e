"""The page in headless Chromium, over a real server. ``make test-servers`` runs these."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from preftilt.path import PathSegment, upper_envelope, winner
from preftilt.reward import ScoreLine
from preftilt.server.app import PAGE
from preftilt.testing.toy import ToyEngine, ToyTokenizer
from tests.page.conftest import Visit
from tests.server.odd import Odd
from tests.server.serving import Running, serving

pytestmark = pytest.mark.browser

SEED = "2"

WIDTHS = "all => all.map((one) => one.getBoundingClientRect().width)"


@dataclass(frozen=True, slots=True)
class Asked:
    """The record of the request that the page made, asked for once more."""

    record: dict[str, Any]
    path: tuple[PathSegment, ...] = field(default_factory=tuple)


def asked(visit: Visit, server: Running) -> Asked:
    [post] = [
        one.post_data_json
        for one in visit.requests
        if one.method == "POST"
        and one.post_data_json["preftilt"]["search"]["name"] in ("best-of-n", "dvts")
    ]
    with server.http as http:
        said = http.post("/v1/chat/completions", json=post | {"stream": False})
    record = said.json()["preftilt"]
    ended = [one for one in record["candidates"] if one["finish"] != "length"]
    lines = [
        ScoreLine(candidate["question_logprob"], candidate["preference_gain"])
        for candidate in ended
    ]
    return Asked(record, upper_envelope(lines))


def asked_for(visit: Visit, since: int) -> list[str]:
    """What was asked of the server; the browser looks at the icon again whenever the address changes."""
    urls = [one.url for one in visit.requests[since:]]
    return [one for one in urls if not one.endswith("/icon.svg")]


def draw(visit: Visit, seed: str = SEED) -> None:
    visit.page.click("summary")
    visit.page.fill("#seed", seed)
    visit.draw()


def set_lambda(visit: Visit, lam: float) -> None:
    visit.page.fill("#lambda-number", str(lam))


def chosen(visit: Visit) -> str:
    return visit.page.text_content("#chosen")


def test_moving_lambda_changes_the_answer_at_once_and_asks_nothing(
    visit: Visit, server: Running
) -> None:
    draw(visit)
    known = asked(visit, server)
    candidates = known.record["candidates"]
    assert len(known.path) > 2
    before = len(visit.requests)
    seen = []
    for one in known.path:
        lam = (one.start + min(one.stop, one.start + 10)) / 2
        set_lambda(visit, lam)
        seen.append(chosen(visit))
        assert seen[-1] == candidates[winner(known.path, lam)]["text"]
    assert len(set(seen)) == len(known.path)
    slider = visit.page.locator("#lambda")
    slider.focus()
    visit.page.keyboard.press("Home")
    for _ in range(10):
        visit.page.keyboard.press("PageUp")
        lam = float(slider.get_attribute("aria-valuetext").removeprefix("λ "))
        assert chosen(visit) == candidates[winner(known.path, lam)]["text"]
    assert slider.get_attribute("aria-valuetext") == "λ 100"
    assert asked_for(visit, before) == []


def test_the_envelope_on_show_is_the_package_s(visit: Visit, server: Running) -> None:
    draw(visit)
    known = asked(visit, server)
    expected = {
        known.record["candidates"][one.candidate]["slot"]: round(one.start, 6) for one in known.path
    }
    labels = visit.page.locator(".point").evaluate_all(
        "all => all.map(one => [Number(one.dataset.slot), one.getAttribute('aria-label')])"
    )
    held = {slot: label for slot, label in labels if "best for λ from" in label}
    assert held.keys() == expected.keys()
    for slot, label in held.items():
        start = float(label.partition("from ")[2].partition(" to")[0])
        assert start == pytest.approx(expected[slot], rel=6e-3)
    corners = visit.page.get_attribute("#plane polyline.envelope", "points").split()
    assert len(corners) == len(known.path)
    assert len(labels) == len({tuple(one["tokens"]) for one in known.record["candidates"]})


def test_several_preferences_move_together_or_alone(visit: Visit, server: Running) -> None:
    visit.page.click("#add")
    visit.page.keyboard.type("Sleep.")
    draw(visit)
    known = asked(visit, server)
    before = len(visit.requests)
    each = visit.page.locator("#each input")
    assert each.count() == 2
    each.nth(1).fill("0")
    assert visit.page.locator("#preferences input").nth(1).input_value() == "0"
    best = max(
        (one for one in known.record["candidates"] if one["finish"] != "length"),
        key=lambda one: total(one, [3, 0]),
    )
    assert chosen(visit) == best["text"]
    visit.page.locator("#preferences input").nth(1).fill("-6")
    set_lambda(visit, -3)
    assert visit.page.locator("#preferences input").nth(0).input_value() == "1.5"
    best = max(
        (one for one in known.record["candidates"] if one["finish"] != "length"),
        key=lambda one: total(one, [1.5, -3]),
    )
    assert chosen(visit) == best["text"]
    assert asked_for(visit, before) == []


def total(candidate: dict[str, Any], strengths: list[float]) -> float:
    """S by the paper's formula, from the record's log-probs."""
    question, *views = map(sum, candidate["logprobs"].values())
    return question + sum(s * (p - question) for s, p in zip(strengths, views, strict=True))


def test_the_reduction_changes_without_a_request(visit: Visit, server: Running) -> None:
    draw(visit)
    known = asked(visit, server)
    before = len(visit.requests)
    visit.page.select_option("#reduction", "mean")
    best = max(
        (one for one in known.record["candidates"] if one["finish"] != "length"),
        key=lambda one: total(one, [3]) / len(one["tokens"]),
    )
    assert chosen(visit) == best["text"]
    assert "nats a token" in visit.page.text_content("#plane")
    assert visit.page.is_hidden("#stale")
    assert asked_for(visit, before) == []


def test_a_tree_search_draws_too_and_says_what_moving_means(visit: Visit) -> None:
    visit.page.click("summary")
    visit.page.select_option("#search", "dvts")
    visit.draw()
    assert visit.page.is_visible("#tree-note")
    assert 1 <= visit.page.locator("#rows tr").count() <= 4


def test_an_answer_of_html_is_shown_as_text(chromium: Any) -> None:
    words = (
        "<end>",
        "\n",
        "maths",
        "<img src=x onerror=document.title='broken'>",
        "<script>document.title='broken'</script>",
    )
    words = (*words, "<b>", "read", "<style>body{display:none}</style>", ".", " ", "not", "&lt;")
    engine = ToyEngine(tokenizer=ToyTokenizer(words))
    with serving(engine, page=PAGE) as server:
        visit = Visit(chromium.new_page())
        visit.page.on("request", lambda one: visit.requests.append(one))
        visit.page.goto(server.url)
        visit.draw()
        everything = visit.page.text_content("#rows")
        assert "<img src=x" in everything
        assert "<script>" in everything
        assert "&lt;" in everything
        for place in ("#found img", "#found script", "#found style", "#found b"):
            assert visit.page.locator(place).count() == 0
        assert visit.page.title() == "preftilt"
        assert not any(urlsplit(one.url).path == "/x" for one in visit.requests)
        visit.page.close()


def test_a_link_reproduces_the_form_and_the_answers(visit: Visit, server: Running) -> None:
    visit.page.fill("#question", "What to read & <why>?")
    visit.page.click("#add")
    visit.page.keyboard.type("No #games, 100 %.")
    visit.page.locator("#preferences input").nth(1).fill("-2.5")
    draw(visit, "9")
    set_lambda(visit, 4)
    first = chosen(visit)
    visit.page.wait_for_url("**lambda=4&**seed=9**")
    other = visit.page.context.new_page()
    again = Visit(other)
    other.goto(visit.page.url)
    assert other.input_value("#question") == "What to read & <why>?"
    assert other.locator("#preferences textarea").nth(1).input_value() == "No #games, 100 %."
    assert other.locator("#preferences input").nth(1).input_value() == "-3.33333"
    assert other.is_visible("#empty")
    again.draw()
    assert other.text_content("#chosen") == first


def test_the_key_is_asked_for_and_stays_in_memory(chromium: Any) -> None:
    with serving(page=PAGE, key="s3cret-key") as server:
        page = chromium.new_page()
        page.goto(server.url)
        page.get_by_text("This server asks for a key.").wait_for()
        page.fill("#key", "wrong")
        page.click("#draw")
        page.get_by_text("The API key is missing or wrong").wait_for()
        page.fill("#key", "s3cret-key")
        Visit(page).draw()
        page.wait_for_url("**question=**")
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
        for place in (page.url, kept, page.text_content("#curl"), page.text_content("#python")):
            assert "s3cret-key" not in place
        assert "$PREFTILT_KEY" in page.text_content("#curl")
        page.close()


def test_the_keyboard_reaches_everything_in_order(visit: Visit) -> None:
    page = visit.page
    focused = "document.activeElement.id || document.activeElement.className"
    seen = []
    for _ in range(7):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
    assert seen[:4] == ["skip", "question", "text", ""]
    assert seen[4:] == ["add", "", "draw"]
    page.keyboard.press("Enter")
    page.get_by_text("Done:").wait_for()
    page.focus("#lambda")
    seen = []
    for _ in range(4):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
    assert seen[:3] == ["chosen-show", "guided-show", "alone-show"]
    assert page.evaluate("document.activeElement.getAttribute('role')") == "button"
    first = page.text_content("#why-title")
    page.keyboard.press("ArrowRight")
    second = page.text_content("#why-title")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert second != first
    assert label.startswith(second.partition(",")[0])
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.text_content("#why-title") == second
    assert page.evaluate("document.activeElement.getAttribute('role')") == "option"
    page.keyboard.press("ArrowRight")
    assert "gain" in page.text_content("#token-told")


def open_drawer(visit: Visit, place: int) -> None:
    visit.page.locator("#tokens .token").nth(place).click()
    visit.page.locator("#drawer tbody tr").first.wait_for()


def shown_tokens(visit: Visit) -> list[str]:
    return visit.page.locator("#tokens .token").all_text_contents()


def test_by_keyboard_an_answer_goes_on_from_another_token(visit: Visit, server: Running) -> None:
    draw(visit)
    page, before = visit.page, shown_tokens(visit)
    drawn = page.locator("#rows tr").count()
    page.focus("#tokens [tabindex='0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator("#drawer tbody tr").first.wait_for()
    page.keyboard.press("Escape")
    assert page.is_hidden("#drawer")
    assert page.evaluate("document.activeElement.textContent") == before[1]
    page.keyboard.press("Enter")
    page.locator("#drawer tbody button:focus").wait_for()
    page.keyboard.press("ArrowDown")
    chosen = page.evaluate("document.activeElement.textContent").strip("“”")
    page.keyboard.press("Enter")
    page.get_by_text(f"from “{chosen}” on.", exact=False).first.wait_for()
    after = shown_tokens(visit)
    assert after[0] == before[0]
    assert after[1].strip() == chosen
    assert page.evaluate("document.activeElement.className").endswith("forked")
    assert page.evaluate("document.activeElement.textContent") == after[1]
    assert page.is_hidden("#drawer")
    assert page.locator("#rows tr").count() == drawn + 1
    assert "sampled from token 2 of candidate" in page.text_content("#why-score")
    assert f"Candidate {drawn_slots(visit)[-1]}" in page.text_content("#why-title")
    [post] = [
        request.post_data_json
        for request in visit.requests
        if request.method == "POST"
        and "prefix" in request.post_data_json["preftilt"]
        and "count" not in request.post_data_json
    ]
    assert post["preftilt"]["search"] == {"name": "sample"}
    assert len(post["preftilt"]["prefix"]) == 2


def drawn_slots(visit: Visit) -> list[int]:
    """The numbers of the candidates in the table."""
    return sorted(int(text) for text in visit.page.locator("#rows button").all_text_contents())


def test_a_token_s_drawer_has_both_views_and_their_mixture(visit: Visit, server: Running) -> None:
    draw(visit)
    known = asked(visit, server)
    best = known.record["candidates"][0]
    open_drawer(visit, 0)
    rows = visit.page.locator("#drawer tbody tr")
    stands = rows.filter(has_text="stands here").locator("td").all_text_contents()
    chances = [float(text.rstrip(" %")) / 100 for text in stands]
    exact = [math.exp(row[0]) for row in best["logprobs"].values()]
    assert chances[:2] == pytest.approx(exact, rel=0.05)
    assert visit.page.locator("#drawer thead th").all_text_contents()[1:] == [
        "Without",
        "With",
        "Mixed, λ = 3",
    ]
    set_lambda(visit, 1)
    visit.page.get_by_text("Mixed, λ = 1").wait_for()
    columns = rows.locator("td").all_text_contents()
    assert columns[1::3] == columns[2::3]
    visit.page.check("#drawer-nats")
    stands = rows.filter(has_text="stands here").locator("td").all_text_contents()
    assert float(stands[0].replace("−", "-")) == pytest.approx(math.log(exact[0]), abs=0.01)


def test_three_answers_stand_side_by_side_each_with_its_cost(visit: Visit) -> None:
    draw(visit)
    page = visit.page
    for card in ("chosen", "guided", "alone"):
        words = page.text_content(f"#{card}-cost")
        assert words.startswith("Score ")
        assert "sampled" in words
    assert page.is_hidden("#guided-again")
    set_lambda(visit, 30)
    page.click("#guided-again")
    page.get_by_text("λ = 30 at every token").wait_for()
    assert page.is_hidden("#guided-again")
    page.click("#guided-show")
    assert page.text_content("#why-title").startswith("The guided answer")
    assert page.get_attribute("#guided-show", "aria-pressed") == "true"
    open_drawer(visit, 0)
    page.locator("#drawer tbody button").first.click()
    page.get_by_text("guided from token 1 of the guided answer on").wait_for()
    searches = [
        request.post_data_json["preftilt"]
        for request in visit.requests
        if request.method == "POST" and "count" not in request.post_data_json
    ]
    assert searches[-1]["search"] == {"name": "cfg", "greedy": True}
    assert searches[-1]["lambda"] == 30


def test_the_sentences_that_carry_an_answer_are_told_when_asked(visit: Visit) -> None:
    visit.page.locator("#preferences textarea").fill("I dislike games. I like music.")
    draw(visit)
    assert visit.page.locator("#carries li").count() == 0
    visit.page.click("#carries-ask")
    visit.page.locator("#carries li").first.wait_for()
    told = visit.page.locator("#carries li").all_text_contents()
    assert len(told) == 2
    assert "I dislike games." in told[0]
    assert "nats" in told[1]


def test_an_engine_that_can_only_sample_and_score_says_what_is_missing(chromium: Any) -> None:
    with serving(Odd(), page=PAGE) as running:
        visit = Visit(chromium.new_page())
        visit.page.on("console", lambda said: visit.complaints.append(said.text))
        visit.page.goto(running.url)
        visit.page.click("#draw")
        visit.page.get_by_text("Done:").wait_for()
        assert "cannot choose token by token" in visit.page.text_content("#guided-about")
        assert visit.page.is_hidden("#guided-show")
        visit.page.locator("#tokens .token").first.click()
        visit.page.get_by_text("does not tell its likeliest next tokens").wait_for()
        assert visit.complaints == []
        visit.page.close()


def test_refusals_are_told_in_words_and_leave_the_last_answers(visit: Visit) -> None:
    draw(visit)
    before = chosen(visit)
    visit.page.fill("#n", "1000")
    visit.page.click("#draw")
    alert = visit.page.get_by_role("alert")
    alert.get_by_text("this server draws 64 a request at most").wait_for()
    assert chosen(visit) == before
    assert visit.page.is_visible("#stale")
    visit.page.fill("#n", "")
    visit.page.click("#draw")
    alert.get_by_text("give a whole number").wait_for()
    assert visit.page.evaluate("document.activeElement.id") == "n"
    # The browser itself logs a refused request; the page does not.
    assert [one for one in visit.complaints if "status of 400" not in one] == []
    visit.complaints.clear()


def test_the_chosen_answer_is_announced_and_fields_have_names(visit: Visit) -> None:
    draw(visit)
    live = visit.page.locator("[aria-live=polite]")
    assert live.locator("#chosen").count() == 1
    fields = "input:visible, select:visible, textarea:visible, button:visible, [role=button], [role=option]"
    for field_ in visit.page.locator(fields).all():
        name = field_.evaluate(
            "one => one.getAttribute('aria-label') || one.labels?.[0]?.textContent || one.textContent"
        )
        assert name.strip()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_schemes(chromium: Any, server: Running, scheme: str) -> None:
    context = chromium.new_context(
        viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True
    )
    visit = Visit(context.new_page())
    visit.page.goto(server.url)
    visit.page.click("#add")
    visit.page.locator("#preferences textarea").last.fill("I have no money to spend on anything.")
    visit.draw()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 360
    widths = visit.page.eval_on_selector_all("#found input[type=range]", WIDTHS)
    assert len(widths) == 3
    assert min(widths) > 180
    open_drawer(visit, 0)
    visit.page.click("#carries-ask")
    visit.page.locator("#carries li").first.wait_for()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 360
    box = visit.page.locator("#drawer").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    bright = sum(json.loads(f"[{paper[4:-1]}]")) > 380
    assert bright is (scheme == "light")
    context.close()


def test_the_address_never_holds_more_than_the_state(visit: Visit) -> None:
    draw(visit)
    visit.page.wait_for_url("**seed=2**")
    told = parse_qs(urlsplit(visit.page.url).fragment)
    assert told.keys() == {
        "question",
        "preference",
        "lambda",
        "search",
        "n",
        "seed",
        "top_p",
        "reduction",
        "cut_off",
        "model",
    }
