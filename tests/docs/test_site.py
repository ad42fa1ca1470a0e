"""What the site's pages promise to list is there; `make docs` checks links, anchors and the navigation."""

from __future__ import annotations

import re
from pathlib import Path

import preftilt
from preftilt import errors

DOCS = Path(__file__).parents[2] / "docs"


def test_every_public_name_is_on_the_python_page():
    page = (DOCS / "reference" / "python.md").read_text("utf-8")
    shown = set(re.findall(r"^::: preftilt\.(\w+)$", page, re.MULTILINE))
    [listed] = re.findall(r"members: \[(PreftiltError.*)\]", page)
    modules = {"errors", "example"}  # Of which the page shows members.
    assert shown - modules | {"PreftiltError", "__version__"} == {*preftilt.__all__}
    assert set(listed.split(", ")) == {
        name for name, value in vars(errors).items() if isinstance(value, type)
    }
