"""The command ``preftilt``. Starting it imports neither torch nor an engine; a command brings what it needs."""

from preftilt.cli.app import main

__all__ = ["main"]
