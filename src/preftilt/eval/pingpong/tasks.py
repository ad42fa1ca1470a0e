"""PingPong v2 as an Inspect task.

::

    inspect eval preftilt/pingpong --model preftilt/Qwen/Qwen2.5-7B-Instruct -T data=../shared/data -T language=ru
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample

from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.inspect_errors import plainly
from preftilt.eval.harness.judge_client import InspectJudge
from preftilt.eval.harness.method import choose_method, one_of
from preftilt.eval.harness.solver import ready
from preftilt.eval.pingpong.data import LANGUAGES, Language, PingPongItem, load_items
from preftilt.eval.pingpong.dialogue import load_roles, persona
from preftilt.eval.pingpong.protocol import judge_settings, method_protocol, rules_for
from preftilt.eval.pingpong.scorers import pingpong_ratings
from preftilt.eval.pingpong.solvers import DialoguePlan, pingpong_dialogue


@task
def pingpong(
    data: str,
    language: str = "en",
    preset: str = "rear-paper",
    lam: float | None = None,
    search: str | None = None,
    n: int | None = None,
    method: str | None = None,
    settings: str | dict[str, Any] | None = None,
    switches: str | dict[str, Any] | None = None,
    role_prompts: str | None = None,
    judge_prompts: str | None = None,
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
) -> Task:
    """The model plays a character in a chat of several turns; the judge rates every turn on three scales.

    data: folder. language: ``en`` or ``ru``. preset: ``rear-paper``, ``rear-official`` or ``pingpong``; switches:
    changes to it (``protocol.PingPongRules``), as JSON. role_prompts: a folder with other wordings for player and
    interrogator; judge_prompts: one with ``judge_system.txt`` and ``judge_user.txt``. The others are those of every
    task.
    """
    with plainly():
        budget = Budget(max_judge_calls=max_judge_calls, max_tokens_total=max_tokens_total)
        tongue: Language = one_of("language", language, LANGUAGES)
        rules = rules_for(preset, switches)
        chosen = choose_method(
            method_protocol(rules), lam=lam, search=search, n=n, method=method, settings=settings
        )
        items = load_items(data, tongue)
        roles = load_roles(tongue, role_prompts)
        plan = DialoguePlan(
            rules=rules, roles=roles, method=chosen, items={item.id: item for item in items}
        )
        scorer = pingpong_ratings(
            preset=rules.preset,
            refusals=rules.refusals,
            judge_prompts=judge_prompts,
            max_judge_calls=max_judge_calls,
            max_tokens_total=max_tokens_total,
            budget=budget,
        )
    return Task(
        dataset=MemoryDataset([_sample(item, plan) for item in items], name=f"pingpong/{language}"),
        setup=ready(InspectJudge(judge_settings(rules.preset), budget), chosen),
        solver=pingpong_dialogue(plan, budget),
        scorer=scorer,
        metadata={
            "protocol": rules.to_json(),
            "method": chosen.to_json(),
            "judge": asdict(judge_settings(rules.preset)),
            "roles": roles.to_json(),
            "language": language,
            "items": len(items),
        },
    )


def _sample(item: PingPongItem, plan: DialoguePlan) -> Sample:
    """The situation; the chat is made when it is held."""
    return Sample(
        id=item.id,
        input=item.situation.text,
        metadata={
            "character": item.character.name,
            "situation": list(item.situation.tags),
            "turns": plan.turns(item),
            "preference": persona(item.character, plan.rules, plan.roles),
        },
    )
