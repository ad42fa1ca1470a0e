"""The toy engine as a plugin that Ray's actors open by name: ``toy:CONTROL``, a JSON file that says how it behaves.

``log`` gets a line ``PID ITEM`` for every row that is drawn; ``pause`` is the seconds a draw takes; rows in ``fails``
raise, rows in ``dies`` kill their process, ``stillborn`` kills it while the engine is opened, and ``room`` is the
context in tokens.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Engine, EngineInfo, SampleRequest, ScoreRequest
from preftilt.engines.options import CHAT_OPTIONS, EngineOptions, refuse_others
from preftilt.errors import BadInput
from preftilt.testing.toy import ToyEngine
from preftilt.types import Completion
from tests.cli.toys import Slow


@dataclass(frozen=True, slots=True)
class Watched(Engine):
    """A slow toy whose rows are logged with the process that draws them, and that can die of some."""

    inner: Slow
    log: Path
    dies: frozenset[str]

    @property
    def info(self) -> EngineInfo:
        return replace(self.inner.info, model="toy")

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        for request in requests:
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"{os.getpid()} {request.stream.item}\n")
            if request.stream.item in self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
        return await self.inner.sample(requests)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        return await self.inner.score(requests)

    def close(self) -> None:
        self.inner.close()


def open_toy(control: str, options: EngineOptions) -> Watched:
    """The entry point ``toy`` of ``preftilt.engines``."""
    refuse_others(options, "toy", CHAT_OPTIONS)
    try:
        told = json.loads(Path(control).read_text("utf-8"))
    except FileNotFoundError:
        raise BadInput(f"the toy has no control file {control}") from None
    if told.get("stillborn"):
        with Path(told["log"]).open("a", encoding="utf-8") as log:
            log.write(f"{os.getpid()} opening\n")
        os.kill(os.getpid(), signal.SIGKILL)
    slow = Slow(
        pause=told.get("pause", 0.0),
        fails=frozenset(told.get("fails", ())),
        inner=ToyEngine(max_context=told.get("room", 512)),
    )
    return Watched(slow, Path(told["log"]), frozenset(told.get("dies", ())))
