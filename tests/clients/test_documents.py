"""The examples of the pages for LiteLLM and LangChain, run as they stand but for address and model."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preftilt.server.wire import Knob
from tests.clients.asking import ALONE, HERE, PYTHON, REMEDY
from tests.server.serving import Running, ask, serving

pytestmark = pytest.mark.clients

PAGES = HERE.parents[1] / "docs" / "how-to"
BLOCK = re.compile(r"^```(?P<kind>py|yaml)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
CALM = {"preference": "I like it calm.", "lambda": 3}
QUESTION = "How can I enjoy studying maths?"


@pytest.fixture(scope="module")
def calm() -> Iterator[Running]:
    """The server that the pages start, over the toy engine."""
    with serving(presets={"calm": Knob.model_validate(CALM)}, seeded=True) as running:
        yield running


def run(page: str, server: Running, folder: Path) -> list[str]:
    """What every example of a page prints, in order; its configuration lies beside them."""
    text = (PAGES / f"{page}.md").read_text("utf-8")
    text = text.replace("http://127.0.0.1:8100", server.url)
    text = re.sub(r"\bdemo(?=[\":\n])", "toy", text)
    blocks = [match.groupdict() for match in BLOCK.finditer(text)]
    for block in blocks:
        if block["kind"] == "yaml":
            (folder / "config.yaml").write_text(block["code"], "utf-8")
    programs = [block["code"] for block in blocks if block["kind"] == "py"]
    assert PYTHON.exists(), f"no {page} ({PYTHON}): {REMEDY}"
    done = subprocess.run(
        [str(PYTHON), str(HERE / "run_examples.py"), json.dumps(programs)],
        env=os.environ | ALONE,
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def said(server: Running, question: str = QUESTION, **changes: Any) -> str:
    """The answer to a request in plain HTTP."""
    reply = ask(server, **{"messages": [{"role": "user", "content": question}], **changes}).json()
    return reply["choices"][0]["message"]["content"]


def knob(preference: str, strength: float) -> dict[str, Any]:
    return {"preftilt": {"preference": preference, "lambda": strength}}


def test_the_page_for_litellm_says_what_is(calm: Running, tmp_path: Path):
    first, cost, named, routed, refused = run("litellm", calm, tmp_path)
    guided = said(calm, **knob("I dislike gamification.", 3))
    assert first == f"{guided}\n{guided}"
    candidates, drawn = cost.split()
    assert int(candidates) == 8 < int(drawn)
    assert named == routed == said(calm, model="toy:calm", preftilt=None) + "\n"
    assert "lambda" in refused


def test_the_page_for_langchain_says_what_is(calm: Running, tmp_path: Path):
    first, users, many, cost, refused = run("langchain", calm, tmp_path)
    guided = said(calm, **knob("I dislike gamification.", 3))
    assert first == f"{guided}\n{guided}"
    wanted = [
        said(calm, temperature=0, **knob(preference, strength))
        for preference, strength in (("I dislike gamification.", 3), ("I like it calm.", 2))
    ]
    assert users == "".join(f"{text}\n" for text in wanted)
    wanted = [
        said(calm, question, model="toy:calm", preftilt=None)
        for question in ("How can I enjoy maths?", "What should I cook?")
    ]
    assert many == "".join(f"{text}\n" for text in wanted)
    drawn, candidates = cost.split()
    assert int(candidates) == 8 < int(drawn)
    assert "response_format" in refused
