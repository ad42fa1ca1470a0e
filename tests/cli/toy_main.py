"""``preftilt`` on the toy engine, as a process of its own: for tests that kill it, interrupt it or fill its disk.

``TOY_PAUSE`` is the seconds a draw takes; ``TOY_LOG`` a file that gets the id of every row that is drawn.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from preftilt.cli import configure, main
from tests.cli.toys import Slow


def open_engine(*_: Any) -> Slow:
    return Slow(pause=float(os.environ["TOY_PAUSE"]), log=Path(os.environ["TOY_LOG"]))


if __name__ == "__main__":
    # A shell's background job ignores Ctrl-C, and so would this process if the tests run in one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    configure.open_engine = open_engine
    main(sys.argv[1:])
