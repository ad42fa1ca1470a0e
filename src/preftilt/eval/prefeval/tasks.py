"""PrefEval as Inspect tasks; their arguments are in ``docs/benchmarks.md``.

::

    inspect eval preftilt/prefeval_explicit --model preftilt/demo -T data=../shared/data -T lam=20
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample

from preftilt.eval.frame.budget import Budget
from preftilt.eval.frame.judge import Judge
from preftilt.eval.frame.method import choose_method, one_of
from preftilt.eval.frame.solver import ready
from preftilt.eval.frame.telling import plainly
from preftilt.eval.prefeval.conversations import PROMPTINGS, inserted, shuffled
from preftilt.eval.prefeval.data import FORMS, TOPICS, Form, Item, load_filler, load_items
from preftilt.eval.prefeval.protocol import method_protocol, rules_for
from preftilt.eval.prefeval.scorers import JUDGE, prefeval_checks, prefeval_choice_made
from preftilt.eval.prefeval.solvers import Plan, prefeval_answer

Json = str | dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What all four tasks take; see :func:`_answered`."""

    data: str
    topics: str | list[str] | None
    preset: str
    prompting: str
    turns: int
    lam: float | None
    search: str | None
    n: int | None
    method: str | None
    settings: Json
    switches: Json


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
        preset: ``rear-paper``, ``rear-official`` or ``prefeval``; switches: changes to it (``protocol.Rules``), as
        JSON. prompting: ``zero-shot``, ``reminder``, ``cot`` or ``self-critic``. turns: of unrelated conversation
        inserted. checks: 4 of the judge an answer, or the 2 that the headline number needs. judge_prompts: a folder
        with the benchmark's own prompts. The others are those of every task.
        """
        given = Arguments(
            data=data, topics=topics, preset=preset, prompting=prompting, turns=turns,
            lam=lam, search=search, n=n, method=method, settings=settings, switches=switches,
        )  # fmt: skip
        return _judged(form, given, checks, judge_prompts, max_judge_calls, max_tokens_total)

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
    given = Arguments(
        data=data, topics=topics, preset=preset, prompting=prompting, turns=turns,
        lam=lam, search=search, n=n, method=method, settings=settings, switches=switches,
    )  # fmt: skip
    with plainly():
        budget = Budget(max_tokens_total=max_tokens_total)
        plan = _plan(one_of("form", form, FORMS), given, shuffle_seed)
    return Task(
        dataset=_dataset(f"prefeval_mcq/{form}", plan),
        setup=ready(None, plan.method),
        solver=prefeval_answer(plan, budget),
        scorer=prefeval_choice_made(),
        metadata=_metadata(plan, given) | {"form": form, "shuffle_seed": shuffle_seed},
    )


def _judged(
    form: Form,
    given: Arguments,
    checks: int,
    judge_prompts: str | None,
    max_judge_calls: int | None,
    max_tokens_total: int | None,
) -> Task:
    with plainly():
        budget = Budget(max_judge_calls=max_judge_calls, max_tokens_total=max_tokens_total)
        plan = _plan(form, given, None)
        scorer = prefeval_checks(
            checks=checks,
            judge_prompts=judge_prompts,
            judge_junk=plan.rules.judge_junk,
            max_judge_calls=max_judge_calls,
            max_tokens_total=max_tokens_total,
            budget=budget,
        )
    return Task(
        dataset=_dataset(f"prefeval_{form}", plan),
        setup=ready(Judge(JUDGE, budget), plan.method),
        solver=prefeval_answer(plan, budget),
        scorer=scorer,
        metadata=_metadata(plan, given) | {"form": form, "judge": asdict(JUDGE), "checks": checks},
    )


def _plan(form: Form, given: Arguments, shuffle_seed: int | None) -> Plan:
    """Everything resolved and checked; ``shuffle_seed`` is given for multiple choice."""
    mcq = shuffle_seed is not None
    rules = rules_for(given.preset, form, given.switches)
    chosen = choose_method(
        method_protocol(rules, mcq=mcq),
        lam=given.lam,
        search=given.search,
        n=given.n,
        method=given.method,
        settings=given.settings,
    )
    items = load_items(given.data, form, topics=_names(given.topics), options=mcq)
    filler = load_filler(given.data) if given.turns else ()
    return Plan(
        rules=rules,
        prompting=one_of("prompting", given.prompting, PROMPTINGS),
        method=chosen,
        items={one.id: one for one in items},
        options={}
        if shuffle_seed is None
        else {one.id: shuffled(one, shuffle_seed) for one in items},
        filler=inserted(filler, given.turns, rules.counting),
    )


def _dataset(name: str, plan: Plan) -> MemoryDataset:
    return MemoryDataset([_sample(one, plan) for one in plan.items.values()], name=name)


def _sample(item: Item, plan: Plan) -> Sample:
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


def _metadata(plan: Plan, given: Arguments) -> dict[str, Any]:
    """The resolved protocol, for logs and reports."""
    topics = sorted({one.topic for one in plan.items.values()})
    return {
        "protocol": plan.rules.to_json(),
        "method": plan.method.to_json(),
        "prompting": plan.prompting,
        "inserted_turns": given.turns,
        "inserted_messages": len(plan.filler),
        "items": len(plan.items),
        "topics": topics,
        "topics_of_benchmark": len(TOPICS),
    }


def _names(topics: str | Sequence[str] | None) -> list[str]:
    """Inspect's command line makes a list of names with commas by itself."""
    given = topics.split(",") if isinstance(topics, str) else topics or []
    return [one.strip() for one in given if one.strip()]
