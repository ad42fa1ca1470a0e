"""preftilt as an Inspect model: ``--model preftilt/ENGINE`` puts any Inspect task under it.

``ENGINE`` is what ``preftilt ask --model`` takes: ``demo``, a hub id or path, ``vllm+http://127.0.0.1:8000``, …
Model arguments (``-M``): ``lam``, ``search``, ``n``, ``method`` and ``settings`` as tasks of this package take them,
the options of :class:`~preftilt.engines.options.EngineOptions`, and ``preference_from``:

- ``system`` (default): the conversation's system message is the preference;
- ``metadata``: the sample's metadata has it, in the field ``preference``;
- ``none``: there is none.

Sample and epoch name the random stream, so every one has answers of its own, the same in every run; a sample that asks
the same again gets another answer. Without a preference the model answers as it is. Tasks of this package send their
requests whole, in ``extra_body["preftilt"]``. Inspect's own options (``--max-tokens``, ``--temperature``, ``--top-p``,
``--top-k``, ``--seed``) win over all of these; those that preftilt does not have are refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.log._samples import ActiveSample, sample_active
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
)
from inspect_ai.solver._task_state import sample_state
from inspect_ai.tool import ToolChoice, ToolInfo
from rich.markup import escape

from preftilt.api import Realigner, Settings
from preftilt.engines.base import Engine
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput, PreftiltError
from preftilt.eval.answers import DrawnAnswer, draw_plain, draw_realigned
from preftilt.eval.harness.benchmark import (
    BenchmarkProtocol,
    BenchmarkRequest,
    choose_method,
    patched,
    read_request,
)
from preftilt.messages import Message, read_message
from preftilt.prompt import read_moment
from preftilt.types import Preference


@contextmanager
def plainly() -> Iterator[None]:
    """Errors of preftilt inside become Inspect's ``PrerequisiteError``, which its command line shows plainly."""
    try:
        yield
    except PreftiltError as error:
        raise PrerequisiteError(escape(str(error))) from error


PreferenceFrom = Literal["system", "metadata", "none"]

EXTRAS_KEY = "preftilt"
"""The object in ``extra_body`` that holds a whole request."""

SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "seed")
"""What of Inspect's generation options preftilt has, under the same names."""

IGNORED = frozenset(
    {
        "max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections", "adaptive_connections",
        "cache", "extra_body", "system_message", "max_tool_output", "cache_prompt", "fail_on_refusal",
    }
)  # fmt: skip
"""Options that Inspect itself carries out, or that change no answer."""


@dataclass(frozen=True, slots=True)
class TaskExtras:
    """What a task of this package asks for beyond words.

    item names the random stream. fit lowers ``max_tokens`` to what the model's context leaves, with a note.
    """

    request: BenchmarkRequest
    settings: Mapping[str, Any]
    item: str
    fit: bool

    def to_json(self) -> dict[str, Any]:
        """The object that :func:`_read_extras` reads."""
        return {
            "request": self.request.to_json(),
            "settings": dict(self.settings),
            "item": self.item,
            "fit": self.fit,
        }


class PreftiltAPI(ModelAPI):
    """One open engine, asked in preftilt's way."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  (Inspect's signature; the value is never changed)
        preference_from: str = "system",
        lam: float | None = None,
        search: str | None = None,
        n: int | None = None,
        method: str | None = None,
        settings: str | Mapping[str, Any] | None = None,
        **options: Any,  # Inspect hands -M arguments over as keywords; each is checked by name below.
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        with plainly():
            if base_url is not None or api_key is not None:
                raise BadInput(
                    "name the server in the model (preftilt/vllm+http://HOST:PORT); its key comes from the environment"
                )
            if preference_from not in get_args(PreferenceFrom):
                raise BadInput(
                    f"preference_from is {preference_from!r}; use {', '.join(get_args(PreferenceFrom))}"
                )
            chosen = choose_method(
                BenchmarkProtocol(settings={}),
                lam=lam,
                search=search,
                n=n,
                method=method,
                settings=settings,
            )
            self.preference_from = preference_from
            self.settings = patched(Settings(), chosen.settings)
            self.options = _engine_options(options)
            self._engine: Engine | None = open_engine(model_name, self.options)
        self._times_asked: WeakKeyDictionary[ActiveSample, Counter[str]] = WeakKeyDictionary()

    @property
    def engine(self) -> Engine:
        """The engine, opened again if Inspect closed it."""
        if self._engine is None:
            self._engine = open_engine(self.model_name, self.options)
        return self._engine

    def close(self) -> None:
        """Give the engine's threads and memory back."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def max_connections(self) -> int:
        """Requests under way at once: enough for an engine that batches to be kept busy."""
        return 16

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """One answer; the output's metadata has the record, with all candidates."""
        _refuse(tools, config)
        knob = _read_extras(config)
        request = knob.request if knob else self._request(input)
        base = patched(self.settings, knob.settings) if knob else self.settings
        own = {name: getattr(config, name) for name in SETTINGS}
        own = {name: value for name, value in own.items() if value is not None}
        settings = replace(patched(base, own), prompt=request.prompt)
        item = knob.item if knob else self._item(request)
        draw = draw_plain if request.plain else draw_realigned
        drawn = await draw(Realigner(self.engine), request, settings, item, bool(knob and knob.fit))
        return _output(str(self.model_name), drawn)

    def _item(self, request: BenchmarkRequest) -> str | None:
        """The random stream of a call from a task of any kind: the sample's, a new one each time it asks the same."""
        sample = sample_active()
        if sample is None:
            return None
        words = json.dumps(request.to_json(), default=str)
        times_asked = self._times_asked.setdefault(sample, Counter())
        times_asked[words] += 1
        part = f"/{times_asked[words]}" if times_asked[words] > 1 else ""
        return item_of(sample.sample.id or "", sample.epoch, part)

    def _request(self, input: Sequence[ChatMessage]) -> BenchmarkRequest:
        """The request that a task of any kind makes, its preference from where the model arguments say."""
        said = [_message(message) for message in input]
        system = [message.content for message in said if message.role == "system"]
        if len(system) > 1:  # Tasks add them one by one.
            turns = [message for message in said if message.role != "system"]
            said = [Message("system", "\n\n".join(system)), *turns]
        messages = tuple(said)
        prompt = self.settings.prompt
        wish = None
        if prompt.history == "preference" or self.preference_from == "none":
            pass
        elif self.preference_from == "metadata":
            state = sample_state()
            wish = (state.metadata if state else {}).get("preference")
            if not isinstance(wish, str) or not wish.strip():
                raise BadInput(
                    'this sample\'s metadata has no text "preference"; take it from the system message'
                    " (-M preference_from=system)"
                )
        elif messages[0].role == "system" and messages[0].content.strip():
            wish, messages = messages[0].content, messages[1:]
        preferences = () if wish is None else (Preference(wish),)
        return BenchmarkRequest(messages=messages, preferences=preferences, prompt=prompt)


def item_of(sample_id: int | str, epoch: int, part: str = "") -> str:
    """The name of a sample's random stream; ``part`` tells apart several answers of a sample."""
    return f"{sample_id}{part}" + (f"#{epoch}" if epoch > 1 else "")


def _engine_options(arguments: Mapping[str, Any]) -> EngineOptions:
    """The engine's options among the model arguments; any other is refused by name."""
    known = {field.name for field in fields(EngineOptions)}
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise BadInput(
            f"preftilt has no model argument {unknown[0]!r}; there are preference_from, lam, search, n, method,"
            f" settings, {', '.join(sorted(known))}"
        )
    if isinstance(arguments.get("now"), str):
        arguments = {**arguments, "now": read_moment(arguments["now"])}
    return EngineOptions(**arguments)


def _refuse(tools: Sequence[ToolInfo], config: GenerateConfig) -> None:
    """What preftilt cannot honour is an error, before the first token."""
    if tools:
        raise BadInput("preftilt calls no tools; run this task with another model")
    options = config.model_dump(exclude_none=True)
    extra = set(config.extra_body or {}) - {EXTRAS_KEY}
    others = sorted((set(options) - set(SETTINGS) - IGNORED) | extra)
    if others:
        raise BadInput(f"preftilt has no generation option {others[0]!r}; leave it out")


def _read_extras(config: GenerateConfig) -> TaskExtras | None:
    extras = (config.extra_body or {}).get(EXTRAS_KEY)
    if extras is None:
        return None
    return TaskExtras(
        read_request(extras["request"]), extras["settings"], extras["item"], extras["fit"]
    )


def _message(message: ChatMessage) -> Message:
    """Inspect's message as ours; texts that follow each other are joined by a line break, as ``message.text`` is."""
    content = message.content
    parts = [
        part for part in (content if isinstance(content, list) else []) if part.type != "reasoning"
    ]
    if message.role == "tool" or any(part.type not in ("text", "image") for part in parts):
        raise BadInput(
            "preftilt reads messages of text and images only; run this task with another model"
        )
    if not any(part.type == "image" for part in parts):
        return Message(message.role, message.text)
    shown = [
        {"type": "text", "text": part.text}
        if isinstance(part, ContentText)
        else {"type": "image_url", "image_url": {"url": part.image}}
        for part in parts
        if isinstance(part, ContentText | ContentImage)
    ]
    return read_message({"role": message.role, "content": shown}, "the message")


def _output(model: str, drawn: DrawnAnswer) -> ModelOutput:
    stop: StopReason = "max_tokens" if drawn.cut_off else "stop"
    message = ChatMessageAssistant(content=drawn.text, model=model, source="generate")
    usage = ModelUsage(
        input_tokens=drawn.read,
        output_tokens=drawn.sampled,
        total_tokens=drawn.read + drawn.sampled,
    )
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=stop)],
        usage=usage,
        metadata={EXTRAS_KEY: drawn.record},
    )
