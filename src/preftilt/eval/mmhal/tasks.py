"""MMHal-Bench as an Inspect task.

::

    inspect eval preftilt/mmhal --model preftilt/llava-hf/llava-1.5-7b-hf -T data=../shared/data -T lam=20
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample

from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.inspect_errors import plainly
from preftilt.eval.harness.judge_client import InspectJudge
from preftilt.eval.harness.method import choose_method
from preftilt.eval.harness.solver import answer, ready
from preftilt.eval.mmhal.data import MMHalItem, load_items, load_pictures
from preftilt.eval.mmhal.protocol import (
    MMHalRules,
    check_wish,
    method_protocol,
    request_for,
    rules_for,
)
from preftilt.eval.mmhal.scorers import JUDGE, mmhal_ratings
from preftilt.images import Image


@task
def mmhal(
    data: str,
    fetch: bool = False,
    preset: str = "rear-paper",
    lam: float | None = None,
    search: str | None = None,
    n: int | None = None,
    method: str | None = None,
    settings: str | dict[str, Any] | None = None,
    switches: str | dict[str, Any] | None = None,
    judge_prompts: str | None = None,
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
) -> Task:
    """Questions about pictures; the judge rates how informative an answer is and whether it makes something up.

    data: folder. fetch: get missing pictures from their addresses. preset: ``rear-paper``, ``rear-official`` or
    ``mmhal``; switches: changes to it (``protocol.MMHalRules``), as JSON. judge_prompts: a folder with
    ``judge_rating.txt``. The others are those of every task.
    """
    with plainly():
        budget = Budget(max_judge_calls=max_judge_calls, max_tokens_total=max_tokens_total)
        rules = rules_for(preset, switches)
        chosen = choose_method(
            method_protocol(rules), lam=lam, search=search, n=n, method=method, settings=settings
        )
        check_wish(rules, chosen)
        items = load_items(data)
        pictures = load_pictures(data, items, fetch=fetch)
        scorer = mmhal_ratings(
            judge_prompts=judge_prompts,
            junk=rules.junk,
            max_judge_calls=max_judge_calls,
            max_tokens_total=max_tokens_total,
            budget=budget,
        )
    return Task(
        dataset=MemoryDataset([_sample(item, pictures[item.id], rules) for item in items], "mmhal"),
        setup=ready(InspectJudge(JUDGE, budget), chosen),
        solver=answer(chosen.to_json(), budget),
        scorer=scorer,
        metadata={
            "protocol": rules.to_json(),
            "method": chosen.to_json(),
            "judge": asdict(JUDGE),
            "items": len(items),
        },
    )


def _sample(item: MMHalItem, picture: Image, rules: MMHalRules) -> Sample:
    """The question; the picture is read when it is asked, as a hundred of them fill the memory."""
    request = request_for(item, picture, rules)
    return Sample(
        id=item.id,
        input=item.question,
        target=item.reference,
        metadata={
            "request": request.to_json(),
            "preference": rules.wish,
            "question": item.question,
            "question_type": item.type,
            "question_topic": item.topic,
            "image_content": list(item.content),
        },
    )
