"""A small real HTTP server on localhost, backed by the package's toy model.

It stands in for servers that nobody has at hand: those that misbehave (hang, reset, lie about log-probs, change their
model) and makes that cannot be installed here. What it imitates of vLLM and of OpenAI's API was written after their
documentation; that the engines work with the real vLLM and SGLang is tested in ``tests/servers``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import uvicorn

from preftilt.guided import filtered
from preftilt.testing.toy import NextLogprobs, hashed_bigrams
from preftilt.types import Sampling, Tokens

BLOCK = 16
"""Tokens in a block of the imitated prefix cache."""

Lie = Literal["none", "scaled", "rank 1", "shifted", "off", "positive", "missing", "not a number"]


@dataclass(slots=True, kw_only=True)
class Manners:
    """How the server behaves; a test changes this while it runs."""

    model: str = "toy"
    models: tuple[str, ...] = ("toy",)
    weights: int = 0
    ends: bool = True
    """Whether the model ever ends a response."""
    sharpness: float = 0.0
    """By how many nats the likeliest token stands above what the toy model gives it."""
    leaves_out_ends: bool = False
    """Whether the end token is left out of what was drawn."""
    honours_top_k: bool = True
    context: int = 257
    takes_ids: bool = True
    returns_ids: bool = True
    takes_unknown_fields: bool = True
    many: bool = True
    echoes: bool = True
    reads_without_drawing: bool = True
    shares_prefixes: bool = True
    tells_cached: bool = True
    unwritable: int | None = None
    adds_tokens: int = 0
    completions: bool = True
    chats: bool = False
    template: bool = False
    """Whether ``/v1/completions`` takes text only, and puts it through the chat template, as Ollama does."""
    refuses: dict[str, str] = field(default_factory=dict)
    """Fields that ``/v1/chat/completions`` does not take, and what it says then."""
    says: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Messages, and perhaps a ``finish_reason``, of answers by their index, in place of drawn ones."""
    key: str | None = None
    lie: Lie = "none"
    hang: bool = False
    models_seconds: float = 0.0
    """How long the list of models takes."""
    seconds: float = 0.0
    """How long an answer takes."""
    misses: int = 0
    """How many answers fewer than asked for are sent."""
    exceeds: int = 0
    """How many tokens more than allowed are drawn."""
    reset: bool = False
    junk: bytes | None = None
    busy: list[int] = field(default_factory=list)
    """Statuses of the next answers."""
    busy_at_first: tuple[int, ...] = ()
    """Statuses of the first answers to every seed."""
    retry_after: str | None = None
    streams: bool = True
    """Whether ``stream`` is taken; it is refused otherwise."""
    ignores_streams: bool = False
    """Whether an answer comes whole where a stream was asked for."""
    token_seconds: float = 0.0
    """How long the next event of a stream takes."""
    events: int | None = None
    """After how many events a stream comes to ``then``."""
    then: Literal["hangs", "breaks off", "fails", "ends"] = "hangs"


@dataclass(slots=True)
class Seen:
    """What the server was asked, and what became of it."""

    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tries: int = 0
    lists: int = 0
    """How often the models were asked for."""
    by_seed: Counter[int | None] = field(default_factory=Counter)
    generations: int = 0
    """Requests to draw that the server began to work on."""
    waiting: int = 0
    abandoned: int = 0
    computed: int = 0
    """Tokens of prompts that were read, not those from the cache."""

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [body for one, body in self.bodies if one == path]


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Declines(Exception):
    """An answer with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StandIn:
    """The ASGI application. ``tokenizer`` is a Hugging Face one with ``eos`` as its end token."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.manners = Manners()
        self.seen = Seen()
        self._cache: set[Tokens] = set()
        self._models: dict[tuple[int, bool, float], NextLogprobs] = {}

    def reset(self) -> None:
        self.manners, self.seen = Manners(), Seen()
        self._cache.clear()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path, manners = scope["path"], self.manners
        raw = await _body(receive)
        self.seen.tries += 1
        if manners.key is not None:
            sent = dict(scope["headers"]).get(b"authorization", b"").decode()
            if sent != f"Bearer {manners.key}":
                words = {"error": {"message": f"wrong key: {sent}"}}
                return await _answer(send, 401, json.dumps(words).encode())
        self.seen.lists += path == "/v1/models"
        if path in ("/v1/models", "/version"):
            await asyncio.sleep(manners.models_seconds)
            return await _answer(send, 200, json.dumps(self._about(path)).encode())
        body = json.loads(raw)
        self.seen.bodies.append((path, body))
        status = self._status(body)
        self.seen.generations += _draws(body) and status not in (429, 503)
        await asyncio.sleep(manners.seconds)
        if status is not None:
            return await _answer(send, status, b'{"error": {"message": "busy"}}', manners)
        if manners.hang:
            return await self._hang(receive)
        if manners.junk is not None:
            return await _answer(send, 200, manners.junk)
        try:
            answer = json.dumps(self._reply(path, body)).encode()
        except Declines as failure:
            words = {"error": {"message": str(failure)}}
            return await _answer(send, failure.status, json.dumps(words).encode())
        if manners.reset:
            return await _break_off(send, answer)
        if body.get("stream") and not manners.ignores_streams:
            return await self._stream(send, receive, json.loads(answer))
        return await _answer(send, 200, answer)

    async def _stream(self, send: Send, receive: Receive, answer: dict[str, Any]) -> None:
        """The answer as events, a token of every choice in turn."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        rounds = itertools.zip_longest(*(self._parts(one) for one in answer["choices"]))
        parts = [part for parts in rounds for part in parts if part is not None]
        for number, part in enumerate(parts):
            if number == self.manners.events:
                if self.manners.then == "breaks off":
                    raise ConnectionResetError
                if self.manners.then == "hangs":
                    await self._hang(receive)
                    return
                if self.manners.then == "fails":
                    await _send_event(send, {"error": {"message": "out of memory", "code": 500}})
                break
            await asyncio.sleep(self.manners.token_seconds)
            await _send_event(send, answer | {"choices": [part]})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    def _parts(self, choice: dict[str, Any]) -> list[dict[str, Any]]:
        """What a stream says of one choice: a token at a time where there are ids, else a character."""
        ids, logprobs, reason = (
            choice.get(name) for name in ("token_ids", "logprobs", "finish_reason")
        )
        message = choice.get("message")
        text = (message.get("content") or "") if message else choice["text"]
        words = [self.tokenizer.decode([one]) for one in ids] if ids is not None else [*text]
        parts: list[dict[str, Any]] = []
        for i, word in enumerate(words):
            said = {"delta": {"content": word}} if message else {"text": word}
            part = {"index": choice["index"], "finish_reason": None} | said
            if ids is not None:
                part["token_ids"] = ids[i : i + 1]
            if logprobs is not None:
                part["logprobs"] = {name: row[i : i + 1] for name, row in logprobs.items()}
            parts.append(part)
        if not parts or self.manners.leaves_out_ends:
            rest = {name: what for name, what in (message or {}).items() if name != "content"}
            said = {"delta": rest} if message else {"text": ""}
            if logprobs is not None:
                said |= {"token_ids": [], "logprobs": {"tokens": [], "token_logprobs": []}}
            parts.append({"index": choice["index"]} | said)
        parts[-1]["finish_reason"] = reason
        return parts

    def _status(self, body: dict[str, Any]) -> int | None:
        """What is answered instead of an answer."""
        if self.manners.busy:
            return self.manners.busy.pop(0)
        self.seen.by_seed[body.get("seed")] += 1
        before = self.seen.by_seed[body.get("seed")] - 1
        first = self.manners.busy_at_first
        return first[before] if before < len(first) else None

    def _about(self, path: str) -> dict[str, Any]:
        if path == "/version":
            return {"version": "0.0.stand-in"}
        room = self.manners.context
        return {"data": [{"id": one, "max_model_len": room} for one in self.manners.models]}

    async def _hang(self, receive: Receive) -> None:
        self.seen.waiting += 1
        while (await receive())["type"] != "http.disconnect":
            pass
        self.seen.abandoned += 1

    def _reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/completions" and self.manners.completions:
            return self._complete(body)
        if path == "/inference/v1/generate" and self.manners.shares_prefixes:
            return self._generate(body)
        if path == "/v1/chat/completions" and self.manners.chats:
            return self._chat(body)
        raise Declines(404, f"no such path: {path}")

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("stream") and not self.manners.streams:
            raise Declines(400, "stream is not supported here")
        self._check(body)
        given = body["prompt"]
        prompts = given if isinstance(given, list) and isinstance(given[0], list) else [given]
        ids = [self._ids(one) for one in prompts]
        choices = [
            self._choice(prompt, body, body["n"] * i + j)
            for i, prompt in enumerate(ids)
            for j in range(body["n"] - self.manners.misses if self.manners.many else 1)
        ]
        for index, one in enumerate(choices):
            one["index"] = index
        used = {"prompt_tokens": sum(map(len, ids)) + self.manners.adds_tokens}
        # In any order: an answer's place is in its index.
        return {"model": self.manners.model, "choices": choices[::-1], "usage": used}

    def _check(self, body: dict[str, Any]) -> None:
        manners = self.manners
        known = {"model", "stream", "prompt", "n", "max_tokens", "temperature", "top_p", "seed"}
        known |= {"stop", "echo", "logprobs", "presence_penalty", "frequency_penalty"}
        if not manners.takes_unknown_fields and body.keys() - known:
            raise Declines(400, f"unknown fields: {sorted(body.keys() - known)}")
        if body["max_tokens"] == 0 and not manners.reads_without_drawing:
            raise Declines(400, "max_tokens must be at least 1")
        if isinstance(body["prompt"], list) and (manners.template or not manners.takes_ids):
            raise Declines(422, "prompt must be a string")

    def _ids(self, prompt: str | list[int]) -> Tokens:
        if isinstance(prompt, list):
            return tuple(prompt)
        if self.manners.template:
            prompt = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
        return tuple(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])

    def _choice(self, prompt: Tokens, body: dict[str, Any], index: int) -> dict[str, Any]:
        self.seen.computed += len(prompt)
        drawn, rows = self._draw(prompt, body, index)
        ended = bool(drawn) and drawn[-1] == self.eos
        if ended and self.manners.leaves_out_ends:
            drawn, rows = drawn[:-1], rows[:-1]
        choice: dict[str, Any] = {"finish_reason": "stop" if ended else "length"}
        shown = drawn if self.manners.returns_ids else [one for one in drawn if one != self.eos]
        choice["text"] = self.tokenizer.decode(shown)
        if body.get("return_token_ids") and self.manners.returns_ids:
            choice["token_ids"] = list(drawn)
        logprobs: list[float | None] = [*rows]
        tokens = [*drawn]
        if body.get("echo") and self.manners.echoes:
            logprobs, tokens = [*self._prompt_row(prompt), *rows], [*prompt, *drawn]
        if body.get("logprobs") is not None:
            texts = [self.tokenizer.decode([one]) for one in tokens]
            choice["logprobs"] = {"tokens": texts, "token_logprobs": logprobs}
        if body.get("prompt_logprobs") is not None and self.manners.echoes:
            choice["prompt_logprobs"] = self._prompt_entries(prompt)
        return choice

    def _draw(
        self, prompt: Tokens, body: dict[str, Any], index: int
    ) -> tuple[list[int], list[float]]:
        rng = np.random.default_rng(body.get("seed", 0) + index)
        sampling = Sampling(
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=body.get("top_k", 0) if self.manners.honours_top_k else 0,
        )
        tokens: list[int] = []
        rows: list[float] = []
        while len(tokens) < body["max_tokens"] + self.manners.exceeds:
            raw = self.next_logprobs(prompt + tuple(tokens))
            if sampling.temperature:
                chances = np.exp(filtered(raw, sampling))
                token = int(rng.choice(raw.size, p=chances / chances.sum()))
            else:
                token = int(np.argmax(raw))
            tokens.append(token)
            rows.append(self._told(raw, token, sampling.temperature))
            text = self.tokenizer.decode(tokens)
            stops = token == self.eos or any(one in text for one in body.get("stop") or ())
            if stops and not self.manners.exceeds:
                break
        return tokens, rows

    def _told(self, raw: np.ndarray, token: int, temperature: float) -> float:
        if self.manners.lie == "scaled" and temperature:
            scaled = raw / temperature
            return float(scaled[token] - np.logaddexp.reduce(scaled))
        if self.manners.lie == "off":
            return float(raw[token]) - 0.7
        return float(raw[token])

    def _prompt_row(self, prompt: Tokens) -> list[float | None]:
        found: list[float | None] = [None]
        for i in range(1, len(prompt)):
            raw = self.next_logprobs(prompt[:i])
            match self.manners.lie:
                case "rank 1":
                    found.append(float(raw.max()))
                case "positive":
                    found.append(0.5)
                case "missing":
                    found.append(None)
                case "not a number":
                    found.append(float("nan"))
                case _:
                    found.append(float(raw[prompt[i]]))
        return [None, *found[:-1]] if self.manners.lie == "shifted" else found

    def _prompt_entries(self, prompt: Tokens) -> list[dict[str, Any] | None]:
        """vLLM's form: a log-prob under the id of its token."""
        rows = self._prompt_row(prompt)
        ids = [*prompt]
        if self.manners.lie == "rank 1":
            ids = [0, *(int(self.next_logprobs(prompt[:i]).argmax()) for i in range(1, len(ids)))]
        if self.manners.lie == "shifted":
            ids = [0, *ids[:-1]]
        return [
            None,
            *({str(one): {"logprob": row}} for one, row in zip(ids[1:], rows[1:], strict=True)),
        ]

    def _generate(self, body: dict[str, Any]) -> dict[str, Any]:
        """Token ids in: whole blocks that were read before come from the cache, and have no log-probs."""
        prompt, params = tuple(body["token_ids"]), body["sampling_params"]
        blocks = [prompt[: i + BLOCK] for i in range(0, len(prompt) - BLOCK, BLOCK)]
        cached = 0
        for one in blocks:
            if one not in self._cache or params.get("skip_reading_prefix_cache", True):
                break
            cached = len(one)
        self._cache.update(blocks)
        self.seen.computed += len(prompt) - cached
        answer: dict[str, Any] = {"usage": {"prompt_tokens": len(prompt)}}
        if self.manners.tells_cached:
            answer["usage"]["prompt_tokens_details"] = {"cached_tokens": cached}
        if params.get("prompt_logprobs") is not None:
            if cached and self.manners.unwritable is not None:
                raise Declines(
                    self.manners.unwritable, "Out of range float values are not JSON compliant"
                )
            garbage = {"12345678": {"logprob": -1e30}}
            entries = self._prompt_entries(prompt)
            answer["prompt_logprobs"] = [
                None if i == 0 else garbage if i <= cached else one for i, one in enumerate(entries)
            ]
        return answer

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("stream") and not self.manners.streams:
            raise Declines(400, "stream is not supported here")
        for name, words in self.manners.refuses.items():
            if name in body:
                raise Declines(400, words)
        whole = {"n": 1, "temperature": 1.0, "top_p": 1.0} | body
        whole.setdefault("max_tokens", body.get("max_completion_tokens"))
        text = self.tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=True
        )
        many = whole["n"] if self.manners.many else 1
        choices = [self._chat_choice(self._ids(text), whole, index) for index in range(many)]
        return {"model": self.manners.model, "choices": choices}

    def _chat_choice(self, prompt: Tokens, body: dict[str, Any], index: int) -> dict[str, Any]:
        said = dict(self.manners.says.get(index, {}))
        if said:
            return {
                "index": index,
                "finish_reason": said.pop("finish_reason", "stop"),
                "message": said,
            }
        drawn, _ = self._draw(prompt, body, index)
        words = self.tokenizer.decode([token for token in drawn if token != self.eos])
        ended = drawn[-1] == self.eos
        return {
            "index": index,
            "message": {"content": words},
            "finish_reason": "stop" if ended else "length",
        }

    def next_logprobs(self, context: Tokens) -> np.ndarray:
        """The toy model; it draws readable ASCII nearly always, and ends a response in one of ten places."""
        manners = self.manners
        key = (manners.weights, manners.ends, manners.sharpness)
        if key not in self._models:
            self._models[key] = self._model(*key)
        return self._models[key](context)

    def _model(self, weights: int, ends: bool, sharpness: float) -> NextLogprobs:
        bigrams = hashed_bigrams(weights, len(self.tokenizer))
        spelled = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        plain = [len(token) == 1 and 33 <= ord(token) < 127 for token in spelled]
        prior = np.where(plain, 0.0, -12.0)
        prior[self.eos] = 2.3

        # The toy model knows no more of a context than its first four tokens and its last one.
        @lru_cache(maxsize=4096)
        def row(first: Tokens, last: Tokens) -> np.ndarray:
            raw = bigrams(first if len(first) < 4 else first + last) + prior
            if not ends:
                raw[self.eos] = -60.0
            raw[raw.argmax()] += sharpness
            logprobs = raw - np.logaddexp.reduce(raw)
            logprobs.flags.writeable = False
            return logprobs

        return lambda context: row(context[:4], context[-1:])


def _draws(body: dict[str, Any]) -> bool:
    """Whether tokens are asked for, and not log-probs of a prompt."""
    reads = body.get("echo") or body.get("prompt_logprobs") is not None or "token_ids" in body
    return bool(body.get("max_tokens")) and not reads


async def _body(receive: Receive) -> bytes:
    parts = b""
    while True:
        message = await receive()
        parts += message.get("body", b"")
        if not message.get("more_body"):
            return parts


async def _answer(send: Send, status: int, body: bytes, manners: Manners | None = None) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if manners is not None and manners.retry_after is not None:
        headers.append((b"retry-after", manners.retry_after.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_event(send: Send, value: object) -> None:
    data = b"data: " + json.dumps(value).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _break_off(send: Send, body: bytes) -> None:
    """Half an answer, and then the connection is gone."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
    raise ConnectionResetError


@contextmanager
def served(app: StandIn) -> Iterator[str]:
    """Run it on a free port, in a thread of its own; gives ``http://host:port``."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    settings = uvicorn.Config(
        app, log_config=None, lifespan="off", http="h11", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
