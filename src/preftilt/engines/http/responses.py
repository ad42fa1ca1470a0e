"""Servers' responses: pydantic models of the fields that are used."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

TokenId = Annotated[int, Field(ge=0)]


class ModelCard(BaseModel):
    """One model of ``/v1/models``; ``max_model_len`` and ``root`` are vLLM's and SGLang's."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: Annotated[int, Field(gt=0)] | None = None


class ModelList(BaseModel):
    """``GET /v1/models``."""

    data: list[ModelCard]


class PromptTokensDetails(BaseModel):
    """How many tokens of a prompt came from the server's cache."""

    cached_tokens: int | None = None


class TokenUsage(BaseModel):
    """The ``usage`` object."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptTokensDetails | None = None


class CompletionLogprobs(BaseModel):
    """OpenAI's log-probs of a completion: one entry a token; the first of a prompt has none."""

    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float | None] = Field(default_factory=list)


class PromptLogprob(BaseModel):
    """vLLM's log-prob of one token at one position of a prompt."""

    logprob: float | None


PromptLogprobs = list[dict[int, PromptLogprob] | None]


class CompletionChoice(BaseModel):
    """One completion; ids and ``prompt_logprobs`` are vLLM's."""

    index: int
    text: str
    finish_reason: str | None = None
    logprobs: CompletionLogprobs | None = None
    token_ids: list[TokenId] | None = None
    prompt_token_ids: list[TokenId] | None = None
    prompt_logprobs: PromptLogprobs | None = None


class Completions(BaseModel):
    """``POST /v1/completions``."""

    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage | None = None


class GenerateResponse(BaseModel):
    """``POST /inference/v1/generate`` of vLLM, with the log-probs of its prompt."""

    prompt_logprobs: PromptLogprobs | None = None
    usage: TokenUsage | None = None


class ReplyMessage(BaseModel):
    """The message of a chat completion. A refusal, or reasoning alone, has no content."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(BaseModel):
    """One choice of a chat completion."""

    index: int
    message: ReplyMessage
    finish_reason: str | None = None


class ChatDelta(BaseModel):
    """One choice in an event of a stream: its ``delta``, or the ``message`` of an answer that was not streamed."""

    index: int
    delta: ReplyMessage | None = None
    message: ReplyMessage | None = None
    finish_reason: str | None = None


class ChatChunk(BaseModel):
    """An event of ``POST /v1/chat/completions``."""

    model: str
    choices: list[ChatDelta]


class ChatCompletions(BaseModel):
    """``POST /v1/chat/completions``."""

    model: str
    choices: list[ChatChoice]


class Version(BaseModel):
    """``GET /version`` of vLLM."""

    version: str
