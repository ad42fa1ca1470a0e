"""The groups' rule as vLLM loads it: a logits processor of its model runner V1.

vLLM makes one of every class that is installed under its entry point, whoever uses it, and runner V2 refuses to start
beside a class that is not its own kind. So the class is of both kinds, and where no request is a group's member it does
nothing at all. Under V2 none is let in (:mod:`preftilt.engines.lockstep.limits`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import Tensor

from preftilt.engines.lockstep.member_params import MemberRow, read_member_params

if TYPE_CHECKING:
    from preftilt.engines.lockstep.rows import GroupedRows


def _kind(module: str) -> Any:
    """The class of vLLM's that a processor for one runner must be of; an empty one where this vLLM has none, which must
    still start where nobody guides."""
    try:
        return import_module(module).LogitsProcessor
    except ImportError:
        return type(f"Without {module}", (), {})


V1: Any = _kind("vllm.v1.sample.logits_processor.interface")
V2: Any = _kind("vllm.v1.worker.gpu.sample.logits_processor.interface")


class GroupProcessor(V1, V2):
    """Lets the rows of every group draw one token together (:mod:`preftilt.engines.lockstep.rows`)."""

    def __init__(self, vllm_config: Any, *state: Any) -> None:
        """``state`` is the device and whether memory is pinned (V1), or the requests' state (V2): not needed."""
        self._rows: GroupedRows | None = None

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a member's parameters that are not well formed; called before a request is let in."""
        read_member_params(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """No: greedy sampling is guided, too."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """How the batch has changed since the last step."""
        if batch_update is None:
            return
        added = [(row, _member(params, drawn)) for row, params, _, drawn in batch_update.added]
        if self._rows is None:
            if not any(member for _, member in added):
                return
            self._rows = _grouped_rows()
        moved = [(source, target, how.name == "SWAP") for source, target, how in batch_update.moved]
        self._rows.update(batch_update.removed, added, moved)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Runner V2 asks whether the request's logits are changed: no."""
        return False

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """``logits`` float32 [R, V], changed in place; ``ctx`` is what runner V2 says of the batch."""
        return logits if self._rows is None else self._rows.apply(logits)


def _grouped_rows() -> GroupedRows:
    """Imported when the first group comes: what draws tokens is the embedded engine's, with all its packages."""
    from preftilt.engines.lockstep.rows import GroupedRows

    return GroupedRows()


def _member(params: Any, drawn: list[int]) -> MemberRow | None:
    member_params = read_member_params(params.extra_args)
    return None if member_params is None else MemberRow(member_params, drawn)
