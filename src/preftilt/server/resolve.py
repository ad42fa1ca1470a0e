"""A validated body becomes a job: one immutable configuration; every field is honoured or refused."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from preftilt.api import Settings
from preftilt.declare import check_settings, setting
from preftilt.engines.base import Capabilities
from preftilt.messages import OTHER_ROLES, Message, check_messages, join_leading_system
from preftilt.records.patch import SettingsPatch
from preftilt.search import ARGS, DVTS, Search
from preftilt.server.failures import ApiError
from preftilt.server.guidance import Guidance, check_agreement, read_guidance
from preftilt.server.names import SUFFIXES, ParsedModelName, read_name
from preftilt.server.pictures import read_turns
from preftilt.server.wire import ChatBody, CompletionBody, Knob
from preftilt.settings import ArmSettings, settled
from preftilt.types import Preference, Tokens

NO_ARMS = ArmSettings()

HARMLESS = {"progress", "deadline_s", "preference_from"}
"""Fields of the knob that need no preference to mean something."""


TEXT_BODY, IMAGES_BODY = 1 << 20, 32 << 20
"""Most bytes of a request, unless somebody says otherwise, before a model of text and before one that sees images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The operator's configuration: the model's public name, the defaults, the limits.

    Attributes:
        model: its public name.
        settings: the defaults of requests.
        seeded: whether requests without a seed take that of ``settings``; else each takes a fresh one.
        presets: by the names that clients give them.
        preference_from: system: the system message is the preference.
        max_candidates: candidates a request at most.
        deadline_s: seconds after which the best finished answer so far is taken.
        timeout_s: seconds after which a request fails with a 504.
        max_body: bytes of a request at most. None is as many as its messages may need (:meth:`body_limit`).
        max_images: images of a request at most.
        max_concurrency: requests at work at a time; clients, told by address, take turns.
        max_queue: requests that wait; more get a 429.
        log_words: log messages and preferences, too.
        ignore_tools: answer requests that offer tools without them, not by a 400.
        adapters: names under which the engine's own server answers with LoRA adapters; they may change while it runs.
    """

    model: str
    settings: Settings = field(default_factory=Settings)
    seeded: bool = False
    presets: Mapping[str, Knob] = field(default_factory=dict)
    preference_from: Literal["none", "system"] = setting("none", panel="Knob")
    max_candidates: int = setting(64, least=1)
    deadline_s: float | None = setting(None, above=0, flags=("--deadline",))
    timeout_s: float = setting(600.0, above=0, flags=("--request-timeout",))
    max_body: int | None = setting(None, least=1, told="1 MiB; 32 MiB where the model sees images")
    max_images: int = setting(16, least=0)
    max_concurrency: int = setting(64, least=1)
    max_queue: int = setting(256, least=0)
    log_words: bool = setting(False, flags=("--log-words",), panel="Network")
    ignore_tools: bool = setting(False, flags=("--ignore-tools",), panel="Knob")
    adapters: Collection[str] = ()

    def __post_init__(self) -> None:
        check_settings(self)

    def body_limit(self, sees: bool) -> int:
        """Most bytes of a request; ``sees`` says whether the model takes images."""
        if self.max_body is not None:
            return self.max_body
        return IMAGES_BODY if sees else TEXT_BODY


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request, resolved. Without preferences and reward models it is ``plain``: ordinary sampling from the model.

    prompts: raw texts to continue, in place of messages; ``choices`` are those of all of them. prefix: the tokens that
    every candidate begins with.
    """

    model: str
    messages: tuple[Message, ...]
    preferences: tuple[Preference, ...]
    settings: Settings
    prompts: tuple[str, ...] = ()
    choices: int = 1
    stops: tuple[str, ...] = ()
    logprobs: bool = False
    details: bool = False
    pieces: bool = False
    progress: bool = False
    stream: bool = False
    include_usage: bool = False
    deadline_s: float | None = None
    prefix: Tokens = ()

    @property
    def plain(self) -> bool:
        """Whether there is nothing to realign with."""
        settings = self.settings
        bare = (
            not self.preferences and settings.prompt.history == "both" and settings.arms == NO_ARMS
        )
        return bool(self.prompts) or bare

    @property
    def words(self) -> list[dict[str, Any]]:
        """Messages, prompts and preferences for an operator's log; images by their digests, never their data."""
        said = [
            {
                "role": message.role,
                "content": message.content,
                "images": [image.digest for image in message.images],
            }
            for message in self.messages
        ]
        return [
            *said,
            *({"prompt": text} for text in self.prompts),
            *map(asdict, self.preferences),
        ]


def resolve(body: ChatBody | CompletionBody, config: ServerConfig, *, guides: bool) -> Job:
    """The job that ``body`` asks for; ``guides`` is whether the engine can choose every token.

    Raises :class:`ApiError` and :class:`~preftilt.errors.BadInput`.
    """
    _refuse_tools(body, config)
    _refuse_adapters(body.model, config)
    named = read_name(body.model, config.model, config.presets)
    knob = body.preftilt or Knob()
    prompts: tuple[str, ...] = ()
    changes: dict[str, Any] = {}
    if isinstance(body, CompletionBody):
        messages, preferences, prompts = (), (), tuple(body.prompt)
        _refuse_knob(knob, named)
    else:
        messages, preferences = _words(body, knob, named.preset, config)
        guidance = read_guidance(body.guidance_scale, body.negative_prompt)
        if guidance is not None:
            messages, preferences, changes = _guided(guidance, messages, preferences, knob, named)
    pieces = bool(_first(knob.pieces, named.preset.pieces))
    job = Job(
        model=body.model,
        messages=messages,
        preferences=preferences,
        settings=settled(
            _settings(body, knob, named, config, changes), guides, answers=body.n or 1
        ),
        prompts=prompts,
        choices=(body.n or 1) * max(1, len(prompts)),
        stops=tuple(body.stop or ()),
        logprobs=_wants_logprobs(body),
        details=bool(_first(knob.details, named.preset.details)) or pieces,
        pieces=pieces,
        progress=body.preftilt is not None and knob.progress is not False,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        deadline_s=_first(knob.deadline_s, named.preset.deadline_s, config.deadline_s),
        prefix=tuple(_first(knob.prefix, named.preset.prefix, ())),
    )
    _check(job, body, knob, named, config)
    return job


def _refuse_tools(body: ChatBody | CompletionBody, config: ServerConfig) -> None:
    """The model is never shown tools: refused unless the request forbids calling them or the operator ignores them."""
    if isinstance(body, CompletionBody) or not body.tools:
        return
    if body.tool_choice != "none" and not config.ignore_tools:
        raise ApiError(
            400,
            '"tools" is not implemented; turn them off in the client, or start the server with --ignore-tools'
            " (ignore_tools in vLLM's --additional-config), which answers as if none were offered",
            param="tools",
        )


def _refuse_adapters(model: str, config: ServerConfig) -> None:
    """A request's views are drawn and scored by the served model, never by an adapter on it."""
    head = model.rpartition(":")[0]
    adapter = next((name for name in (model, head) if name in config.adapters), None)
    if adapter is not None and model != config.model:
        raise ApiError(
            400,
            f"{adapter!r} is a LoRA adapter, which can be neither guided nor scored here: merge it into the model and"
            " serve that one, or ask it without the preftilt object, guidance_scale, negative_prompt and suffixes of"
            f" its name, to be answered as it is; the model {config.model!r} can be guided",
            param="model",
        )


def _refuse_knob(knob: Knob, named: ParsedModelName) -> None:
    """Preference fields are refused for a raw prompt, which has no place for a preference."""
    if named.asks or _turned(knob):
        raise ApiError(
            400,
            "/v1/completions continues a text as it stands, where a preference has no place; use /v1/chat/completions",
            param="preftilt" if _turned(knob) else "model",
        )


def _words(
    body: ChatBody, knob: Knob, preset: Knob, config: ServerConfig
) -> tuple[tuple[Message, ...], tuple[Preference, ...]]:
    """The conversation and the preferences; a system message that is the preference leaves the conversation."""
    turns = [(OTHER_ROLES.get(turn.role, turn.role), turn.parts) for turn in body.messages]
    messages = tuple(join_leading_system(read_turns(turns, config.max_images)))
    check_messages(messages)
    preferences = knob.wishes or preset.wishes
    source = _first(knob.preference_from, preset.preference_from, config.preference_from)
    first = messages[0]
    if preferences or source != "system" or first.role != "system" or not first.content.strip():
        return messages, preferences
    return messages[1:], (Preference(first.content),)


def _guided(
    guidance: Guidance,
    messages: tuple[Message, ...],
    preferences: tuple[Preference, ...],
    knob: Knob,
    named: ParsedModelName,
) -> tuple[tuple[Message, ...], tuple[Preference, ...], dict[str, Any]]:
    """The words and the settings of a request with a guidance scale, which nothing else in it may contradict."""
    stated = {**named.preset.changes(), **named.suffix, **knob.changes()}
    strengths = [preference.strength for preference in preferences]
    own = [strength for strength in strengths if strength not in (None, guidance.scale)]
    if own:
        raise ApiError(
            400,
            f"guidance_scale is {guidance.scale:g}, and a preference has the strength {own[0]:g}; give one of them",
            param="guidance_scale",
        )
    messages, preferences, changes = guidance.settings(messages, preferences)
    check_agreement(changes, stated)
    search = {**(stated.get("search") or {}), "name": "cfg"}
    return messages, preferences, changes | {"search": search}


def _settings(
    body: ChatBody | CompletionBody,
    knob: Knob,
    named: ParsedModelName,
    config: ServerConfig,
    guided: Mapping[str, Any],
) -> Settings:
    """The server's settings, changed by the preset, the suffix, the body and its guidance, in this order."""
    settings = config.settings
    if not config.seeded:
        settings = replace(settings, seed=secrets.randbits(31))
    own = knob.changes()
    for name, value in _openai_settings(body).items():
        if own.setdefault(name, value) != value:
            raise ApiError(
                400,
                f"{name} and preftilt.{name} differ; give one of them",
                param=f"preftilt.{name}",
            )
    return SettingsPatch.model_validate(own | dict(guided)).apply(_named_settings(settings, named))


def defaults_of(name: str, config: ServerConfig, *, guides: bool) -> Settings:
    """The settings of a request to the model ``name`` that sets nothing itself; ``guides`` as for :func:`resolve`."""
    named = read_name(name, config.model, config.presets)
    return settled(_named_settings(config.settings, named), guides)


def _named_settings(settings: Settings, named: ParsedModelName) -> Settings:
    for changes in (named.preset.changes(), named.suffix):
        settings = SettingsPatch.model_validate(changes).apply(settings)
    return settings


def _openai_settings(body: ChatBody | CompletionBody) -> dict[str, Any]:
    """OpenAI's fields that are settings of ours, under our names."""
    limit = body.max_tokens
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        if limit not in (None, body.max_completion_tokens):
            raise ApiError(
                400, "max_tokens and max_completion_tokens differ; give one", param="max_tokens"
            )
        limit = body.max_completion_tokens
    sampling = {
        "max_tokens": limit,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "seed": body.seed,
    }
    return {name: value for name, value in sampling.items() if value is not None}


def _check(
    job: Job,
    body: ChatBody | CompletionBody,
    knob: Knob,
    named: ParsedModelName,
    config: ServerConfig,
) -> None:
    if job.plain:
        _check_plain(job, body, knob, named, config)
    elif job.settings.search.candidates > config.max_candidates:
        raise ApiError(
            400,
            f"the search draws {job.settings.search.candidates} candidates; this server draws"
            f" {config.max_candidates} a request at most",
            param="preftilt.search",
        )
    if isinstance(job.settings.search, ARGS):
        raise ApiError(
            400,
            "the search 'args' keeps neither stop strings nor deadlines, so it is not served: use preftilt run",
            param="preftilt.search",
        )
    most = config.max_candidates if job.plain else answers_of(job.settings.search)
    if job.prompts and job.choices > most:
        raise ApiError(
            400,
            f"{len(job.prompts)} prompts with n choices each are {job.choices} answers; this server draws {most} a"
            " request at most",
            param="prompt",
        )
    if job.choices > most:
        raise ApiError(
            400,
            f"n is {job.choices}, but the search ends with {most} answers at most; let it draw more (preftilt.n)",
            param="n",
        )


def answers_of(search: Search) -> int:
    """How many candidates a search ends with: a tree search keeps one a subtree."""
    return search.subtrees if isinstance(search, DVTS) else search.candidates


def _check_plain(
    job: Job,
    body: ChatBody | CompletionBody,
    knob: Knob,
    named: ParsedModelName,
    config: ServerConfig,
) -> None:
    """Refuse fields that have no effect without a preference; the operator's defaults may have such."""
    from_system = _first(knob.preference_from, named.preset.preference_from, config.preference_from)
    if job.details or _turned(knob) or (named.asks and from_system != "system"):
        raise ApiError(
            400,
            "there is no preference to follow: state it in preftilt.preference, or in the system message"
            + ("" if from_system == "system" else ' with preftilt.preference_from "system"'),
            param="preftilt.preference",
        )


def _turned(knob: Knob) -> set[str]:
    """The fields that are set and have no effect without a preference."""
    return {name for name, value in knob if value not in (None, False, [])} - HARMLESS


def _wants_logprobs(body: ChatBody | CompletionBody) -> bool:
    if isinstance(body, CompletionBody):
        return body.logprobs is not None
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs belongs to logprobs: true", param="top_logprobs")
    return bool(body.logprobs)


def _first(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def knob_card(name: str, config: ServerConfig, capabilities: Capabilities) -> dict[str, Any]:
    """The ``preftilt`` object of the model ``name`` in ``/v1/models``: the search and λ of requests that name none,
    and what its engine can do.

    The served model's own name may be followed by a suffix, and has one of every kind. Reward models that requests
    may name stand beside them, with their objectives. Raises a 404 for a name that is none.
    """
    settings = defaults_of(name, config, guides=capabilities.guides)
    card: dict[str, Any] = {
        "search": asdict(settings.search),
        "lambda": settings.lam,
        "guides": capabilities.guides,
        "alternatives": capabilities.proposes,
    }
    if name == config.model:
        card["suffixes"] = [f"{name}:{suffix}" for suffix in SUFFIXES]
    arms = {arm.name: [goal.name for goal in arm.objectives] for arm in capabilities.arms}
    return card | ({"arms": arms} if arms else {})
