"""The application: routes, and what every route does with a body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive

import preftilt
from preftilt.engines.base import Engine
from preftilt.errors import PreftiltError
from preftilt.messages import image_cache
from preftilt.reward import Reward
from preftilt.rivals import Judges
from preftilt.run.prepare import LONG_CHARACTERS
from preftilt.server import explaining, replies
from preftilt.server.admission_queue import AdmissionQueue, client_of
from preftilt.server.body import JsonReply, error_reply, parse_body, read_body
from preftilt.server.explaining import cost
from preftilt.server.failures import ApiError, ClientGone, as_api_error, timed_out
from preftilt.server.logs import log
from preftilt.server.metrics import Metrics
from preftilt.server.middleware import AccessPolicy, RequestMiddleware, note, request_id
from preftilt.server.names import model_names
from preftilt.server.openapi import DOCUMENTED, document
from preftilt.server.replies import Kind, ResponseMeta
from preftilt.server.resolve import ServerConfig, knob_card, resolve
from preftilt.server.streaming import ChunkWriter, EventStream, Write, until_gone
from preftilt.server.wire import (
    AlternativesBody,
    ChatBody,
    CompletionBody,
    InfluenceBody,
    check_body,
)
from preftilt.server.work import Answer, CheckedJob, JobCallbacks, answer, check, engine_for

B = TypeVar("B", bound=ChatBody | CompletionBody)
T = TypeVar("T")

PAGE = Path(__file__).with_name("page")

LONG_BODY = LONG_CHARACTERS
"""Bytes of a body from which on it is read and made into prompts beside the event loop."""

MAX_CONCURRENT_IMAGE_DECODES = 2
"""Requests whose pictures are unpacked at a time."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes share: the engine, the configuration, the admission queue and the metrics."""

    engine: Engine
    config: ServerConfig
    queue: AdmissionQueue
    metrics: Metrics
    started: int
    judges: Judges
    image_decodes: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAX_CONCURRENT_IMAGE_DECODES)
    )

    @property
    def readiness(self) -> str:
        """``ready``, or why a load balancer should send requests elsewhere."""
        if self.queue.closed:
            return "stopping"
        if self.queue.full:
            return "full"
        replicas = self.engine.replica_statuses
        if replicas and not any(replica.up for replica in replicas):
            return "no replica answers"
        return "ready"

    async def read(self, request: Request, model: type[B]) -> tuple[B, CheckedJob]:
        """Validate the body and render its prompts; raises for all that can be refused before the first token."""
        limit = self.config.body_limit(self.engine.capabilities.images)
        raw = await read_body(request, limit)
        if len(raw) <= LONG_BODY:
            body = check_body(parse_body(raw), model)
            return body, self._checked(request, body)
        # Long texts and pictures take a while, and must not hold up the streams of others.
        body = await asyncio.to_thread(lambda: check_body(parse_body(raw), model))
        shows = isinstance(body, ChatBody) and body.shows
        async with (
            self.image_decodes if shows else nullcontext()
        ):  # Pictures take much memory, too.
            return body, await asyncio.to_thread(self._checked, request, body)

    def _checked(self, request: Request, body: ChatBody | CompletionBody) -> CheckedJob:
        with image_cache():
            return self._check(request, body)

    def _check(self, request: Request, body: ChatBody | CompletionBody) -> CheckedJob:
        job = resolve(body, self.config, guides=self.engine.capabilities.guides)
        if self.config.log_words:
            note(request.scope, words=job.words)
        return check(self.engine, job, self.judges)

    async def work(
        self, client: str, checked: CheckedJob, writer: ChunkWriter | None, began: float
    ) -> Answer:
        """Wait in the admission queue, then answer; errors as :meth:`admitted`."""
        callbacks: JobCallbacks | None = None if writer is None else writer.callbacks
        engine = engine_for(self.engine, checked.job, callbacks, began)

        def begin() -> None:
            if writer is not None:
                writer.engine = engine
                writer.begin()

        result = await self.admitted(
            client, lambda: answer(engine, checked, callbacks, self.judges), begin
        )
        self.metrics.count(result)
        return result

    async def admitted(
        self,
        client: str,
        work: Callable[[], Awaitable[T]],
        begin: Callable[[], None] = lambda: None,
    ) -> T:
        """Wait in the admission queue, then ``work``; raises a 504 once the request's hard time limit is over.

        begin: called once the request is in the queue.
        """
        limit = asyncio.timeout(self.config.timeout_s)
        try:
            with self.queue.admit(client) as turn, self.metrics.admitted.track_inprogress():
                async with limit:
                    begin()
                    await turn.come()
                    return await work()
        except TimeoutError:
            if limit.expired():
                raise timed_out(self.config.timeout_s) from None
            raise


def create_app(
    engine: Engine,
    config: ServerConfig,
    access: AccessPolicy | None = None,
    page: Path = PAGE,
    queue: AdmissionQueue | None = None,
    judges: Judges | None = None,
    metrics: Metrics | None = None,
) -> Starlette:
    """The ASGI application over an open engine; the engine and ``judges`` are closed when it shuts down.

    queue: the admission queue, for callers that close it at shutdown; None makes one of the configured size.
    metrics: what to count in, for callers with several applications; None makes those of this one.
    """
    queue = queue or AdmissionQueue(config.max_concurrency, config.max_queue)
    judges = judges or Judges()
    metrics = metrics or Metrics(engine)
    service = Service(engine, config, queue, metrics, int(time.time()), judges)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        log("ready", model=config.model, engine=engine.name)
        yield
        judges.close()
        engine.close()
        log("stopped")

    app = Starlette(lifespan=lifespan)
    _answer_failures(app, service)
    _add_routes(app, service)
    _add_page(app, page, config.settings.reward)
    app.add_middleware(
        RequestMiddleware,
        access=access or AccessPolicy(),
        metrics=service.metrics,
        endpoints=sorted(DOCUMENTED),
    )
    return app


def _add_routes(app: Starlette, service: Service) -> None:
    async def chat(request: Request) -> Any:
        return await _complete(service, request, "chat", ChatBody)

    async def completions(request: Request) -> Any:
        return await _complete(service, request, "text", CompletionBody)

    async def costs(request: Request) -> Response:
        _, checked = await service.read(request, ChatBody)
        return JsonReply(cost(checked, service.engine.capabilities))

    async def alternatives(request: Request) -> Response:
        body, checked = await service.read(request, AlternativesBody)
        work = partial(explaining.alternatives, service.engine, body, checked)
        return JsonReply(await _admitted(service, request, work))

    async def influence(request: Request) -> Response:
        body, checked = await service.read(request, InfluenceBody)
        work = partial(explaining.influence, service.engine, body, checked)
        return JsonReply(await _admitted(service, request, work))

    async def models(_: Request) -> Response:
        names = model_names(service.config.model, service.config.presets)
        return JsonReply({"object": "list", "data": [_model(name, service) for name in names]})

    async def model(request: Request) -> Response:
        return JsonReply(_model(request.path_params["name"], service))

    async def openapi(_: Request) -> Response:
        return JsonReply(document("preftilt", preftilt.__version__))

    async def health(_: Request) -> Response:
        return JsonReply({"status": "ok"})

    async def ready(_: Request) -> Response:
        status = service.readiness
        return JsonReply({"status": status}, status_code=200 if status == "ready" else 503)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    app.add_route("/v1/chat/completions", chat, methods=["POST"])
    app.add_route("/v1/completions", completions, methods=["POST"])
    app.add_route("/v1/preftilt/cost", costs, methods=["POST"])
    app.add_route("/v1/preftilt/alternatives", alternatives, methods=["POST"])
    app.add_route("/v1/preftilt/influence", influence, methods=["POST"])
    app.add_route("/v1/models", models, methods=["GET"])
    app.add_route("/v1/models/{name:path}", model, methods=["GET"])
    app.add_route("/openapi.json", openapi, methods=["GET"])
    app.add_route("/health", health, methods=["GET"])
    app.add_route("/ready", ready, methods=["GET"])
    app.add_route("/metrics", metrics, methods=["GET"])


def _add_page(app: Starlette, page: Path, reward: Reward) -> None:
    """The page at ``/`` and its files below ``/page``: elsewhere, an unknown path is a 404 for every method.

    ``reward`` holds the server's defaults, which the form shows at first.
    """
    index = page / "index.html"
    if not index.is_file():
        return
    text = index.read_text("utf-8")
    for word in (reward.reduction, reward.cut_off):
        text = text.replace(f'<option value="{word}">', f'<option value="{word}" selected>')

    async def show(_: Request) -> Response:
        return HTMLResponse(text)

    app.add_route("/", show, methods=["GET"])
    app.mount("/page", StaticFiles(directory=page))


async def _complete(
    service: Service, request: Request, kind: Kind, model: type[ChatBody] | type[CompletionBody]
) -> Response | EventStream:
    """Answer in one response or as a stream; a client that disconnects cancels its work."""
    began = time.monotonic()
    _, checked = await service.read(request, model)
    job = checked.job
    meta = ResponseMeta(kind, request_id(request.scope), job.model)
    if job.stream:
        return _stream(service, request, checked, meta, began)
    result = await _unless_gone(
        request.receive, service.work(client_of(request.scope), checked, None, began)
    )
    _note(request, result)

    def reply() -> JsonReply:
        return JsonReply(
            replies.whole(
                meta,
                result,
                service.engine.tokenizer,
                logprobs=job.logprobs,
                details=job.details,
                pieces=job.pieces,
            )
        )

    # A whole record may be megabytes of numbers.
    return await asyncio.to_thread(reply) if job.details else reply()


def _stream(
    service: Service, request: Request, checked: CheckedJob, meta: ResponseMeta, began: float
) -> EventStream:
    async def work(write: Write) -> None:
        writer = ChunkWriter(meta, checked, write)
        result = await service.work(client_of(request.scope), checked, writer, began)
        _note(request, result)
        writer.finish(result)

    def gone() -> None:
        service.metrics.disconnects.inc()
        note(request.scope, outcome=499)

    def failed(failure: Exception) -> None:
        error = as_api_error(failure)
        note(request.scope, outcome=error.status)
        _log_failure(request, failure, error)

    return EventStream(work, gone, failed)


async def _admitted(service: Service, request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """The result of ``work``, in its turn; a client that disconnects cancels it."""
    return await _unless_gone(request.receive, service.admitted(client_of(request.scope), work))


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; if the client disconnects first it is cancelled and :class:`ClientGone` raised."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


def _note(request: Request, result: Answer) -> None:
    """Add the counts of an answer to the log line; never its text."""
    spent = result.usage
    note(
        request.scope,
        candidates=result.candidates,
        sampled=spent.sampled,
        scored=sum(spent.scored.values()),
        late=result.late,
    )


def _log_failure(request: Request, failure: Exception, error: ApiError) -> None:
    if error.status >= 500:
        log("failure", level=40, failure=failure, request_id=request_id(request.scope))


def _answer_failures(app: Starlette, service: Service) -> None:
    """Register the handlers that turn known exceptions into errors in OpenAI's format."""

    async def foreseen(request: Request, failure: Exception) -> Response:
        error = as_api_error(failure)
        _log_failure(request, failure, error)
        return error_reply(error)

    async def gone(request: Request, _: Exception) -> Response:
        service.metrics.disconnects.inc()
        note(request.scope, outcome=499)
        return Response(status_code=499)

    async def routing(_: Request, failure: Exception) -> Response:
        assert isinstance(failure, HTTPException)
        return error_reply(
            ApiError(failure.status_code, failure.detail, headers=failure.headers or {})
        )

    for kind in (ApiError, PreftiltError, TimeoutError):
        app.add_exception_handler(kind, foreseen)
    app.add_exception_handler(ClientGone, gone)
    app.add_exception_handler(HTTPException, routing)


def _model(name: str, service: Service) -> dict[str, Any]:
    """A model as OpenAI lists it, and what it says of the knob."""
    card = {"id": name, "object": "model", "created": service.started, "owned_by": "preftilt"}
    return card | {"preftilt": knob_card(name, service.config, service.engine.capabilities)}
