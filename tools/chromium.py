"""Which Chromium draws the page in tests and pictures. ``python -m tools.chromium`` prints its path or says what to do.

It needs no package, so that it can be asked for before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

REMEDY = "on Debian apt-get install chromium, or name one in the variable CHROMIUM"


class NoChromium(Exception):
    """There is none; the message has the remedy."""


def chromium() -> str:
    """The path of the one that CHROMIUM names, Debian's, Google's Chrome, or Playwright's own, in this order."""
    named = os.environ.get("CHROMIUM")
    if named:
        path = shutil.which(named)
        if path is None:
            raise NoChromium(f"CHROMIUM names {named}, which cannot be run: {REMEDY}")
        return path
    path = shutil.which("chromium") or shutil.which("google-chrome") or _playwrights()
    if path is None:
        raise NoChromium(f"no Chromium, which looks at the page: {REMEDY}")
    return path


def _playwrights() -> str | None:
    """What ``playwright install chromium`` has installed, where Playwright itself is."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


if __name__ == "__main__":
    try:
        print(chromium())
    except NoChromium as failure:
        sys.exit(f"tools.chromium: {failure}")
