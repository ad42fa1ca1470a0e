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

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, Field

Emit = Callable[[dict[str, Any]], Awaitable[None]]


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
        """What every user decides."""

        preference: str = Field(
            default="", description="What you want of every answer. Empty: answers as they are."
        )
        strength: float = Field(
            default=3.0,
            description="1 is the model as it is; more follows your preference more strongly, and below 0 turns away"
            " from it.",
        )
        show_progress: bool = Field(default=True, description="Show what is being done.")

    def __init__(self) -> None:
        self.valves = self.Valves()

    async def inlet(
        self,
        body: dict[str, Any],
        __user__: dict[str, Any] | None = None,
        __event_emitter__: Emit | None = None,
        __metadata__: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The request with the user's preference; as it was where there is none, and in the background's questions."""
        user = self._of(__user__)
        text = user.preference.strip()
        if not text or (__metadata__ or {}).get("task") or not self._serves(body.get("model", "")):
            return body
        knob: dict[str, Any] = {
            "preference": {"text": text, "lambda": user.strength},
            "progress": user.show_progress and bool(body.get("stream")),
        }
        search = {"name": self.valves.search, "n": self.valves.n}
        if named := {name: value for name, value in search.items() if value}:
            knob["search"] = named
        if user.show_progress:
            await _tell(__event_emitter__, f"following your preference, λ = {user.strength:g}")
        return body | {"preftilt": knob | (body.get("preftilt") or {})}

    async def stream(
        self,
        event: dict[str, Any],
        __event_emitter__: Emit | None = None,
    ) -> dict[str, Any]:
        """A chunk of the answer without its progress, which is told as a status."""
        for choice in event.get("choices") or ():
            progress = (choice.get("delta") or {}).pop("preftilt", None)
            if progress is not None:
                told = f"{progress['phase']}: {progress['sampled']} tokens drawn"
                scored = progress["scored"]
                await _tell(__event_emitter__, f"{told}, {scored} scored" if scored else told)
        return event

    async def outlet(
        self,
        body: dict[str, Any],
        __user__: dict[str, Any] | None = None,
        __event_emitter__: Emit | None = None,
    ) -> dict[str, Any]:
        """The chat as it is; the status says that the answer is there."""
        user = self._of(__user__)
        if user.preference.strip() and user.show_progress and self._serves(body.get("model", "")):
            await _tell(
                __event_emitter__, f"followed your preference, λ = {user.strength:g}", done=True
            )
        return body

    def _of(self, user: dict[str, Any] | None) -> UserValves:
        """The user's valves: an object in new versions of Open WebUI, a dict in old ones."""
        valves = (user or {}).get("valves") or {}
        return self.UserValves(**(valves if isinstance(valves, dict) else valves.model_dump()))

    def _serves(self, model: str) -> bool:
        names = [name.strip() for name in self.valves.models.split(",") if name.strip()]
        return not names or model.startswith(tuple(names))


async def _tell(emit: Emit | None, words: str, *, done: bool = False) -> None:
    if emit is not None:
        await emit({"type": "status", "data": {"description": words, "done": done}})
