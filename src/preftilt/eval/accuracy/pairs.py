"""What is compared: a preferred response and dispreferred ones to the same conversation, of a user."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from preftilt.messages import Message
from preftilt.types import Preference


@dataclass(frozen=True, slots=True)
class Example:
    """What a user asked before, and the response they wanted."""

    question: str
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One preferred response and at least one dispreferred one: as many pairs as there are dispreferred ones.

    user: whose taste it is; intervals resample users. group: what the breakdown is by. examples: the user's past,
    oldest first. place: where it was read, for errors.
    """

    id: str
    user: str
    group: str
    messages: tuple[Message, ...]
    preferences: tuple[Preference, ...]
    chosen: str
    rejected: tuple[str, ...]
    examples: tuple[Example, ...] = ()
    place: str = ""

    @property
    def responses(self) -> tuple[str, ...]:
        """All of them, the preferred one first."""
        return (self.chosen, *self.rejected)

    def fingerprint(self, how: Mapping[str, Any]) -> str:
        """A digest of the words, and of ``how`` they are measured."""
        whole = {name: value for name, value in asdict(self).items() if name != "place"}
        return digest(whole | {"how": dict(how)})


def digest(whole: Mapping[str, Any]) -> str:
    """A short digest of JSON values."""
    text = json.dumps(whole, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode(errors="backslashreplace"), digest_size=12).hexdigest()


def users_of(items: Sequence[Comparison]) -> dict[str, list[int]]:
    """The places of every user's comparisons, users in the order of their first one."""
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item.user, []).append(place)
    return places
