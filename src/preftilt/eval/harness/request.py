"""What a benchmark asks of every method: a conversation, preferences, and where both stand in the prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from preftilt.images import Image
from preftilt.messages import Message
from preftilt.prompt import PromptSettings, with_preferences
from preftilt.types import Preference


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRequest:
    """A question as an item of a benchmark asks it; ``prompt`` says where its parts stand.

    ``preferences`` is empty where the history is the preference (``prompt.history``), or where there is none at all.
    """

    messages: tuple[Message, ...]
    preferences: tuple[Preference, ...] = ()
    prompt: PromptSettings = field(default_factory=PromptSettings)

    @property
    def plain(self) -> bool:
        """Whether there is no preference in it: it can be answered, not realigned."""
        return not self.preferences and self.prompt.history == "both"

    def conversation(self) -> list[Message]:
        """The words that an answer is drawn from, as a chat: what a model without preftilt is given."""
        if self.prompt.generate_with == "full":
            return with_preferences(self.messages, self.preferences, self.prompt)
        if self.prompt.history == "both":
            return with_preferences(self.messages, (), self.prompt)
        system = [message for message in self.messages if message.role == "system"]
        turns = [message for message in self.messages if message.role != "system"]
        return [*system, *turns[self.prompt.preference_turns or len(turns) - 1 :]]

    def going_on(self, answer: str, then: str) -> BenchmarkRequest:
        """The same request after one more exchange: the model's ``answer`` and the user's next turn."""
        more = (Message("assistant", answer), Message("user", then))
        turns = self.prompt.preference_turns
        if self.prompt.history == "preference" and turns is None:
            turns = sum(message.role != "system" for message in self.messages) - 1
        prompt = replace(self.prompt, preference_turns=turns)
        return replace(self, messages=(*self.messages, *more), prompt=prompt)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON: what travels in a sample's metadata."""
        return {
            "messages": [asdict(message) for message in self.messages],
            "preferences": [asdict(preference) for preference in self.preferences],
            "prompt": asdict(self.prompt),
        }


def read_request(data: Mapping[str, Any]) -> BenchmarkRequest:
    """The request that :meth:`BenchmarkRequest.to_json` wrote."""
    known = {field.name for field in fields(PromptSettings)}
    return BenchmarkRequest(
        messages=tuple(_message(message) for message in data["messages"]),
        preferences=tuple(Preference(**preference) for preference in data["preferences"]),
        prompt=PromptSettings(**{k: v for k, v in data["prompt"].items() if k in known}),
    )


def _message(data: Mapping[str, Any]) -> Message:
    images = tuple(Image(**image) for image in data["images"])
    return Message(data["role"], data["content"], images)
