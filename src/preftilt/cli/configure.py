"""From flags to what the library takes: settings, one request, open engines, judges. Refuses flags that do nothing."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from preftilt.api import Settings
from preftilt.arm.spec import named_numbers, read_spec
from preftilt.cli.options import Flags, ModelFlags, flag
from preftilt.declare import declarations
from preftilt.engines.base import Engine
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions, load_template
from preftilt.errors import BadInput
from preftilt.messages import Message, check_encodable, load_image, read_messages
from preftilt.prompt import parse_preference, read_moment
from preftilt.records.lines import file_lines, lines_of, parse_json
from preftilt.records.patch import (
    MethodPatch,
    SearchPatch,
    SettingsPatch,
    complaints,
    ignored_by_method,
    ignored_by_search,
    methods_with,
    search_of,
    searches_with,
)
from preftilt.rivals import METHODS, ByJudge, ByRewardModel, Judges
from preftilt.search import ARGS, SEARCHES
from preftilt.types import Preference

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def settings_from(flags: Flags, arms: Sequence[str] = ()) -> Settings:
    """The settings that the flags ask for, over the defaults; ``arms`` are the reward models that read along."""
    values = dict(flags)
    if arms:
        values["arm"] = list(arms)
    if "arm_weight" in values:
        values["arm_weight"] = named_numbers(values["arm_weight"], "--arm-weight")
    name = values.pop("search", "auto")
    mixed = {"alpha": values.pop("alpha")} if "=" in values.get("alpha", "") else {}
    own = {key: values.pop(key) for key in SearchPatch.model_fields if key in values}
    if "alpha" in own:
        own["alpha"] = _utility(own["alpha"])
    method = {key: values.pop(key) for key in MethodPatch.model_fields if key in values}
    picked_by = values.pop("method", "rear")
    if picked_by in METHODS:
        _refuse_idle_method_flags(picked_by, list(method))
    if search_of(name) in SEARCHES:
        _refuse_idle_flags(search_of(name), [*own, *values])
    if "delimiter" in own:
        own["delimiter"] = unescape(own["delimiter"])
    values |= {"search": {"name": name, **own}, "method": {"name": picked_by, **method}, **mixed}
    patch = _checked(SettingsPatch, values)
    return patch.apply(Settings())


def request_from(
    question: str | None,
    messages: str | None,
    preferences: Sequence[str],
    settings: Settings,
    images: Sequence[str] = (),
    *,
    needs_preference: bool = True,
) -> tuple[tuple[Message, ...], tuple[Preference, ...]]:
    """The conversation and preferences of one request; ``settings`` tell whether it needs any, images are files.

    needs_preference: False where something else can stand in for a preference.
    """
    if (question is None) == (messages is None):
        raise BadInput("ask one QUESTION, or give a conversation with --messages FILE; not both")
    if question is not None and not question.strip():
        raise BadInput("the question is empty")
    has_other = settings.prompt.history == "preference" or bool(settings.arms.names)
    if needs_preference and not preferences and not has_other:
        raise BadInput("no preference given: state at least one (--preference TEXT)")
    if images and question is None:
        raise BadInput(
            "--image belongs to a QUESTION; in --messages an image is a part of a message's content"
        )
    shown = tuple(load_image(image, where=f"--image {image}") for image in images)
    conversation = (
        [Message("user", question, shown)]
        if question is not None
        else _conversation(messages or "")
    )
    return tuple(conversation), tuple(parse_preference(text) for text in preferences)


def check_strengths(
    lam: float | None, preferences: Sequence[Preference], settings: Settings
) -> None:
    """A λ that no preference takes is refused."""
    if lam is not None and not preferences and settings.prompt.history == "both":
        raise BadInput(
            "--lambda does nothing without a preference; reward models have --arm-weight"
        )
    if (
        lam is not None
        and preferences
        and all(preference.strength is not None for preference in preferences)
    ):
        raise BadInput(
            "--lambda does nothing here: every --preference has its own strength (TEXT=STRENGTH)"
        )


def engine_from(model: ModelFlags) -> Engine:
    """The engine that the flags name, opened; its packages are imported here."""
    return open_engine(model.model, options_from(model))


def options_from(model: ModelFlags) -> EngineOptions:
    """The options that the flags give."""
    read = {
        "template_kwargs": template_arguments(model) or None,
        "now": moment_from(model),
        "arms": arms_from(model) or None,
    }
    return EngineOptions(**{**model.options, **read})


def moment_from(model: ModelFlags) -> datetime | None:
    """``--now``; None if it is not given."""
    return read_moment(model.options["now"]) if "now" in model.options else None


def check_model(model: ModelFlags) -> None:
    """What can be refused about the model before its packages are imported and its weights are read."""
    options = options_from(model)
    for folder in (options.arms or {}).values():
        read_spec(Path(folder).expanduser())
    if options.chat_template is not None:
        load_template(options.chat_template)


def arms_from(model: ModelFlags) -> dict[str, str]:
    """``--arm [NAME=]FOLDER`` as folders by name; a folder without a name is called as it is itself."""
    folders: dict[str, str] = {}
    for spec in model.options.get("arms", ()):
        name, equals, folder = spec.partition("=")
        if not equals or Path(spec).exists():
            name, folder = Path(spec).name, spec
        if not (name and folder):
            raise BadInput(f"--arm {spec!r} is not NAME=FOLDER")
        if name in folders:
            raise BadInput(f"--arm {name} is given twice; name them apart, NAME=FOLDER")
        folders[name] = folder
    return folders


def _utility(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(
            f"--alpha {text!r} is neither NAME=NUMBER,… (reward models) nor a number (the search amulet)"
        ) from None


def template_arguments(model: ModelFlags) -> dict[str, Any]:
    """``--template-arg NAME=VALUE`` as the template's variables; a value that is no JSON is text."""
    arguments: dict[str, Any] = {}
    for option in model.options.get("template_kwargs", ()):
        name, equals, value = option.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise BadInput(f"--template-arg {option!r} is not NAME=VALUE")
        if name in arguments:
            raise BadInput(f"--template-arg {name} is given twice")
        check_encodable(value, f"--template-arg {name}")
        try:
            arguments[name] = parse_json(value.encode())
        except ValueError:
            arguments[name] = value
    return arguments


IDLE = frozenset(
    {"now", "device", "max_rows", "threads", "api_key_env", "timeout", "max_connections"}
)
"""Options that change no record: about speed and connections. What prompts show of ``--now`` is found out later."""


def model_identity(model: ModelFlags) -> dict[str, Any]:
    """All flags of the model that can change a record."""
    template = model.options.get("chat_template")
    if template is not None and Path(template).is_file():
        template = Path(template).read_text(encoding="utf-8", errors="replace")
    options = {
        option.name: model.options.get(option.name, option.default)
        for option in declarations(EngineOptions)
        if option.name not in IDLE
    }
    return (
        {name: value for name, value in asdict(model).items() if name != "options"}
        | options
        | {"chat_template": template, "template_kwargs": template_arguments(model)}
    )


def parse_lambdas(texts: Sequence[str]) -> list[float]:
    """``--lambda 1,3 --lambda 20`` as numbers, in order, each once."""
    lambdas: dict[float, None] = {}
    for text in ",".join(texts).split(",") if texts else ():
        try:
            lam = float(text)
        except ValueError:
            raise BadInput(f"--lambda {text!r} is not a number") from None
        if not math.isfinite(lam):
            raise BadInput(f"--lambda must be finite, not {text.strip()}")
        lambdas[lam] = None
    return list(lambdas)


def unescape(text: str) -> str:
    r"""Read ``\n``, ``\t``, ``\r`` and ``\\`` in a flag, as JSON does; anything else after ``\`` is refused."""

    def read(match: re.Match[str]) -> str:
        if match[1] not in ESCAPES:
            raise BadInput(rf"--delimiter: {match[0]} is not \n, \t, \r or \\")
        return ESCAPES[match[1]]

    return re.sub(r"\\(.?)", read, text, flags=re.DOTALL)


def source_lines(path: str) -> Iterator[bytes]:
    """A file's lines, or standard input's for ``-``, unpacked if they are gzip."""
    if path == "-":
        return lines_of(sys.stdin.buffer, "standard input")
    return file_lines(Path(path))


def _refuse_idle_flags(search: str, flags: Sequence[str]) -> None:
    for name in ignored_by_search(search, flags):
        raise BadInput(
            f"{flag(name)} does not apply to --search {search}; it belongs to {', '.join(searches_with(name))}: name"
            " that with --search"
        )


def _refuse_idle_method_flags(method: str, flags: Sequence[str]) -> None:
    for name in ignored_by_method(method, flags):
        raise BadInput(
            f"{flag(name)} does not apply to --method {method}; it belongs to {', '.join(methods_with(name))}"
        )


def _checked(model: type[SettingsPatch], values: Mapping[str, Any]) -> SettingsPatch:
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        problems = "; ".join(complaints(failure, model))
        named = r'"(?:(search|method)\.)?([a-z_.]+)"'
        raise BadInput(re.sub(named, _as_flag, problems)) from None


def _as_flag(match: re.Match[str]) -> str:
    return flag(match[1]) if match[2] == "name" else flag(match[2])


def _conversation(path: str) -> list[Message]:
    raw = b"".join(source_lines(path))
    try:
        data = parse_json(raw)
    except BadInput as failure:
        raise BadInput(f"--messages {path}: {failure}") from None
    return read_messages(data)


ABOUT_WEIGHTS = ("dtype", "device", "trust_remote_code", "allow_pickle")
JUDGE_KEY_VARIABLE = "PREFTILT_JUDGE_API_KEY"
"""Holds the key of a judge's server; the key of the model's own is none of its business."""


def check_judges(model: ModelFlags, settings: Iterable[Settings]) -> None:
    """Refuse a judge that none of the requests would ask, and a request whose judge is not named."""
    every = list(settings)
    rewarded = [
        settings.method.name if isinstance(settings.method, ByRewardModel) else settings.search.name
        for settings in every
        if isinstance(settings.method, ByRewardModel) or isinstance(settings.search, ARGS)
    ]
    if model.reward_model is None and rewarded:
        raise BadInput(f"{rewarded[0]} needs a reward model: name one with --reward-model SPEC")
    if model.reward_model is not None and not rewarded:
        raise BadInput(
            "--reward-model does nothing here: add --method reward-model or --search args"
        )
    if model.reward_model is None and model.reward_tokenizer is not None:
        raise BadInput("--reward-tokenizer belongs to --reward-model")
    if model.judge_model is not None and not any(
        isinstance(settings.method, ByJudge) for settings in every
    ):
        raise BadInput("--judge-model does nothing here: add --method generative-reward-model")


def check_served(model: ModelFlags, settings: Settings) -> None:
    """As :func:`check_judges` for a server, whose clients may ask for any judge that it has."""
    asks = isinstance(settings.method, ByRewardModel) or isinstance(settings.search, ARGS)
    if asks and model.reward_model is None:
        raise BadInput(
            "the server's default needs a reward model: name one with --reward-model SPEC"
        )


def open_judges(model: ModelFlags) -> Judges:
    """Open the reward model and the judge; of the model's flags they share only those about weights."""
    with ExitStack() as opened:
        reward_model = judge = None
        if model.reward_model is not None:
            from preftilt.rivals.reward_models import open_reward_model

            reward_model = open_reward_model(model.reward_model, reward_options(model))
            opened.callback(reward_model.close)
        if model.judge_model is not None:
            judge = open_engine(model.judge_model, judge_options(model))
        opened.pop_all()
    return Judges(reward_model=reward_model, judge=judge)


def reward_options(model: ModelFlags) -> EngineOptions:
    """Flags about weights go to a model in this process only; a server or a function knows nothing of them."""
    options = EngineOptions(tokenizer=model.reward_tokenizer)
    from preftilt.rivals.reward_models import runs_here

    if model.reward_model is None or not runs_here(model.reward_model):
        return options
    return replace(
        options,
        **{name: value for name, value in model.options.items() if name in ABOUT_WEIGHTS},
    )


def judge_options(model: ModelFlags) -> EngineOptions:
    """Only servers have a key; an engine in this process refuses the option. All prompts show one date."""
    served = "+http" in (model.judge_model or "").partition("://")[0]
    options = EngineOptions(now=moment_from(model))
    return replace(options, api_key_env=JUDGE_KEY_VARIABLE) if served else options
