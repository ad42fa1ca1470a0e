"""The order of scored responses, and the tie rule for picking an answer, which searches and methods share.

A response that its token budget cut off is not what the model would have said, and its score lacks the end. What is
done with such responses is the reward's ``cut_off``: ``last`` puts them behind every one that ended, whatever the
scores, so that one of them wins only if none ended; ``as-is`` compares them by their scores like the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from preftilt.types import CutOff


def order(
    scores: Sequence[float | None], cut_off: Sequence[bool], rule: CutOff, *, vote: bool = False
) -> list[int]:
    """Indices of N responses, best first; ``scores`` and ``cut_off`` [N] stand in the order drawn.

    The higher score goes first, a response without one (None) last, and the first drawn wins ties; by ``rule``
    responses that were cut off come behind all that. In a ``vote``, where responses that give the same answer have the
    same score, the answer counts before that: a response that was cut off may have given it, and hands it on to one
    that ended.
    """
    keys: list[tuple[float, ...]] = []
    for i, (score, cut) in enumerate(zip(scores, cut_off, strict=True)):
        standing = (1.0, 0.0) if score is None else (0.0, -score)
        behind = cut and rule == "last"
        keys.append((*standing, behind, i) if vote else (behind, *standing, i))
    return sorted(range(len(keys)), key=keys.__getitem__)


def contenders(cut_off: Sequence[bool], rule: CutOff) -> list[bool]:
    """Which of N responses may win at some λ: by ``last``, those that were cut off only if all were."""
    return [rule == "as-is" or not cut or all(cut_off) for cut in cut_off]
