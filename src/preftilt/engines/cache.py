"""The cache folder: what is made once on a machine and found again by later processes."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

FOLDER_VARIABLE = "PREFTILT_CACHE"
"""Environment variable: the cache folder, in place of the platform's own."""


def cache_folder() -> Path:
    """``$PREFTILT_CACHE``, or ``preftilt`` in the platform's folder for caches."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("preftilt")
