"""What clients send: OpenAI's request bodies with the ``preftilt`` object, checked field by field.

A field that is not implemented says so in its description and accepts the values under which it changes nothing;
any other value is refused by name. Null is the same as absent, as in OpenAI's own API.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from preftilt.records.patch import Count, SearchPatch, SettingsPatch, Strict, Visible, complaints
from preftilt.records.rows import PreferenceRow
from preftilt.server.failures import ApiError
from preftilt.server.guidance import LARGEST
from preftilt.server.pictures import Part
from preftilt.types import Preference

MAX_CHOICES = 128
MAX_STOPS = 4
MAX_ALTERNATIVES = 100
UNSUPPORTED = "Not implemented"


def _only(accepted: str) -> Any:
    """The default and description of a field that has no effect here."""
    return Field(default=None, description=f"{UNSUPPORTED}; only {accepted} is accepted.")


TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Zero = Annotated[float, Field(ge=0, le=0)]
Empty = Annotated[list[dict[str, Any]], Field(max_length=0)]
StopText = Annotated[str, Field(min_length=1)]
StopTexts = Annotated[list[StopText], Field(max_length=MAX_STOPS)]
Stops = Annotated[
    StopTexts,
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value,
        json_schema_input_type=Union[StopText, StopTexts],  # noqa: UP007
    ),
]


class Wish(PreferenceRow):
    """A preference with its own strength, under the name ``lambda`` or that of a row, ``strength``."""

    lam: float | None = Field(default=None, alias="lambda")

    @model_validator(mode="after")
    def _one_strength(self) -> Wish:
        if self.lam is not None and self.strength is not None:
            raise ValueError('"lambda" and "strength" are the same; give one')
        return self

    def preference(self) -> Preference:
        """The noun."""
        return Preference(self.text, self.strength if self.lam is None else self.lam)


WishField = Annotated[
    Wish,
    BeforeValidator(
        lambda value: {"text": value} if isinstance(value, str) else value,
        json_schema_input_type=Visible | Wish,
    ),
]
SearchField = Annotated[
    SearchPatch | None,
    BeforeValidator(
        lambda value: {"name": value} if isinstance(value, str) else value,
        json_schema_input_type=str | SearchPatch | None,
    ),
]


class Knob(SettingsPatch):
    """The ``preftilt`` object: preferences, and changes to settings under the names of ``preftilt run``'s rows."""

    search: SearchField = None
    n: Count | None = Field(default=None, description="Short for search.n: candidates.")
    preference: WishField | None = None
    preferences: Annotated[list[WishField], Field(min_length=1, max_length=16)] | None = None
    preference_from: Literal["none", "system"] | None = Field(
        default=None, description="system: the conversation's system message is the preference."
    )
    deadline_s: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Seconds after which the best finished answer so far is taken."
    )
    details: bool | None = Field(default=None, description="Return the whole record.")
    pieces: bool | None = Field(
        default=None, description="Return it, and the text of every token of its candidates."
    )
    progress: bool | None = Field(default=None, description="Stream what is being done.")
    prefix: Annotated[list[TokenId], Field(min_length=1)] | None = Field(
        default=None,
        description="Token ids that every candidate begins with, as a record's candidates have them.",
    )

    @model_validator(mode="after")
    def _not_both(self) -> Knob:
        if self.preference and self.preferences:
            raise ValueError('"preference" and "preferences" exclude each other')
        if self.n is not None and self.search is not None and "n" in self.search.changes():
            raise ValueError('"n" and "search.n" are the same; give one')
        return self

    @property
    def wishes(self) -> tuple[Preference, ...]:
        """The preferences it states."""
        stated = self.preferences or ([self.preference] if self.preference else [])
        return tuple(preference.preference() for preference in stated)

    def changes(self) -> dict[str, Any]:
        """The changes to settings alone, as JSON of a :class:`SettingsPatch`."""
        changes = self.model_dump(
            by_alias=True, exclude_none=True, include=set(SettingsPatch.model_fields)
        )
        if self.n is not None:
            changes["search"] = {**changes.get("search", {}), "n": self.n}
        return changes


class StreamOptions(Strict):
    """OpenAI's ``stream_options``."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(
        default=None, description="Without effect: nothing is obfuscated."
    )


class Common(Strict):
    """What both endpoints take."""

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    preftilt: Knob | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        default=None, description="Choices to return: the best distinct candidates."
    )
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = Field(default=None, description="A fresh one for every request if absent.")
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="Accepted, without effect.")
    frequency_penalty: Zero | None = _only("0")
    presence_penalty: Zero | None = _only("0")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = _only("{}")


def _parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


WITHOUT_EFFECT = "Accepted, without effect: chat templates do not show it."


class ChatMessage(Strict):
    """A turn; ``developer`` is another name of ``system``. The assistant's may have no content."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"role": {"not": {"const": "assistant"}}}},
            "then": {
                "properties": {"content": {"not": {"type": "null"}}},
                "required": ["content"],
            },
        }
    )

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[list[Part], Field(min_length=1)] | None,
        BeforeValidator(_parts, json_schema_input_type=str | list[Part] | None),
    ] = None
    name: str | None = Field(default=None, description=WITHOUT_EFFECT)
    annotations: list[dict[str, Any]] | None = Field(default=None, description=WITHOUT_EFFECT)
    reasoning_content: str | None = Field(default=None, description=WITHOUT_EFFECT)
    reasoning: str | None = Field(default=None, description=WITHOUT_EFFECT)
    refusal: None = _only("null")
    audio: None = _only("null")
    function_call: None = _only("null")
    tool_calls: Empty | None = _only("[]")

    @model_validator(mode="after")
    def _said(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError("has no content; only the assistant's turns may have none")
        return self

    @property
    def parts(self) -> list[Part]:
        """What is said and shown, in order."""
        return self.content or []


class TextFormat(Strict):
    """Plain text."""

    type: Literal["text"]


class ChatBody(Common):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = _only("0")
    guidance_scale: Annotated[float, Field(ge=-LARGEST, le=LARGEST)] | None = Field(
        default=None, description="The strength λ of guided decoding; 1 is off."
    )
    negative_prompt: str | None = Field(
        default=None, description="What guidance_scale guides against, stated as a preference is."
    )
    metadata: dict[str, str] | None = Field(default=None, description="Accepted, without effect.")
    safety_identifier: str | None = Field(default=None, description="Accepted, without effect.")
    prompt_cache_key: str | None = Field(default=None, description="Accepted, without effect.")
    prompt_cache_retention: str | None = Field(default=None, description="Without effect.")
    parallel_tool_calls: bool | None = Field(default=None, description="Without effect.")
    store: Literal[False] | None = _only("false")
    service_tier: Literal["auto", "default"] | None = _only('"auto" or "default"')
    tools: list[dict[str, Any]] | None = _only('[], or any with tool_choice "none"')
    tool_choice: Literal["none", "auto"] | None = _only('"none" or "auto"')
    functions: Empty | None = _only("[]")
    function_call: Literal["none", "auto"] | None = _only('"none" or "auto"')
    response_format: TextFormat | None = _only('{"type": "text"}')
    modalities: list[Literal["text"]] | None = _only('["text"]')
    verbosity: Literal["medium"] | None = _only('"medium"')
    audio: None = _only("null")
    prediction: None = _only("null")
    reasoning_effort: None = _only("null")
    web_search_options: None = _only("null")
    prompt_cache_options: None = _only("null")
    moderation: None = _only("null")

    @property
    def shows(self) -> bool:
        """Whether it has pictures."""
        return any(
            part.image_url is not None for message in self.messages for part in message.parts
        )


class AlternativesBody(ChatBody):
    """The body of ``/v1/preftilt/alternatives``: a chat request, and how many tokens to tell behind its prefix."""

    count: Annotated[int, Field(ge=1, le=MAX_ALTERNATIVES)] = Field(
        default=8,
        description="Tokens of each view, and of the mixture, that are told: the likeliest.",
    )
    token: TokenId | None = Field(default=None, description="A token that is told in any case.")


class InfluenceBody(ChatBody):
    """The body of ``/v1/preftilt/influence``: a chat request, and the answer that is explained."""

    response: Visible


Prompt = Annotated[str, Field(min_length=1)]
Prompts = Annotated[list[Prompt], Field(min_length=1, max_length=MAX_CHOICES)]


class CompletionBody(Common):
    """The body of ``/v1/completions``: raw text that the model continues, without a chat template or a preference."""

    prompt: Annotated[
        Prompts,
        BeforeValidator(
            lambda value: [value] if isinstance(value, str) else value,
            json_schema_input_type=Union[Prompt, Prompts],  # noqa: UP007
        ),
    ] = Field(description="A text, or several: their choices follow each other, n a prompt.")
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = _only("0 (the chosen tokens)")
    best_of: Annotated[int, Field(ge=1, le=1)] | None = _only("1 (see preftilt.search)")
    guidance_scale: Annotated[float, Field(ge=1, le=1)] | None = _only(
        "1 (a raw text has nothing to guide by; see /v1/chat/completions)"
    )
    negative_prompt: Annotated[str, Field(max_length=0)] | None = _only('""')
    echo: Literal[False] | None = _only("false")
    suffix: None = _only("null")


B = TypeVar("B", bound=BaseModel)


def check_body(data: Any, model: type[B]) -> B:
    """The body as ``model``; raises a 400 that names the first field at fault and says all there is to say."""
    if not isinstance(data, dict):
        raise ApiError(400, "the body must be a JSON object")
    try:
        return model.model_validate(data)
    except ValidationError as failure:
        first = failure.errors(include_url=False, include_context=False)[0]["loc"]
        param = ".".join(map(str, first)) or None
        raise ApiError(400, "; ".join(_told(failure, model)), param=param) from None


def _told(failure: ValidationError, model: type[BaseModel]) -> list[str]:
    """One sentence a problem; a field that is not implemented says that, once."""
    told = []
    details = failure.errors(include_url=False, include_context=False)
    for error, sentence in zip(details, complaints(failure, model), strict=True):
        name, field = _innermost(error["loc"], model)
        about = (field.description or "") if field else ""
        if about.startswith(UNSUPPORTED) and error["type"] != "extra_forbidden":
            sentence = f'"{name}" is n{about[1:].removesuffix(".")}'
        told.append(sentence)
    return list(dict.fromkeys(told))


def _innermost(place: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, Any]:
    """The field of ``model``, or of one of its messages, that a problem lies in."""
    fields: dict[str, Any] = dict(model.model_fields)
    if place[:1] == ("messages",) and len(place) > 2:
        fields, place = dict(ChatMessage.model_fields), place[2:]
    name = str(place[0]) if place else ""
    return name, fields.get(name)
