"""Multifaceted Bench as an Inspect task.

::

    inspect eval preftilt/multifaceted --model preftilt/demo -T data=hub:kaist-ai/Multifaceted-Bench -T lam=20
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
from preftilt.eval.harness.solver import answer, chat, ready
from preftilt.eval.multifaceted.data import ROWS, MultifacetedItem, load_items
from preftilt.eval.multifaceted.protocol import (
    MultifacetedRules,
    judged_instruction,
    method_protocol,
    request_for,
    rules_for,
)
from preftilt.eval.multifaceted.scorers import JUDGE, multifaceted_rubrics


@task
def multifaceted(
    data: str,
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
    """The system message states several wishes; the judge grades the answer by a rubric for each.

    data: folder, or ``hub:OWNER/NAME``. preset: ``rear-paper``, ``rear-official`` or ``multifaceted``; switches:
    changes to it (``protocol.MultifacetedRules``), as JSON. judge_prompts: a folder with ``judge_system.txt`` and
    ``judge_rubric.txt``. The others are those of every task.
    """
    with plainly():
        budget = Budget(max_judge_calls=max_judge_calls, max_tokens_total=max_tokens_total)
        rules = rules_for(preset, switches)
        chosen = choose_method(
            method_protocol(rules), lam=lam, search=search, n=n, method=method, settings=settings
        )
        items = load_items(data)
        scorer = multifaceted_rubrics(
            judge_prompts=judge_prompts,
            judge_runs=rules.judge_runs,
            missing=rules.missing,
            max_judge_calls=max_judge_calls,
            max_tokens_total=max_tokens_total,
            budget=budget,
        )
    return Task(
        dataset=MemoryDataset([_sample(item, rules) for item in items], name="multifaceted"),
        setup=ready(InspectJudge(JUDGE, budget), chosen),
        solver=answer(chosen.to_json(), budget),
        scorer=scorer,
        metadata={
            "protocol": rules.to_json(),
            "method": chosen.to_json(),
            "judge": asdict(JUDGE),
            "items": len(items),
            "items_of_benchmark": ROWS,
        },
    )


def _sample(item: MultifacetedItem, rules: MultifacetedRules) -> Sample:
    request = request_for(item, rules)
    return Sample(
        id=item.id,
        input=chat(request.conversation()),
        target=item.reference,
        metadata={
            "request": request.to_json(),
            "source": item.source,
            "preference": item.system,
            "instruction": judged_instruction(item, rules),
            "reference_answer": item.reference,
            "rubrics": [rubric.to_text() for rubric in item.rubrics],
        },
    )
