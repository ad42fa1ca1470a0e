"""The OpenAPI document: bodies from the models that check them, replies as far as clients may rely on them."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from preftilt.server.wire import AlternativesBody, ChatBody, CompletionBody, InfluenceBody

STATUSES = {
    400: "Not a request that can be served as asked; `param` names the field at fault.",
    401: "The key is missing or wrong.",
    403: "A server without a key, asked under a name that is not local.",
    404: "No such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    429: "Too many requests; see Retry-After.",
    500: "A failure that nobody foresaw.",
    502: "The engine failed.",
    504: "No answer in time.",
}
DOCUMENTED = {
    "/v1/chat/completions": ("post", "Answer a conversation", "ChatBody", "ChatReply"),
    "/v1/completions": ("post", "Continue a raw text", "CompletionBody", "TextReply"),
    "/v1/preftilt/cost": ("post", "What a chat request can cost at most", "ChatBody", "Cost"),
    "/v1/preftilt/alternatives": (
        "post",
        "The likeliest tokens behind a prefix",
        "AlternativesBody",
        "Alternatives",
    ),
    "/v1/preftilt/influence": (
        "post",
        "What every sentence of a preference does for an answer",
        "InfluenceBody",
        "Influence",
    ),
    "/v1/models": ("get", "The model and its presets", None, "ModelList"),
    "/v1/models/{name}": ("get", "One of them, or the model with a suffix", None, "Model"),
    "/health": ("get", "Whether the server lives", None, "Status"),
    "/ready": ("get", "Whether it takes requests", None, "Status"),
    "/metrics": ("get", "Counters, in Prometheus' format", None, None),
}
STREAMS = ("/v1/chat/completions", "/v1/completions")


def document(title: str, version: str) -> dict[str, Any]:
    """The whole document."""
    models = (ChatBody, CompletionBody, AlternativesBody, InfluenceBody)
    _, bodies = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": version,
            "description": "OpenAI's API with the preference as a knob: the `preftilt` object of a body.",
        },
        "paths": {path: _path(path) for path in DOCUMENTED},
        "components": {
            "schemas": bodies["$defs"] | _replies(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _path(path: str) -> dict[str, Any]:
    method, summary, body, reply = DOCUMENTED[path]
    said: dict[str, Any] = {"summary": summary, "responses": _responses(path, reply)}
    if body is not None:
        said["requestBody"] = {"required": True, "content": _json(body)}
    if "{name}" in path:
        named = {"name": "name", "in": "path", "required": True}
        said["parameters"] = [named | {"schema": {"type": "string"}}]
    return {method: said}


def _responses(path: str, reply: str | None) -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}} if reply is None else _json(reply)
    if path in STREAMS:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": content}}
    for status, description in STATUSES.items():
        responses[str(status)] = {"description": description, "content": _json("Failure")}
    if path == "/ready":
        responses["503"] = {"description": "The queue is full.", "content": _json("Status")}
    return responses


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _replies() -> dict[str, Any]:
    text, whole, words = {"type": "string"}, {"type": "integer", "minimum": 0}, ["string", "null"]
    counts = {"type": "object", "additionalProperties": whole}
    usage = _object(
        prompt_tokens=whole,
        completion_tokens=whole,
        total_tokens=whole,
        preftilt=_object(
            candidates=whole,
            sampled=whole,
            scored=counts,
            cached=whole,
            duplicates=whole,
            prompt=counts,
        ),
    )
    finish = {"enum": ["stop", "length", "content_filter", "tool_calls"]}
    failure = _object(message=text, type=text, param={"type": words}, code={"type": words})
    head = {
        "id": text,
        "created": whole,
        "model": text,
        "usage": {"$ref": "#/components/schemas/Usage"},
    }
    message = _object(role={"const": "assistant"}, content=text)
    bounds = _object(sampled=whole, scored=whole)
    nats = {"type": ["number", "null"]}
    sentence = _object(source=text, text=text, nats=nats, dead={"type": "boolean"})
    return {
        "Usage": usage,
        "Failure": _object(error=failure),
        "ChatReply": _object(
            **head, choices=_array(_object(index=whole, message=message, finish_reason=finish))
        )
        | {"description": "`preftilt`, if asked for: what `preftilt schema realigned` describes."},
        "TextReply": _object(
            **head, choices=_array(_object(index=whole, text=text, finish_reason=finish))
        ),
        "Cost": _object(
            candidates=whole, max_tokens=whole, prompt=counts, at_most=bounds, if_even=bounds
        ),
        "Alternatives": _object(
            object={"const": "preftilt.alternatives"},
            position=whole,
            weights={"type": "object", "additionalProperties": {"type": "number"}},
            tokens=_array(
                _object(
                    token=whole,
                    text=text,
                    ends={"type": "boolean"},
                    logprobs={"type": "object", "additionalProperties": nats},
                    mixed=nats,
                )
            ),
        ),
        "Influence": _object(text=text, logprob=nats, total=nats, sentences=_array(sentence))
        | {"description": "What `preftilt schema influence` describes."},
        "Model": _object(id=text, object={"const": "model"}, created=whole, owned_by=text),
        "ModelList": _object(data=_array({"$ref": "#/components/schemas/Model"})),
        "Status": _object(status=text),
    }


def _object(**required: Any) -> dict[str, Any]:
    return {"type": "object", "properties": required, "required": list(required)}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}
