"""PrefEval as Inspect tasks; their arguments are in ``docs/how-to/benchmarks.md``.

::

    inspect eval preftilt/prefeval_explicit --model preftilt/demo -T data=../shared/data -T lam=20
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from preftilt.engines.loop import together
from preftilt.errors import BadInput
from preftilt.eval.benchmarks.prefeval import (
    PROMPTINGS,
    VALUES,
    Acknowledged,
    Junk,
    PrefEvalRules,
    Prompting,
    ShownOptions,
    inserted,
    method_protocol,
    outcome,
    question_text,
    read_acknowledged,
    read_choice,
    read_yes_no,
    request_for,
    rules_for,
    settle,
    shuffled,
    stated_preference,
)
from preftilt.eval.benchmarks.prefeval_data import (
    FORMS,
    TOPICS,
    Form,
    PrefEvalItem,
    load_filler,
    load_items,
)
from preftilt.eval.harness.benchmark import BenchmarkRequest, TaskMethod, choose_method, one_of
from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.judge import (
    InspectJudge,
    Judgement,
    JudgeSettings,
    judge_within,
    judged,
    metrics_for,
    scoring,
)
from preftilt.eval.harness.rows import PromptTemplates, load_templates, own_text
from preftilt.eval.harness.solver import answer_request, make_task, say, within
from preftilt.eval.provider import plainly
from preftilt.messages import Message

Json = str | dict[str, Any] | None

ACKNOWLEDGEMENT_TOKENS = 300
CRITIQUE_TOKENS = 300
REVISION_TOKENS = 500

JUDGE = JudgeSettings(max_tokens=100, temperature=0.0)
"""As in the benchmark and in the REAR paper."""

GAPS = {
    "acknowledge": frozenset({"question", "end_generation"}),
    "violation": frozenset({"preference", "question", "end_generation"}),
    "hallucination": frozenset({"preference", "assistant_restatement"}),
    "helpful": frozenset({"question", "end_generation"}),
}
"""The checks and the gaps of their prompts, which are the benchmark's, so that its files fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefEvalPlan:
    """Everything that answering needs: ``items`` and the ``options`` of multiple-choice ones, by the sample's id.

    filler: the messages to insert before the question.
    """

    rules: PrefEvalRules
    prompting: Prompting
    method: TaskMethod
    items: Mapping[str, PrefEvalItem]
    options: Mapping[str, ShownOptions]
    filler: Sequence[Message] = ()


def _answered(form: Form) -> Callable[..., Task]:
    """The task that has a form's answers judged. All arguments are named: Inspect reads them off the signature."""

    @task(name=f"prefeval_{form}")
    def prefeval(
        data: str,
        topics: str | list[str] | None = None,
        preset: str = "rear-paper",
        prompting: str = "zero-shot",
        turns: int = 0,
        lam: float | None = None,
        search: str | None = None,
        n: int | None = None,
        method: str | None = None,
        settings: Json = None,
        switches: Json = None,
        checks: int = 4,
        judge_prompts: str | None = None,
        max_judge_calls: int | None = None,
        max_tokens_total: int | None = None,
    ) -> Task:
        """PrefEval with answers that a judge checks.

        data: folder, or ``hub:OWNER/NAME``. topics: names, separated by commas; all that are there if none is given.
        preset: ``rear-paper``, ``rear-official`` or ``prefeval``; switches: changes to it, as JSON
        (``prefeval.PrefEvalRules``). prompting: ``zero-shot``, ``reminder``, ``cot`` or ``self-critic``. turns: of
        unrelated conversation inserted. checks: 4 of the judge an answer, or the 2 that the headline number needs.
        judge_prompts: a folder with the benchmark's own prompts. The others are those of every task.
        """
        with plainly():
            budget = Budget(max_judge_calls=max_judge_calls, max_tokens_total=max_tokens_total)
            rules = rules_for(preset, form, switches)
            how = choose_method(
                method_protocol(rules, mcq=False),
                lam=lam, search=search, n=n, method=method, settings=settings,
            )  # fmt: skip
            plan = _plan(data, form, topics, rules, how, prompting, turns)
            scorer = prefeval_checks(
                checks, judge_prompts, rules.judge_junk, max_judge_calls, max_tokens_total, budget
            )
        judge = InspectJudge(JUDGE, budget)
        about = {"form": form, "inserted_turns": turns, "checks": checks}
        return _task(f"prefeval_{form}", plan, scorer, budget, judge, about)

    return prefeval


prefeval_explicit = _answered("explicit")
"""The preference was stated."""

prefeval_choice = _answered("choice")
"""The preference shows in a choice among four options."""

prefeval_persona = _answered("persona")
"""The preference is said in passing."""


@task
def prefeval_mcq(
    data: str,
    form: str = "choice",
    topics: str | list[str] | None = None,
    preset: str = "rear-paper",
    prompting: str = "zero-shot",
    turns: int = 0,
    lam: float | None = None,
    search: str | None = None,
    n: int | None = None,
    method: str | None = None,
    settings: Json = None,
    switches: Json = None,
    shuffle_seed: int = 0,
    max_tokens_total: int | None = None,
) -> Task:
    """Pick the option that fits the preference; no judge. The REAR paper's "implicit choice" is the form ``choice``.

    form: ``explicit``, ``choice`` or ``persona``. shuffle_seed: of the options' order, which also depends on the item.
    """
    with plainly():
        budget = Budget(max_tokens_total=max_tokens_total)
        shown: Form = one_of("form", form, FORMS)
        rules = rules_for(preset, shown, switches)
        how = choose_method(
            method_protocol(rules, mcq=True),
            lam=lam, search=search, n=n, method=method, settings=settings,
        )  # fmt: skip
        plan = _plan(data, shown, topics, rules, how, prompting, turns, shuffle_seed)
    about = {"form": form, "inserted_turns": turns, "shuffle_seed": shuffle_seed}
    return _task(f"prefeval_mcq/{form}", plan, prefeval_choice_made(), budget, None, about)


def _plan(
    data: str,
    form: Form,
    topics: str | Sequence[str] | None,
    rules: PrefEvalRules,
    method: TaskMethod,
    prompting: str,
    turns: int,
    shuffle_seed: int | None = None,
) -> PrefEvalPlan:
    """With a ``shuffle_seed`` questions are multiple choice. Inspect's command line makes a list of names with commas
    by itself."""
    names = topics.split(",") if isinstance(topics, str) else topics or []
    chosen = [name.strip() for name in names if name.strip()]
    items = load_items(data, form, topics=chosen, options=shuffle_seed is not None)
    options: dict[str, ShownOptions] = {}
    if shuffle_seed is not None:
        options = {item.id: shuffled(item, shuffle_seed) for item in items}
    return PrefEvalPlan(
        rules=rules,
        prompting=one_of("prompting", prompting, PROMPTINGS),
        method=method,
        items={item.id: item for item in items},
        options=options,
        filler=inserted(load_filler(data) if turns else (), turns, rules.counting),
    )


def _task(
    name: str,
    plan: PrefEvalPlan,
    scorer: Scorer,
    budget: Budget,
    judge: InspectJudge | None,
    about: Mapping[str, Any],
) -> Task:
    """The task with the resolved protocol in its metadata, and whatever ``about`` says."""
    return make_task(
        name,
        [_sample(item, plan.options.get(item.id)) for item in plan.items.values()],
        method=plan.method,
        judge=judge,
        solver=prefeval_answer(plan, budget),
        scorer=scorer,
        protocol=plan.rules.to_json(),
        prompting=plan.prompting,
        inserted_messages=len(plan.filler),
        items=len(plan.items),
        topics=sorted({item.topic for item in plan.items.values()}),
        topics_of_benchmark=len(TOPICS),
        **about,
    )


def _sample(item: PrefEvalItem, options: ShownOptions | None) -> Sample:
    """The question; the whole conversation is made when it is asked, as the model may have to speak before."""
    return Sample(
        id=item.id,
        input=item.question,
        target=options.fitting if options else "",
        metadata={
            "topic": item.topic,
            "preference": item.preference,
            "question": item.question,
            **({"options": list(options.shown)} if options else {}),
        },
    )


@solver
def prefeval_answer(plan: PrefEvalPlan, budget: Budget) -> Solver:
    """Answers the sample's item by the plan: the acknowledgement, the baseline's turns, the method."""

    async def answer(state: TaskState, item: PrefEvalItem) -> None:
        rules, acknowledgement = plan.rules, None
        if rules.preference_as == "history" and not item.history:
            acknowledgement = await say(
                state,
                stated_preference(item, rules),
                budget,
                settings=_greedy(ACKNOWLEDGEMENT_TOKENS),
                part="/acknowledgement",
            )
        question = question_text(item, rules, plan.prompting, plan.options.get(item.id))
        request = request_for(item, rules, question, plan.filler, acknowledgement)
        text = await answer_request(state, request, plan.method, budget)
        if plan.prompting == "self-critic":
            await _revise(state, request, text, plan.method, budget)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        item = plan.items[str(state.sample_id)]
        return await within(budget, state, lambda: answer(state, item))

    return solve


async def _revise(
    state: TaskState, request: BenchmarkRequest, text: str, method: TaskMethod, budget: Budget
) -> None:
    """The model criticises its answer and the method answers once more; the first answer stays in the messages.

    The benchmark allows a revision more tokens than an answer; a user's own limit stands.
    """
    critique_request = request.going_on(text, own_text("prefeval", "critique.txt"))
    critique = await say(
        state,
        critique_request.conversation(),
        budget,
        settings=_greedy(CRITIQUE_TOKENS),
        part="/critique",
    )
    again = critique_request.going_on(critique, own_text("prefeval", "revise.txt"))
    limit = int(method.settings["max_tokens"])
    if "max_tokens" not in method.chosen:
        limit = max(limit, REVISION_TOKENS)
    longer = replace(method, settings={**method.settings, "max_tokens": limit})
    await answer_request(state, again, longer, budget, part="/revision")


def _greedy(max_tokens: int) -> dict[str, Any]:
    return {"search": {"name": "greedy"}, "max_tokens": max_tokens}


def load_prompts(folder: str | None, checks: int) -> PromptTemplates:
    """All four prompts, or the two that the headline number needs; from the benchmark's folder if one is given."""
    if checks not in (2, 4):
        raise BadInput(f"checks is {checks}; use 4, or 2 for the headline number alone")
    names = list(GAPS) if checks == 4 else ["violation", "helpful"]
    return load_templates("prefeval", "check_{}.txt", {name: GAPS[name] for name in names}, folder)


@scorer(metrics=metrics_for(VALUES))
def prefeval_checks(
    checks: int = 4,
    judge_prompts: str | None = None,
    judge_junk: Junk = "unscored",
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
    budget: object = None,
) -> Scorer:
    """Whether an answer follows the preference, by the judge's checks of it.

    ``budget`` is the task's, shared with its solver. ``inspect score`` makes scorers again from the arguments in a log,
    where that object is only its class's name: the budget is then a new one.
    """
    prompts = load_prompts(judge_prompts, checks)
    judge = judge_within(JUDGE, budget, max_judge_calls, max_tokens_total)

    async def score(state: TaskState, target: Target) -> Score:
        said = await _judge(judge, prompts, state)
        return judged(
            _outcome(said, judge_junk),
            said,
            answer=state.output.completion,
            metadata={"wording": prompts.to_json()},
            budget=judge.budget,
        )

    return scoring(VALUES, score)


@scorer(metrics=metrics_for(("correct",), ("no_choice", "over_budget")))
def prefeval_choice_made() -> Scorer:
    """Whether the option chosen is the fitting one. An answer without a choice is wrong, and counted."""

    async def score(state: TaskState, target: Target) -> Score:
        letter = read_choice(state.output.completion)
        return Score(
            value={
                "correct": float(letter == target.text),
                "no_choice": float(letter is None),
                "over_budget": 0.0,
            },
            answer=letter,
            reason=None if letter else "invalid_response_format",
            explanation=f"the fitting option is {target.text}",
        )

    return scoring(("correct",), score, ("no_choice", "over_budget"))


async def _judge(
    judge: InspectJudge, prompts: PromptTemplates, state: TaskState
) -> dict[str, Judgement[Any]]:
    """The checks side by side; the restatement is checked only where there is one."""
    gaps = {
        "preference": str(state.metadata["preference"]),
        "question": str(state.metadata["question"]),
        "end_generation": state.output.completion,
    }
    readers = {
        "acknowledge": read_acknowledged,
        "violation": read_yes_no,
        "helpful": read_yes_no,
    }
    checks = [name for name in readers if name in prompts.of]
    answers = await together(judge.ask(prompts.fill(name, gaps), readers[name]) for name in checks)
    said = dict(zip(checks, answers, strict=True))
    acknowledged = said["acknowledge"].value if "acknowledge" in said else None
    if isinstance(acknowledged, Acknowledged) and acknowledged.restatement:
        gaps["assistant_restatement"] = acknowledged.restatement
        prompt = prompts.fill("hallucination", gaps)
        said["hallucination"] = await judge.ask(prompt, read_yes_no)
    return said


def _outcome(said: Mapping[str, Judgement[Any]], junk: Junk) -> dict[str, float | None]:
    first = said["acknowledge"].value if "acknowledge" in said else None
    acknowledged = first.verdict if isinstance(first, Acknowledged) else None
    hallucinated = said["hallucination"].value if "hallucination" in said else None
    if isinstance(first, Acknowledged) and not first.restatement:
        hallucinated = False

    def settled(check: str, verdict: bool | None, official: bool) -> bool | None:
        unread = check in said and said[check].failure == "junk"
        return settle(verdict, junk, unread=unread, official=official)

    return outcome(
        acknowledged=settled("acknowledge", acknowledged, False),
        hallucinated=settled("hallucination", hallucinated, False),
        violates=settled("violation", said["violation"].value, False),
        helpful=settled("helpful", said["helpful"].value, True),
    )
