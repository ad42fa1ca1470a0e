"""``python -m bench.serving.engine_side ENGINE [DTYPE]``: best-of-16, a line of JSON each time."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.figures import CANDIDATES, NEW_TOKENS
from bench.serving.words import WISH
from preftilt.api import Realigner, Settings
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.messages import Message
from preftilt.search import BestOfN
from preftilt.types import Preference


def main() -> None:
    name, dtype = [*sys.argv[1:], "auto"][:2]
    engine = open_engine(name, EngineOptions(dtype=dtype))
    print(json.dumps({"versions": dict(engine.versions)}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        settings = Settings(
            search=BestOfN(n=CANDIDATES), max_tokens=NEW_TOKENS, seed=request["seed"]
        )
        messages = [Message("user", request["question"])]
        began = time.perf_counter()
        result = asyncio.run(Realigner(engine, settings).realign(messages, [Preference(WISH)]))
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "drawn": result.usage["sampled"]}), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
