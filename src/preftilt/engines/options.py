"""The options of all kinds of engines, in one place.

An opener is a function ``(name, options) -> Engine``. It calls :func:`refuse_others` first, so that an option that it
does not support is an error and never ignored. A chat template is named by an option, too: the built-in ones by name,
the user's by path.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Literal

from preftilt.declare import check_settings, declarations, setting
from preftilt.engines.base import Engine
from preftilt.errors import BadInput

Switch = Literal["auto", "on", "off"]

CHAT_OPTIONS = frozenset({"chat_template", "thinking", "template_kwargs", "now"})
"""Options of every engine that renders prompts with a Hugging Face tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options of :func:`~preftilt.engines.open.open_engine`; an engine refuses those that it does not support.

    Attributes:
        tokenizer: the tokenizer, where it does not come with the model.
        scorer: a second engine that scores, for a server that can only sample. It is opened with the options about
            prompts.
        dtype: float32, bfloat16, float16 or auto, of a model in this process. ``auto`` is float32 on the CPU (16 bits
            are slower there, and less exact) and bfloat16 elsewhere.
        device: cpu, cuda, cuda:1 or auto, of a model in this process.
        chat_template: chat template (Jinja) for a model without one; ``plain`` is built in. None is the model's own.
        thinking: whether a thinking model thinks before it answers.
        trust_remote_code: run code that the model brings along.
        allow_pickle: load weights that are not safetensors. Unpickling them can run code.
        template_kwargs: a variable of the chat template (JSON or text).
        now: the moment that chat templates show, such as 2026-11-28 or 2026-11-28T18:30. None is the request's (in the
            server), or that of opening.
        sampler_logprobs: whether log-probs of drawing stand in for scores; ``auto`` measures how well they agree.
        max_rows: sequences in a batch at most.
        max_context: tokens of prompt and answer to make room for. None is the model's own limit.
        threads: CPU threads. None leaves it to the engine.
        adapter: a LoRA adapter's folder or hub id, for every call.
        arms: a trained reward model (preftilt train) that reads along. By name the folders that ``preftilt train``
            made.
        arm_base: the smaller model that reward models stand on which were not trained on the model itself. It has the
            same tokenizer.
        served_model: which of a server's models.
        api_key_env: environment variable with the server's key. No key is sent if it is empty or not set.
        timeout: seconds for one request to a server, retries included.
        max_connections: requests to a server at once.

    Raises:
        BadInput: for a value out of range.
    """

    tokenizer: str | None = setting(None, metavar="ID|PATH")
    scorer: str | None = setting(None, metavar="SPEC")
    dtype: str = setting("auto", metavar="TYPE")
    device: str = setting("auto", metavar="DEVICE")
    chat_template: str | None = setting(None, metavar="FILE|plain")
    thinking: bool = False
    trust_remote_code: bool = setting(False, flags=("--trust-remote-code",))
    allow_pickle: bool = setting(False, flags=("--allow-pickle",))
    template_kwargs: Mapping[str, object] | None = setting(
        None, flags=("--template-arg",), metavar="NAME=VALUE", repeats=True
    )
    now: datetime | None = setting(None, metavar="MOMENT", told="today")
    sampler_logprobs: Switch = "auto"
    max_rows: int | None = setting(None, least=1, told="64 on a CPU, 256 elsewhere")
    max_context: int | None = setting(None, least=1)
    threads: int | None = setting(None, least=1)
    adapter: str | None = setting(None, metavar="ID|PATH")
    arms: Mapping[str, str] | None = setting(
        None,
        flags=("--arm",),
        metavar="[NAME=]FOLDER",
        repeats=True,
        told="its folder's name",
        panel="Reward models",
    )
    arm_base: str | None = setting(None, metavar="ID|PATH", panel="Reward models")
    served_model: str | None = setting(None, metavar="ID", told="its only one")
    api_key_env: str = setting("PREFTILT_API_KEY", metavar="NAME")
    timeout: float = setting(600.0, above=0, metavar="SECONDS")
    max_connections: int = setting(64, least=1)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.arm_base is not None and not self.arms:
            raise BadInput("--arm-base is the model of reward models; name one with --arm, too")


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
        (option.facts.flags or ("--" + option.name.replace("_", "-"),))[0]
        for option in declarations(EngineOptions)
        if option.name in unsupported
    ]
    because = f" ({reason})" if reason else ""
    verb, them = ("does", "it") if len(flags) == 1 else ("do", "them")
    remedy = f"leave {them} out"
    if "arms" in unsupported:
        remedy += ", or open the model in this process (--model with its hub id or path)"
    raise BadInput(f"{', '.join(flags)} {verb} not apply to {engine}{because}; {remedy}")


def builtin_templates() -> list[str]:
    """Names of the built-in chat templates."""
    suffix = ".jinja"
    entries = (files("preftilt") / "chat_templates").iterdir()
    return sorted(
        entry.name.removesuffix(suffix) for entry in entries if entry.name.endswith(suffix)
    )


def load_template(name: str) -> str:
    """A built-in template by name, or a template file by path (``./plain`` is a file).

    Raises :class:`~preftilt.errors.BadInput` if it is neither, cannot be read or is empty.
    """
    builtin = builtin_templates()
    if name in builtin:
        return (files("preftilt") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise BadInput(
            f"--chat-template {name}: no such file, and no built-in template of that name;"
            f" built in: {', '.join(builtin)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"--chat-template {name} cannot be read: {error}; give a text file in Jinja"
        ) from error
    if not text.strip():
        raise BadInput(f"--chat-template {name} is empty; give a file with a template in Jinja")
    return text
