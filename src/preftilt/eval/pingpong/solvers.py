"""How a dialogue is held: the interrogator says something, the method answers as the character, and so on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inspect_ai.solver import Generate, Solver, TaskState, solver

from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.method import TaskMethod
from preftilt.eval.harness.solver import RECORD, answer_request, say, within
from preftilt.eval.pingpong.data import PingPongItem
from preftilt.eval.pingpong.dialogue import (
    Roles,
    asking_the_user,
    opening,
    read_utterance,
    request_for,
)
from preftilt.eval.pingpong.protocol import PingPongRules, interrogator_settings
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


@solver
def pingpong_dialogue(plan: DialoguePlan, budget: Budget) -> Solver:
    """Holds the sample's dialogue by the plan."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        item = plan.items[str(state.sample_id)]
        return await within(budget, state, lambda: _hold(state, item, plan, budget))

    return solve


async def _hold(state: TaskState, item: PingPongItem, plan: DialoguePlan, budget: Budget) -> None:
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
        answer = await answer_request(state, request, plan.method, budget, part=f"/turn {turn}")
        said.append(Message("assistant", answer))
        records.append(state.store.get(RECORD))
    state.store.set(SAID, [{"role": message.role, "content": message.content} for message in said])
    state.store.set(RAW, raw)
    state.store.set(RECORDS, records)
