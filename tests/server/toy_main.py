"""``preftilt`` on the toy engine, as a process of its own; a draw takes ``TOY_PAUSE`` seconds."""

from __future__ import annotations

import os
import sys
from typing import Any

from preftilt.cli import configure, main
from tests.server.odd import Odd


def open_engine(*_: Any, **__: Any) -> Odd:
    return Odd(pause=float(os.environ["TOY_PAUSE"]))


if __name__ == "__main__":
    configure.open_engine = open_engine
    main(sys.argv[1:])
