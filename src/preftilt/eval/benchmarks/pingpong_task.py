"""PingPong v2 as an Inspect task.

::

    inspect eval preftilt/pingpong --model preftilt/Qwen/Qwen2.5-7B-Instruct -T data=../shared/data -T language=ru
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from preftilt.eval.benchmarks.pingpong import (
    LANGUAGES,
    SCALES,
    VALUES,
    Language,
    PingPongItem,
    PingPongRules,
    Refusals,
    Roles,
    asking_the_user,
    interrogator_settings,
    judge_settings,
    load_items,
    load_roles,
    method_protocol,
    opening,
    persona,
    rate,
    read_utterance,
    reader,
    request_for,
    rules_for,
    turns_for_judge,
)
from preftilt.eval.harness.benchmark import TaskMethod, choose_method, one_of
from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.judge import (
    COUNTS,
    SPENT,
    InspectJudge,
    judge_within,
    judged,
    metrics_for,
    no_answer,
)
from preftilt.eval.harness.rows import load_templates
from preftilt.eval.harness.solver import RECORD, answer_request, make_task, say, within
from preftilt.eval.provider import plainly
from preftilt.messages import Message

INTERROGATOR = "interrogator"
SAID = "preftilt:dialogue"
"""Where in a sample's store the chat is, as role and content."""

RAW = "preftilt:raw_turns"
"""How many of the user's turns came without the JSON they were asked for, and were taken as they are."""

RECORDS = "preftilt:turns"
"""Where in a sample's store the record of every answer is; under ``preftilt`` stands the last one."""

BROKEN = "preftilt:broken"
"""Why a dialogue ended early."""

OWN_COUNTS = ("raw_turns", "broken")
"""What is counted besides: turns of the user that came without JSON, and dialogues that ended early (no score)."""

GAPS: dict[str, frozenset[str]] = {
    "system": frozenset(),
    "user": frozenset({"character", "dialogue"}),
}
"""The judge's system message and prompt, and their gaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DialoguePlan:
    """Everything that a dialogue needs; ``items`` by the sample's id."""

    rules: PingPongRules
    roles: Roles
    method: TaskMethod
    items: Mapping[str, PingPongItem]

    def turns(self, item: PingPongItem) -> int:
        """How many turns an item's dialogue has."""
        return self.rules.turns or item.situation.turns


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
    changes to it (``pingpong.PingPongRules``), as JSON. role_prompts: a folder with other wordings for player and
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
        items = {item.id: item for item in load_items(data, tongue)}
        roles = load_roles(tongue, role_prompts)
        plan = DialoguePlan(rules=rules, roles=roles, method=chosen, items=items)
        scorer = pingpong_ratings(
            rules.preset, rules.refusals, judge_prompts, max_judge_calls, max_tokens_total, budget
        )
    return make_task(
        f"pingpong/{language}",
        [_sample(item, plan) for item in items.values()],
        method=chosen,
        judge=InspectJudge(judge_settings(rules.preset), budget),
        solver=pingpong_dialogue(plan, budget),
        scorer=scorer,
        protocol=rules.to_json(),
        roles=roles.to_json(),
        language=language,
        items=len(items),
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


@solver
def pingpong_dialogue(plan: DialoguePlan, budget: Budget) -> Solver:
    """Holds the sample's dialogue by the plan: the interrogator says something, the method answers as the character."""

    async def hold(state: TaskState, item: PingPongItem) -> None:
        said = list(opening(item.character, plan.rules))
        raw = 0
        records = []
        for turn in range(1, plan.turns(item) + 1):
            text = await say(
                state,
                asking_the_user(item, said, plan.roles),
                budget,
                settings=interrogator_settings(plan.rules),
                part=f"/user {turn}",
                role=INTERROGATOR,
            )
            utterance = read_utterance(text)
            raw += utterance is None
            utterance = utterance or text.strip()
            if not utterance:
                state.store.set(BROKEN, f"the interrogator said nothing in turn {turn}")
                return
            said.append(Message("user", utterance))
            request = request_for(item, said, plan.rules, plan.roles)
            text = await answer_request(state, request, plan.method, budget, part=f"/turn {turn}")
            said.append(Message("assistant", text))
            records.append(state.store.get(RECORD))
        chat = [{"role": message.role, "content": message.content} for message in said]
        state.store.set(SAID, chat)
        state.store.set(RAW, raw)
        state.store.set(RECORDS, records)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        item = plan.items[str(state.sample_id)]
        return await within(budget, state, lambda: hold(state, item))

    return solve


@scorer(metrics=metrics_for(VALUES, (*COUNTS, *OWN_COUNTS)))
def pingpong_ratings(
    preset: str = "rear-paper",
    refusals: str = "rated",
    judge_prompts: str | None = None,
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
    budget: object = None,
) -> Scorer:
    """The judge's ratings of a dialogue: one judgement of the whole, three ratings a turn.

    ``budget`` is the task's, shared with its solver.
    """
    prompts = load_templates("pingpong", "judge_{}.txt", GAPS, judge_prompts)
    rule: Refusals = one_of("refusals", refusals, ("rated", "excluded"))
    judge = judge_within(judge_settings(preset), budget, max_judge_calls, max_tokens_total)

    async def score(state: TaskState, target: Target) -> Score:
        spent, broken = state.store.get(SPENT), state.store.get(BROKEN)
        if spent is not None or broken is not None:
            return _unheld(spent, broken)
        said = [Message(**message) for message in state.store.get(SAID)]
        turns = sum(message.role == "user" for message in said)
        dialogue = turns_for_judge(said)
        gaps = {"character": str(state.metadata["preference"]), "dialogue": dialogue}
        judgement = await judge.ask(
            prompts.fill("user", gaps), reader(turns), system=prompts.fill("system", {})
        )
        rated = judgement.value
        answers = [message.content for message in said if message.role == "assistant"][-turns:]
        return judged(
            rate(rated, rule) | {"raw_turns": float(state.store.get(RAW)), "broken": 0.0},
            {"dialogue": judgement},
            answer=dialogue,
            metadata={
                "wording": prompts.to_json(),
                "scales": list(SCALES),
                "turns": [asdict(turn) for turn in rated or ()],
                "mean_answer_characters": sum(map(len, answers)) / turns,
            },
            budget=judge.budget,
        )

    return score


def _unheld(spent: str | None, broken: str | None) -> Score:
    """The score of a dialogue that was not held to its end: there is none."""
    score = no_answer(VALUES, spent or broken or "", (*COUNTS, *OWN_COUNTS))
    assert isinstance(score.value, dict)
    if spent is None:
        score.value |= {"broken": 1.0, "over_budget": 0.0}
        score.reason = "dialogue_broken"
    return score
