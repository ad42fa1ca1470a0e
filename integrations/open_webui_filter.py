"""
title: preftilt: how strongly your preference counts
author: preftilt
version: 0.1.0
required_open_webui_version: 0.5.17
license: Apache-2.0
description: Every user states a preference and its strength; models that preftilt serves follow it as strongly as said.
"""

# A filter Function of Open WebUI: paste this file under Admin Panel > Functions, and switch it on for the models that
# preftilt serves. It stands alone, as Open WebUI runs it: preftilt itself is not installed there.

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel, Field

Emit = Callable[[dict[str, Any]], Awaitable[None]]
WHERE = "under Controls > Valves > Functions > preftilt"


class Filter:
    """Writes the ``preftilt`` object into a chat's request, and tells how its answer comes along."""

    class Valves(BaseModel):
        """What the administrator decides."""

        priority: int = Field(default=0, description="Of several filters the lowest comes first.")
        models: str = Field(
            default="",
            description="Names of models that preftilt serves, or what they begin with, by commas. Empty: those that"
            " the filter is switched on for.",
        )
        search: str = Field(
            default="",
            description="How answers are searched for: cfg, best-of-n, dvts … Empty: the server's default.",
        )
        n: int = Field(default=0, ge=0, description="Answers to pick from. 0: the default.")

    class UserValves(BaseModel):
        """What every user decides. Any text is accepted as the strength, and refused in the chat, where words can be
        shown: of settings that are refused here Open WebUI only says that they were not saved."""

        preference: str = Field(
            default="", description="What you want of every answer. Empty: answers as they are."
        )
        strength: float | str = Field(
            default="",
            description="1 is the model as it is; more follows your preference more strongly, and below 0 turns away"
            " from it. Empty: the server's default.",
        )
        show_progress: bool = Field(default=True, description="Show what is being done.")

    seconds_between = 2.0
    """Progress is told no more often: Open WebUI keeps every status, and rewrites the whole chat for each."""

    def __init__(self) -> None:
        self.valves = self.Valves()
        self._told: WeakKeyDictionary[Emit, float] = WeakKeyDictionary()

    async def inlet(
        self,
        body: dict[str, Any],
        __user__: dict[str, Any] | None = None,
        __event_emitter__: Emit | None = None,
        __metadata__: dict[str, Any] | None = None,
        __model__: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The request with the user's preference; as it was where there is none, and in the background's questions."""
        if (__metadata__ or {}).get("task") or not self._serves(body, __model__):
            return body
        user = self._of(__user__)
        text = user.preference.strip()
        if not text:
            return body
        strength = _number(user.strength)
        knob: dict[str, Any] = {
            "preference": {"text": text} | ({} if strength is None else {"lambda": strength}),
            "progress": user.show_progress and bool(body.get("stream")),
        }
        search = {"name": self.valves.search, "n": self.valves.n}
        if named := {name: value for name, value in search.items() if value}:
            knob["search"] = named
        if user.show_progress:
            await _tell(__event_emitter__, _with("following your preference", strength))
        return body | {"preftilt": knob | (body.get("preftilt") or {})}

    async def stream(
        self,
        event: dict[str, Any],
        __event_emitter__: Emit | None = None,
    ) -> dict[str, Any]:
        """A chunk of the answer without its progress, which is told as a status."""
        for choice in event.get("choices") or ():
            progress = (choice.get("delta") or {}).pop("preftilt", None)
            if progress is not None and self._is_due(__event_emitter__):
                told = f"{progress['phase']}: {progress['sampled']} tokens drawn"
                scored = progress["scored"]
                await _tell(__event_emitter__, f"{told}, {scored} scored" if scored else told)
        return event

    async def outlet(
        self,
        body: dict[str, Any],
        __user__: dict[str, Any] | None = None,
        __event_emitter__: Emit | None = None,
        __model__: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The chat as it is; the status says that the answer is there."""
        if self._serves(body, __model__):
            user = self._of(__user__)
            if user.preference.strip() and user.show_progress:
                words = _with("followed your preference", _number(user.strength))
                await _tell(__event_emitter__, words)
        return body

    def _of(self, user: dict[str, Any] | None) -> UserValves:
        """The user's valves: an object in new versions of Open WebUI, a dict in old ones. Of some that it cannot read
        any more it only tells its log, and leaves them out, or those of another filter in their place."""
        valves = (user or {}).get("valves")
        if isinstance(valves, dict):
            return self.UserValves(**valves)
        if not isinstance(valves, self.UserValves):
            raise ValueError(f"preftilt: your settings cannot be read; set them anew {WHERE}")
        return valves

    def _serves(self, body: dict[str, Any], model: dict[str, Any] | None) -> bool:
        """Whether the model, or that which one of the workspace builds on, is among the administrator's."""
        names = tuple(name.strip() for name in self.valves.models.split(",") if name.strip())
        base = ((model or {}).get("info") or {}).get("base_model_id")
        return not names or any(
            (name or "").startswith(names) for name in (body.get("model"), base)
        )

    def _is_due(self, emit: Emit | None) -> bool:
        """Whether to tell a request's progress: every request has an emitter of its own."""
        now = time.monotonic()
        due = emit is not None and now >= self._told.get(emit, -math.inf) + self.seconds_between
        if emit is not None and due:
            self._told[emit] = now
        return due


def _number(strength: float | str) -> float | None:
    """The strength; None where it is left to the server."""
    words = str(strength).strip()
    try:
        number = float(words) if words else None
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise ValueError(
            f'preftilt: the strength must be a number such as 2, not "{words}"; set it {WHERE}'
        )
    return number


def _with(words: str, strength: float | None) -> str:
    return words if strength is None else f"{words}, λ = {strength:g}"


async def _tell(emit: Emit | None, words: str) -> None:
    """Show a status. Each is called done: an answer that is stopped or refused has no last word, and one that is not
    done would shimmer for ever."""
    if emit is not None:
        await emit({"type": "status", "data": {"description": words, "done": True}})
