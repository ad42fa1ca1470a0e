"""What a member of a group carries through vLLM: the group it belongs to, and the rule by which the group draws.

It travels as one value of ``SamplingParams.extra_args``, so it is made of plain numbers, strings and lists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any

from preftilt.errors import BadInput
from preftilt.types import Mask, Sampling, StrengthBy, Tokens

FIELD = "preftilt"
"""The key of a member's parameters among ``extra_args``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberParams:
    """Member number ``member`` of the ``size`` members of ``group``: the view of that number.

    group: the name of one attempt at a response; no two share it. refusal: the token that this member must draw in a
    step that its group does not make together; every member has another. weights, mask, preferred, strength_by and
    sampling: as in :class:`~preftilt.engines.base.GuideRequest`. key: of the response's stream
    (:func:`preftilt.streams.stream_key`). start: the position in that stream of the first token that is drawn.
    vocabulary, holes: ids from ``vocabulary`` on, and ``holes``, are not drawn.
    """

    group: str
    member: int
    size: int
    refusal: int
    weights: tuple[float, ...]
    sampling: Sampling
    key: int
    start: int
    vocabulary: int
    holes: Tokens = ()
    mask: Mask | None = None
    preferred: int = 0
    strength_by: StrengthBy = "fixed"

    def as_args(self) -> dict[str, Any]:
        """The ``extra_args`` that carry it."""
        fields: dict[str, Any] = {
            "group": self.group,
            "member": self.member,
            "size": self.size,
            "refusal": self.refusal,
            "weights": list(self.weights),
            "sampling": [self.sampling.temperature, self.sampling.top_p, self.sampling.top_k],
            # 64 bits without a sign: as text, since not every way through vLLM keeps them as a number.
            "key": str(self.key),
            "start": self.start,
            "vocabulary": self.vocabulary,
            "holes": list(self.holes),
            "preferred": self.preferred,
            "strength_by": self.strength_by,
        }
        if self.mask is not None:
            fields["mask"] = [self.mask.top_p, self.mask.of, self.mask.temperature]
        return {FIELD: fields}


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A row of the batch that belongs to a group; ``drawn`` is as long as what the member has drawn so far."""

    params: MemberParams
    drawn: Sized


def read_member_params(extra_args: Mapping[str, Any] | None) -> MemberParams | None:
    """The parameters among ``extra_args``, or None where there is none.

    Raises :class:`~preftilt.errors.BadInput` for those that :meth:`MemberParams.as_args` did not make.
    """
    if not extra_args or FIELD not in extra_args:
        return None
    try:
        return _read(extra_args[FIELD])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(
            f"extra_args[{FIELD!r}] is preftilt's own and not for clients to set; use the preftilt object of"
            f" /v1/chat/completions ({error!r})"
        ) from None


def _read(fields: Any) -> MemberParams:
    temperature, top_p, top_k = fields["sampling"]
    mask = fields.get("mask")
    params = MemberParams(
        group=str(fields["group"]),
        member=int(fields["member"]),
        size=int(fields["size"]),
        refusal=int(fields["refusal"]),
        weights=tuple(map(float, fields["weights"])),
        sampling=Sampling(temperature=temperature, top_p=top_p, top_k=top_k),
        key=int(fields["key"]),
        start=int(fields["start"]),
        vocabulary=int(fields["vocabulary"]),
        holes=tuple(map(int, fields["holes"])),
        mask=None if mask is None else Mask(top_p=mask[0], of=mask[1], temperature=mask[2]),
        preferred=int(fields["preferred"]),
        strength_by=fields["strength_by"],
    )
    if not 0 <= params.member < params.size == len(params.weights):
        raise ValueError("a member that its group does not have")
    if not (0 <= params.preferred < params.size and 0 <= params.refusal < params.vocabulary):
        raise ValueError("a view or a token that is not there")
    if not all(map(math.isfinite, params.weights)) or params.strength_by not in (
        "fixed",
        "divergence",
    ):
        raise ValueError("weights that are not numbers")
    return params
