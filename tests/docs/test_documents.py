"""What the documents say is true: their code runs, their links lead somewhere, their numbers were measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
MEASURED_ROW = re.compile(r"^\|.*\d.*\|$", re.MULTILINE)


def examples() -> list[tuple[str, str]]:
    return [
        (f"{path.relative_to(ROOT)}:{number}", code)
        for path in DOCUMENTS
        for number, code in enumerate(PYTHON.findall(path.read_text("utf-8")), start=1)
    ]


@pytest.mark.model
@pytest.mark.parametrize(("place", "code"), examples(), ids=[place for place, _ in examples()])
def test_the_documents_python_runs(place, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("preftilt.api.default_model", lambda: "demo")
    exec(compile(code, place, "exec", dont_inherit=True), {"__name__": "example"})
    assert capsys.readouterr().out.strip()


def test_the_readme_s_library_example_is_short():
    [code] = PYTHON.findall((ROOT / "README.md").read_text("utf-8"))
    assert len([line for line in code.splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(one.relative_to(ROOT)) for one in DOCUMENTS])
def test_links_lead_somewhere(path):
    for target in LINK.findall(path.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_readme_s_measured_rows_come_from_reports():
    reports = ROOT.glob("docs/results/*/*.md")
    measured = "\n".join(path.read_text("utf-8") for path in reports)
    readme = (ROOT / "README.md").read_text("utf-8")
    before_engines = readme.partition("## Engines")[0]
    for row in MEASURED_ROW.findall(before_engines):
        assert row in measured, f"not in any report: {row}"
