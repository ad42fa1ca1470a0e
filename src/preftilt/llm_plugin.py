"""A plugin for Simon Willison's ``llm``: ``llm -m preftilt/smollm2 -o preference "No lists." -o strength 3 "…"``.

``llm`` loads this module at every start, so that only ``llm`` itself and pydantic are imported here; the library and an
engine come when a model is asked. An answer that is guided is streamed; one that is picked comes when it is picked.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import click
import llm  # pyright: ignore[reportMissingImports]
from pydantic import Field

if TYPE_CHECKING:
    from preftilt.api import Prepared, Realigner
    from preftilt.engines.base import Engine
    from preftilt.messages import Message
    from preftilt.settings import Settings
    from preftilt.types import Preference

PREFIX = "preftilt/"
ALWAYS = ("smollm2", "demo")
"""Models that are listed without being added."""


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """The models with a short name, those that were added, and those that this command line names."""
    named = [word.removeprefix(PREFIX) for word in sys.argv[1:] if word.startswith(PREFIX)]
    for model in dict.fromkeys([*ALWAYS, *added_models(), *named]):
        register(RealignedModel(model))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """``llm preftilt add MODEL``."""

    @cli.group(name="preftilt")
    def preftilt_commands() -> None:
        "Models whose answers follow a preference more strongly"

    @preftilt_commands.command()
    @click.argument("model")
    def add(model: str) -> None:
        "List preftilt/MODEL among llm's models, for any MODEL that preftilt's --model takes"
        models = dict.fromkeys([*added_models(), model.removeprefix(PREFIX)])
        models_file().write_text(json.dumps([*models], indent=1) + "\n", encoding="utf-8")
        click.echo(f"added {PREFIX}{model.removeprefix(PREFIX)}")


def models_file() -> Path:
    """The file with the models that were added."""
    return llm.user_dir() / "preftilt-models.json"


def added_models() -> list[str]:
    """The models that were added."""
    path = models_file()
    return json.loads(path.read_text("utf-8")) if path.is_file() else []


class RealignedModel(llm.Model):
    """A model as ``llm`` asks it; ``spec`` is what ``--model`` takes. It is opened when it is first asked."""

    can_stream = True

    class Options(llm.Options):
        """What ``-o NAME VALUE`` takes."""

        preference: str | None = Field(
            default=None,
            description="What you want, in words. Without one, and with a strength, it is the system prompt.",
        )
        strength: float | None = Field(
            default=None,
            description="λ: 1 is the model as it is, more follows the preference more strongly. Default: 2 guided, 20"
            " picked.",
        )
        search: str | None = Field(
            default=None,
            description="How the answer is searched for: cfg (guided), best-of-n, dvts. Default: what suits the model.",
        )
        n: int | None = Field(default=None, description="Answers to pick from.")
        max_tokens: int | None = Field(default=None, description="Tokens of an answer at most.")
        temperature: float | None = Field(default=None, description="0 is greedy. Default: 1")
        top_p: float | None = Field(default=None, description="1 filters nothing. Default: 1")
        seed: int | None = Field(default=None, description="Same seed, same answer. Default: 0")

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.model_id = PREFIX + spec
        self._engine: Engine | None = None

    def __str__(self) -> str:
        return f"preftilt: {self.model_id}"

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str]:
        """The answer, in pieces if it is guided and ``stream``."""
        from preftilt.errors import PreftiltError

        try:
            answering = self._answer(_turns(prompt.messages), prompt.options, stream, response)
            yield from _in_a_thread(answering)
        except PreftiltError as failure:
            raise llm.ModelError(str(failure)) from failure

    def engine(self) -> Engine:
        """The engine, which is opened at the first call."""
        if self._engine is None:
            from preftilt.engines.open import open_engine

            self._engine = open_engine(self.spec)
        return self._engine

    async def _answer(
        self, messages: Sequence[Message], options: Any, stream: bool, response: llm.Response
    ) -> AsyncGenerator[str, None]:
        from preftilt.api import Realigner

        settings = _settings(options)
        messages, preferences = _stated(messages, options)
        realigner = Realigner(self.engine(), settings)
        if not preferences:
            _refuse_idle_options(options)
            async for text in _plain(realigner, messages, response):
                yield text
            return
        prepared = realigner.prepare(messages, preferences)
        async for text in _realigned(realigner, prepared, stream, response):
            yield text


def _settings(options: Any) -> Settings:
    """The options as settings, checked as a row's are."""
    from pydantic import ValidationError

    from preftilt.errors import BadInput
    from preftilt.records.patch import SettingsPatch, complaints
    from preftilt.settings import Settings

    search = {"name": options.search, "n": options.n}
    values = {
        "lambda": options.strength,
        "search": search if any(search.values()) else None,
        **{name: getattr(options, name) for name in ("max_tokens", "temperature", "top_p", "seed")},
    }
    try:
        return SettingsPatch.model_validate(values).apply(Settings())
    except ValidationError as failure:
        raise BadInput("; ".join(complaints(failure, SettingsPatch))) from None


def _turns(messages: Sequence[Any]) -> list[Message]:
    """``llm``'s conversation as ours. Raises ``BadInput`` for what is no text."""
    from preftilt.errors import BadInput
    from preftilt.messages import Message, check_messages, join_leading_system

    turns: list[Message] = []
    for message in messages:
        texts = [getattr(part, "text", None) for part in message.parts]
        if None in texts:
            raise BadInput("only texts can be asked here: no attachments and no tools")
        turns.append(Message(message.role, "\n".join(map(str, texts))))
    turns = join_leading_system(turns)
    check_messages(turns)
    return turns


def _stated(
    messages: Sequence[Message], options: Any
) -> tuple[Sequence[Message], list[Preference]]:
    """The preference, and the conversation without it: with a strength alone it is the system prompt."""
    from preftilt.errors import BadInput
    from preftilt.types import Preference

    if options.preference is not None:
        return messages, [Preference(options.preference)]
    if options.strength is None:
        return messages, []
    if messages[0].role != "system":
        raise BadInput(
            "the strength is of nothing: state a preference (-o preference TEXT) or a system prompt (-s)"
        )
    return messages[1:], [Preference(messages[0].content)]


def _refuse_idle_options(options: Any) -> None:
    from preftilt.errors import BadInput

    for name in ("search", "n"):
        if getattr(options, name) is not None:
            raise BadInput(f"{name} does nothing without a preference (-o preference TEXT)")


async def _plain(
    realigner: Realigner, messages: Sequence[Message], response: llm.Response
) -> AsyncGenerator[str, None]:
    """The model as it is."""
    from preftilt.engines.base import SampleRequest
    from preftilt.prompt import build_query
    from preftilt.run import fit_max_tokens
    from preftilt.types import Stream

    engine, settings = realigner.engine, realigner.settings
    query = build_query(engine.tokenizer, messages, (), settings=settings.prompt)
    request = SampleRequest(
        prompt=query.prompt,
        slots=(0,),
        stream=Stream(settings.seed),
        sampling=settings.sampling,
        max_tokens=fit_max_tokens(query, engine.capabilities.max_context, settings.max_tokens),
        logprobs=False,
    )
    text, tokens = AnswerText(engine), []
    async for increment in engine.stream(request):
        tokens[increment.start :] = increment.tokens
        if new := text.new(tuple(tokens), ended=increment.finish is not None):
            yield new
    response.set_usage(input=len(query.prompt), output=len(tokens))


async def _realigned(
    realigner: Realigner, prepared: Prepared, stream: bool, response: llm.Response
) -> AsyncGenerator[str, None]:
    """The realigned answer; its tokens as they are settled, where one answer alone is drawn."""
    from preftilt.api import Realigner
    from preftilt.server.request_engine import NewTokens, RequestEngine

    arrived: asyncio.Queue[None] = asyncio.Queue()

    def tell(new: NewTokens) -> None:
        arrived.put_nowait(None)

    single = prepared.settings.search.candidates == 1
    engine = RequestEngine(realigner.engine, single=single, lines=int(single), tell=tell)
    text = AnswerText(engine)
    answering = asyncio.ensure_future(Realigner(engine).answer(prepared))
    try:
        while stream and single and not answering.done():
            waiting = asyncio.ensure_future(arrived.get())
            await asyncio.wait({answering, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if new := text.new(engine.settled):
                yield new
        result = await answering
    finally:
        answering.cancel()
    if rest := result.text[len(text.sent) :]:
        yield rest
    read = sum(result.usage["prompt"].values())
    response.set_usage(input=read, output=result.usage["sampled"])
    response.response_json = {
        "settings": dict(result.settings),
        "notes": list(result.notes),
        "usage": dict(result.usage),
    }


class AnswerText:
    """The text of an answer as its tokens come: what of it has not been sent, thoughts left out."""

    def __init__(self, engine: Engine) -> None:
        self.tokenizer = engine.tokenizer
        self.sent = ""

    def new(self, tokens: tuple[int, ...], *, ended: bool = False) -> str:
        """The text behind what was sent; half a character waits for its rest."""

        whole = self.tokenizer.decode(tokens[self.tokenizer.thoughts(tokens) :])
        text = whole if ended else whole.rstrip("\N{REPLACEMENT CHARACTER}")
        if not text.startswith(self.sent):
            return ""
        new, self.sent = text[len(self.sent) :], text
        return new


def _in_a_thread(pieces: AsyncGenerator[str, None]) -> Iterator[str]:
    """The items of ``pieces``, which run on an event loop of their own; leaving the loop early cancels them."""
    queue: SimpleQueue[str | BaseException | None] = SimpleQueue()
    loop = asyncio.new_event_loop()

    async def pump() -> None:
        async for piece in pieces:
            queue.put(piece)

    task = loop.create_task(pump())

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except BaseException as failure:
            queue.put(failure)
        finally:
            queue.put(None)
            loop.close()

    thread = Thread(target=run, name="preftilt-llm", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
