"""``guidance_scale`` and ``negative_prompt``, as text-generation-webui and SillyTavern send them, in our own settings.

Their rule is classifier-free guidance (Sanchez et al., 2023): l_negative + scale · (l_positive − l_negative). That is
the guided search with λ = scale, and with the negative prompt as the contrast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preftilt.messages import Message
from preftilt.server.failures import ApiError
from preftilt.types import Preference

OFF = 1.0
"""The scale under which nothing is guided."""

LARGEST = 100.0
"""The largest scale, and the lowest negative one."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """A scale other than :data:`OFF`, and the negative prompt, if any."""

    scale: float
    negative: str | None

    def settings(
        self, messages: tuple[Message, ...], preferences: tuple[Preference, ...]
    ) -> tuple[tuple[Message, ...], tuple[Preference, ...], dict[str, Any]]:
        """The conversation, the preferences and the settings that guide as these fields say.

        Where no preference is stated, the system message is it. Where there is none either, the negative prompt is
        what the answer turns away from: l_positive + (1 − scale) · (l_negative − l_positive) is the same rule.

        Raises :class:`ApiError` where there is nothing to guide by.
        """
        first = messages[0]
        if not preferences and first.role == "system" and first.content.strip():
            messages, preferences = messages[1:], (Preference(first.content),)
        if preferences:
            contrast = {} if self.negative is None else {"against": self.negative}
            return messages, preferences, {"lambda": self.scale} | contrast
        if self.negative is None:
            raise ApiError(
                400,
                "guidance_scale has nothing to guide by: state a preference (preftilt.preference), a system message or"
                " a negative_prompt",
                param="guidance_scale",
            )
        return messages, (Preference(self.negative),), {"lambda": OFF - self.scale}


def read_guidance(scale: float | None, negative: str | None) -> Guidance | None:
    """What the fields ask for; None where they guide nothing. An empty negative prompt is none.

    Raises :class:`ApiError` for a negative prompt without a scale.
    """
    negative = negative if negative and negative.strip() else None
    if scale is None and negative is not None:
        raise ApiError(
            400,
            "negative_prompt is what guidance_scale guides against; give that, too (1 is off)",
            param="negative_prompt",
        )
    return None if scale is None or scale == OFF else Guidance(scale, negative)


def asks_guidance(body: Mapping[str, Any]) -> bool:
    """Whether a body that nobody has checked yet is one that :func:`read_guidance` finds something in, or refuses."""
    scale = body.get("guidance_scale")
    return scale not in (None, OFF) or (scale is None and bool(body.get("negative_prompt")))


def check_agreement(wanted: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    """Refuse settings that a request states elsewhere and that these fields contradict.

    wanted: those of :meth:`Guidance.settings`; stated: those of the ``preftilt`` object, and of the model's name.
    """
    search = (stated.get("search") or {}).get("name")
    if search not in (None, "auto", "cfg"):
        raise ApiError(
            400,
            f"guidance_scale guides every token, and the search {search!r} does not: leave one of them out",
            param="guidance_scale",
        )
    fields = {"lambda": "guidance_scale", "against": "negative_prompt"}
    for name, field in fields.items():
        if name in wanted and stated.get(name, wanted[name]) != wanted[name]:
            raise ApiError(
                400,
                f"{field} and preftilt.{name} differ; give one of them",
                param=f"preftilt.{name}",
            )
