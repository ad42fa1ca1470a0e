"""``python -m bench.promises``: the limits that hold under failure, long prompts and long files, measured.

A dead server behind eight requests, a prompt of 32,000 tokens beside the streams of others, 100,000 rows. Run it from
the repository: the server that dies is the tests' stand-in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx2
import transformers
import uvicorn
from tests.engine.models import byte_tokenizer
from tests.engine_http.stand_in import StandIn, served

from bench.limits import Figure, Say, measure_parts
from bench.long_files import first_records, peak_memory, write_rows
from preftilt.api import Settings
from preftilt.engines.base import Engine
from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.http import engine as http_engine
from preftilt.engines.models import demo_folder
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.search import BestOfN
from preftilt.server.app import create_app
from preftilt.server.resolve import ServerConfig
from preftilt.testing.toy import ToyEngine, hashed_bigrams

CALLERS = 8
LONG_TOKENS = 32_000
ROWS = (10_000, 100_000)
RECORDS = 16
"""Records of the bundled model whose sizes are looked at."""

TICK_SECONDS = 0.001
REPEATS = 9

INTRODUCTION = """\
Medians of n values, with the least and the greatest. A figure without a limit is there for comparison.

- **A dead server** is the tests' stand-in for vLLM, which is stopped, or goes silent, once the engine is open. The
  requests, with a preference, come to preftilt's server all at once; what counts is when the last of them has failed.
- **The event loop** is that of preftilt's server: the longest time in which it did nothing else while one request was
  read, checked and made into prompts with the bundled model's tokenizer (`/v1/preftilt/cost`), which draws nothing.
  Time in which the process did not compute, because others had the processor, does not count.
- **Rows** are short questions with a preference. The first record is the bundled model's, from the moment at which it
  is open, with 1 candidate of 1 token; the sizes are those of 2 candidates of 64 tokens. Memory is the peak of the
  process on the toy model, which has no weights.
"""


class Server:
    """preftilt's server over an engine, in a thread of its own.

    gap: the longest that its event loop stood still, in seconds; what other processes took of it does not count.
    """

    def __init__(self, engine: Engine) -> None:
        settings = Settings(lam=5.0, search=BestOfN(n=2), max_tokens=2)
        app = create_app(engine, ServerConfig(model="bench", settings=settings, seeded=True))
        self.gap = 0.0
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        [listener] = self._server.servers[0].sockets
        self._client = httpx2.Client(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            headers={"content-type": "application/json"},
            timeout=600,
            trust_env=False,
        )

    def post(self, path: str, words: str) -> httpx2.Response:
        """Send ``words`` with a preference; ``gap`` is that of this request then."""
        message = {"role": "user", "content": words}
        body = {"model": "bench", "messages": [message], "preftilt": {"preference": "No games."}}
        content = json.dumps(body).encode()
        self.gap = 0.0
        return self._client.post(path, content=content)

    def close(self) -> None:
        self._client.close()
        self._server.should_exit = True
        self._thread.join()

    async def _run(self) -> None:
        ticking = asyncio.create_task(self._tick())
        await self._server.serve()
        ticking.cancel()

    async def _tick(self) -> None:
        while True:
            began, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(TICK_SECONDS)
            stopped = time.perf_counter() - began - TICK_SECONDS
            self.gap = max(self.gap, min(stopped, time.process_time() - used))


def dead_server(say: Say) -> list[Figure]:
    """Requests at once to a server whose upstream has died in one of two ways, checked or to be checked again."""
    return [
        Figure(title, 6.0, "s", [_seconds_to_fail(silent=silent, say=say)])
        for title, silent in (
            (
                f"{CALLERS} requests at a server that refuses connections: all have failed after",
                False,
            ),
            (f"{CALLERS} requests at a server that is silent: all have failed after", True),
        )
    ]


def _seconds_to_fail(*, silent: bool, say: Say) -> float:
    app, seconds = StandIn(byte_tokenizer()), 0.0
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        byte_tokenizer().save_pretrained(folder)
        alive = ExitStack()
        url = alive.enter_context(served(app))
        stack.push(alive)
        engine = open_engine(f"vllm+{url}", EngineOptions(tokenizer=folder))
        server = stack.enter_context(closing(Server(engine)))
        callers = stack.enter_context(ThreadPoolExecutor(CALLERS))
        server.post("/v1/chat/completions", "Still there?").raise_for_status()
        if silent:
            app.manners.models_seconds, app.manners.hang = 600.0, True
        else:
            alive.close()
        began = time.perf_counter()
        replies = callers.map(
            lambda i: server.post("/v1/chat/completions", f"{i}?"), range(CALLERS)
        )
        said = {(reply.status_code, reply.json()["error"]["message"]) for reply in replies}
        seconds = time.perf_counter() - began
        say(f"{seconds:.1f} s: {said}")
    return seconds


def prompts(say: Say) -> list[Figure]:
    """What a long prompt does to the server's event loop, and how often a request's prompts are rendered."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_folder())
    renders = 0
    render = tokenizer.apply_chat_template

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal renders
        renders += 1
        return render(*arguments, **options)

    tokenizer.apply_chat_template = counted
    chat = HfChatTokenizer(tokenizer)
    engine = ToyEngine(
        next_logprobs=hashed_bigrams(0, len(tokenizer)),
        max_context=2 * LONG_TOKENS,
        tokenizer=chat,  # pyright: ignore[reportArgumentType]
    )
    word = "How do I study maths? "
    times = LONG_TOKENS // len(chat.encode(word * 100)) * 100
    gaps: dict[str, list[float]] = {"long": [], "short": []}
    counts: list[float] = []
    with closing(Server(engine)) as server:
        server.post("/v1/chat/completions", word)  # A new order of roles is tried out once.
        for _ in range(REPEATS):
            for length, words in (("long", word * times), ("short", word)):
                reply = server.post("/v1/preftilt/cost", words).raise_for_status()
                gaps[length].append(1000 * server.gap)
                say(f"{reply.json()['prompt']}: {gaps[length][-1]:.1f} ms")
            renders = 0
            server.post("/v1/chat/completions", word).raise_for_status()
            counts.append(renders)
    return [
        Figure(
            f"longest stop of the event loop by a prompt of {LONG_TOKENS:,} tokens, under two views",
            10,
            "ms",
            gaps["long"],
        ),
        Figure("the same by a prompt of a few words", None, "ms", gaps["short"]),
        Figure("chat templates rendered for a request with a preference", 2, "", counts),
    ]


SHORT = ("--n", "1", "--max-tokens", "1", "--seed", "1")


def rows(say: Say) -> list[Figure]:
    """How soon ``preftilt run`` writes, by the number of rows, and how much a row."""
    with tempfile.TemporaryDirectory() as folder:
        many, few = (write_rows(Path(folder), count) for count in (ROWS[-1], RECORDS))
        first = [first_records(path, 1, SHORT)[0] for path in (many, few)]
        say(
            f"first record of {ROWS[-1]:,} and of {RECORDS} rows after {first[0]:.2f} s, {first[1]:.2f} s"
        )
        longer = ("--n", "2", "--max-tokens", "64", "--records", "text", "--seed", "1")
        _, sizes = first_records(few, RECORDS, longer)
    return [
        Figure(f"first of {ROWS[-1]:,} rows is written after", 5, "s", first[:1]),
        Figure(f"first of {RECORDS} rows is written after", None, "s", first[1:]),
        Figure("a row's record with `--records text`", 1000, "bytes", sizes),
    ]


def memory(say: Say) -> list[Figure]:
    """Peak memory of ``preftilt run`` by the number of rows."""
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in ROWS:
            peaks.append(peak_memory(write_rows(Path(folder), count), SHORT))
            say(f"{count:,} rows: {peaks[-1]:.1f} MiB")
    fewer, more = (f"{count:,}" for count in ROWS)
    return [
        Figure(f"peak memory of {fewer} rows", None, "MiB", peaks[:1]),
        Figure(f"more of it for {more} rows", 32, "MiB", [peaks[1] - peaks[0]]),
    ]


PARTS = {"dead-server": dead_server, "prompts": prompts, "rows": rows, "memory": memory}


def main() -> None:
    """Measure, print the table, save it."""
    transformers.utils.logging.disable_progress_bar()
    logging.disable()  # Of failures that are wanted here.
    http_engine.RECHECK_SECONDS = 0.0  # As after half a minute without a request.
    measure_parts("promises", __doc__, "Limits", INTRODUCTION, PARTS)


if __name__ == "__main__":
    main()
