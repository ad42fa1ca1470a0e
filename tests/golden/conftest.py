"""The engines whose answers are frozen are opened as other tests open them."""

from __future__ import annotations

from tests.cli.conftest import real_cli
from tests.engine_http.conftest import _running, server, tokenizer_folder

__all__ = ["_running", "real_cli", "server", "tokenizer_folder"]
