"""PrefEval as Inspect tasks; their arguments are in ``docs/how-to/benchmarks.md``.

::

    inspect eval preftilt/prefeval_explicit --model preftilt/demo -T data=../shared/data -T lam=20
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Scorer

from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.inspect_errors import plainly
from preftilt.eval.harness.judge_client import InspectJudge
from preftilt.eval.harness.method import TaskMethod, choose_method, one_of
from preftilt.eval.harness.solver import ready
from preftilt.eval.prefeval.conversations import PROMPTINGS, ShownOptions, inserted, shuffled
from preftilt.eval.prefeval.data import FORMS, TOPICS, Form, PrefEvalItem, load_filler, load_items
from preftilt.eval.prefeval.protocol import PrefEvalRules, method_protocol, rules_for
from preftilt.eval.prefeval.scorers import JUDGE, prefeval_checks, prefeval_choice_made
from preftilt.eval.prefeval.solvers import PrefEvalPlan, prefeval_answer
from preftilt.messages import Message

Json = str | dict[str, Any] | None


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
        (``protocol.PrefEvalRules``). prompting: ``zero-shot``, ``reminder``, ``cot`` or ``self-critic``. turns: of
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
            items = load_items(data, form, topics=_names(topics))
            plan = _plan(items, {}, rules, how, prompting, _inserted(data, turns, rules))
            scorer = _checked(checks, judge_prompts, rules, budget)
        about = {"form": form, "inserted_turns": turns, "judge": asdict(JUDGE), "checks": checks}
        return _task(f"prefeval_{form}", plan, InspectJudge(JUDGE, budget), scorer, budget, about)

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
        items = load_items(data, shown, topics=_names(topics), options=True)
        options = {item.id: shuffled(item, shuffle_seed) for item in items}
        plan = _plan(items, options, rules, how, prompting, _inserted(data, turns, rules))
    about = {"form": form, "inserted_turns": turns, "shuffle_seed": shuffle_seed}
    return _task(f"prefeval_mcq/{form}", plan, None, prefeval_choice_made(), budget, about)


def _plan(
    items: Sequence[PrefEvalItem],
    options: Mapping[str, ShownOptions],
    rules: PrefEvalRules,
    method: TaskMethod,
    prompting: str,
    filler: Sequence[Message],
) -> PrefEvalPlan:
    return PrefEvalPlan(
        rules=rules,
        prompting=one_of("prompting", prompting, PROMPTINGS),
        method=method,
        items={item.id: item for item in items},
        options=options,
        filler=filler,
    )


def _checked(
    checks: int, judge_prompts: str | None, rules: PrefEvalRules, budget: Budget
) -> Scorer:
    return prefeval_checks(
        checks=checks,
        judge_prompts=judge_prompts,
        judge_junk=rules.judge_junk,
        max_judge_calls=budget.max_judge_calls,
        max_tokens_total=budget.max_tokens_total,
        budget=budget,
    )


def _inserted(data: str, turns: int, rules: PrefEvalRules) -> Sequence[Message]:
    """The messages that so many turns are."""
    return inserted(load_filler(data) if turns else (), turns, rules.counting)


def _task(
    name: str,
    plan: PrefEvalPlan,
    judge: InspectJudge | None,
    scorer: Scorer,
    budget: Budget,
    about: Mapping[str, Any],
) -> Task:
    """The task with the resolved protocol in its metadata, for logs and reports, and whatever ``about`` says."""
    return Task(
        dataset=MemoryDataset([_sample(item, plan) for item in plan.items.values()], name=name),
        setup=ready(judge, plan.method),
        solver=prefeval_answer(plan, budget),
        scorer=scorer,
        metadata={
            "protocol": plan.rules.to_json(),
            "method": plan.method.to_json(),
            "prompting": plan.prompting,
            "inserted_messages": len(plan.filler),
            "items": len(plan.items),
            "topics": sorted({item.topic for item in plan.items.values()}),
            "topics_of_benchmark": len(TOPICS),
            **about,
        },
    )


def _sample(item: PrefEvalItem, plan: PrefEvalPlan) -> Sample:
    """The question; the whole conversation is made when it is asked, as the model may have to speak before."""
    options = plan.options.get(item.id)
    shown = {"options": list(options.shown)} if options else {}
    return Sample(
        id=item.id,
        input=item.question,
        target=options.fitting if options else "",
        metadata={
            "topic": item.topic,
            "preference": item.preference,
            "question": item.question,
            **shown,
        },
    )


def _names(topics: str | Sequence[str] | None) -> list[str]:
    """Inspect's command line makes a list of names with commas by itself."""
    names = topics.split(",") if isinstance(topics, str) else topics or []
    return [name.strip() for name in names if name.strip()]
