"""The command ``preftilt``. Starting it imports neither torch nor an engine; a command brings what it needs."""

from preftilt.cli.app import app, main

__all__ = ["app", "main"]
