"""The options of all kinds of engines, in one place.

An opener is a function ``(name, options) -> Engine``. It calls :func:`refuse_others` first, so that an option that it
does not support is an error and never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Literal

from preftilt.engines.base import Engine
from preftilt.errors import BadInput

Switch = Literal["auto", "on", "off"]

CHAT_OPTIONS = frozenset({"chat_template", "thinking", "template_kwargs", "now"})
"""Options of every engine that renders prompts with a Hugging Face tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options of :func:`~preftilt.engines.open.open_engine`; an engine refuses those that it does not support.

    Attributes:
        chat_template: a built-in template's name or a file. None is the model's own.
        thinking: lets a model that can think before it answers do so.
        template_kwargs: more variables of the chat template.
        now: the moment that templates with a date show. None is the request's (in the server), or that of opening.
        tokenizer: hub id or path of the tokenizer, where it does not come with the model.
        dtype: of a model in this process. ``auto`` is float32 on the CPU (16 bits are slower there, and less exact)
            and bfloat16 elsewhere.
        device: of a model in this process: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
        trust_remote_code: run code that comes with the model.
        allow_pickle: load weights that are not safetensors; unpickling them can run code.
        max_rows: sequences in a batch at most.
        max_context: tokens of prompt and response together. None is the model's own limit.
        threads: CPU threads. None leaves it to the engine.
        adapter: a LoRA adapter's folder or hub id, applied to every call.
        arms: trained reward models to open: names, and the folders that ``preftilt train`` made.
        arm_base: hub id or path of the smaller model, of the same tokenizer, for those of them that were not trained
            on the model itself.
        served_model: which of a server's models. None is its only one.
        api_key_env: name of the environment variable with a server's key; no key is sent if it is empty or not set.
        timeout: seconds that one request to a server may take, retries included.
        max_connections: number of concurrent requests to a server.
        sampler_logprobs: whether the log-probs of drawing stand in for scores; ``auto`` measures how well they agree.
        scorer: a second engine's name, which scores for one that can only draw; opened with the options about prompts.

    Raises:
        BadInput: for a value out of range.
    """

    chat_template: str | None = None
    thinking: bool = False
    template_kwargs: Mapping[str, object] | None = field(
        default=None, metadata={"flag": "--template-arg"}
    )
    now: datetime | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    allow_pickle: bool = False
    max_rows: int | None = None
    max_context: int | None = None
    threads: int | None = None
    adapter: str | None = None
    arms: Mapping[str, str] | None = field(default=None, metadata={"flag": "--arm"})
    arm_base: str | None = None
    served_model: str | None = None
    api_key_env: str = "PREFTILT_API_KEY"
    timeout: float = 600.0
    max_connections: int = 64
    sampler_logprobs: Switch = "auto"
    scorer: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_context", "threads", "max_connections"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}; give 1 or more")
        if self.arm_base is not None and not self.arms:
            raise BadInput("--arm-base is the model of reward models; name one with --arm, too")
        if not 0 < self.timeout < float("inf"):
            raise BadInput(f"timeout is {self.timeout}; give a number of seconds above 0")
        if self.sampler_logprobs not in ("auto", "on", "off"):
            raise BadInput(f"sampler_logprobs is {self.sampler_logprobs!r}; use auto, on or off")


Opener = Callable[[str, EngineOptions], Engine]
"""Opens the model ``name`` (what follows ``scheme:``; for servers the URL, ``http://host:port``)."""


def changed_options(options: EngineOptions) -> frozenset[str]:
    """Names of the options that are not at their defaults."""
    return frozenset(
        option.name for option in fields(options) if getattr(options, option.name) != option.default
    )


def refuse_others(
    options: EngineOptions, engine: str, honoured: Collection[str], *, reason: str = ""
) -> None:
    """Refuse every option that was set and is not among ``honoured``.

    engine: its name in the message, e.g. ``vllm+http``. reason: why it does not support them, in half a sentence.
    Raises :class:`~preftilt.errors.BadInput`, naming all of them.
    """
    unsupported = changed_options(options) - frozenset(honoured)
    if not unsupported:
        return
    flags = [
        option.metadata.get("flag", "--" + option.name.replace("_", "-"))
        for option in fields(options)
        if option.name in unsupported
    ]
    because = f" ({reason})" if reason else ""
    verb, them = ("does", "it") if len(flags) == 1 else ("do", "them")
    remedy = f"leave {them} out"
    if "arms" in unsupported:
        remedy += ", or open the model in this process (--model with its hub id or path)"
    raise BadInput(f"{', '.join(flags)} {verb} not apply to {engine}{because}; {remedy}")
