"""PrefEval (Zhao et al., 2025): does an answer follow a preference that was stated, chosen or said in passing?

Where the paper, its code and the benchmark do different things: one switch each, and presets by name.

========================  ================  =====================  ==========================================
switch                    rear-paper        rear-official          prefeval
========================  ================  =====================  ==========================================
preference                the sentence, as  the sentence, as       what the user said: stated and acknowledged
                          system message    system message         by the model (explicit), or the history
candidates drawn from     full prompt       full prompt            full prompt
                                            (explicit), question
                                            prompt (others)
score                     sum               mean                   sum
steps of a tree search    one line          a paragraph, 40 steps  one line
sampling                  T 1               T 1, top-p 0.8,        greedy
                                            top-k 20
longest answer            2048              2048                   300
inserted turns count      messages          messages               pairs of messages
word limit in question    no                no                     yes
multiple choice           explain, then     explain, then letter   letter only
                          letter
system message            none              none                   "You are a helpful assistant."
========================  ================  =====================  ==========================================

``rear-official`` samples as the server of the official code does by its model's defaults, for Qwen2.5; its repetition
penalty of 1.05 is not one of preftilt's settings and is left out. ``prefeval`` allows 16 tokens for a letter, where the
benchmark allows 5 behind an answer that it has begun itself.

As Inspect tasks; their arguments are in ``docs/how-to/benchmarks.md``::

    inspect eval preftilt/prefeval_explicit --model preftilt/demo -T data=../shared/data -T lam=20
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from preftilt.engines.waiting import together
from preftilt.errors import BadInput
from preftilt.eval.benchmarks.prefeval_data import (
    FORMS,
    TOPICS,
    Form,
    PrefEvalItem,
    load_filler,
    load_items,
)
from preftilt.eval.harness import lazy_inspect
from preftilt.eval.harness.benchmark import (
    Benchmark,
    BenchmarkProtocol,
    BenchmarkRequest,
    Case,
    Json,
    Opening,
    QualityPart,
    Rules,
    TaskMethod,
    Values,
    choose_method,
    choose_rules,
    judged_by,
    one_of,
    own_protocol,
    rear_protocol,
    verdicts_mark,
)
from preftilt.eval.harness.budget import Budget, JudgeSettings
from preftilt.eval.harness.rows import PromptTemplates, load_template, load_templates, own_text
from preftilt.messages import Message
from preftilt.prompt import PromptSettings
from preftilt.types import GenerateWith, Preference

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import Score, Scorer, Target
    from inspect_ai.solver import Solver, TaskState

    from preftilt.eval.harness.judge import InspectJudge, Judgement


Counting = Literal["messages", "pairs"]
Junk = Literal["unscored", "official"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefEvalRules(Rules):
    """The switches of PrefEval; see the table above.

    preference_as: ``system``: the preference's sentence is the system message, also where the model should find it in
        the history by itself (an oracle), and earlier turns stand in both views. ``history``: what the user said
        earlier is the preference, and the question view goes without it.
    system, question_system: system message of both views; of the question view alone.
    judge_junk: ``unscored`` leaves an item out whose judgement cannot be read; ``official`` reads it as the benchmark's
        code does, as neither yes nor no, which counts for the model.
    """

    preset: Literal["rear-paper", "rear-official", "prefeval"]
    preference_as: Literal["system", "history"] = "system"
    generate_with: GenerateWith = "full"
    system: str | None = None
    question_system: str | None = None
    counting: Counting = "messages"
    word_limit: bool = False
    choice_style: Literal["explain", "letter"] = "explain"
    judge_junk: Junk = "unscored"


def rules_for(preset: str, form: Form, switches: str | Json | None) -> PrefEvalRules:
    """A preset's rules for a task, with the user's ``switches``: an object or its JSON."""
    presets = [
        PrefEvalRules(preset="rear-paper"),
        PrefEvalRules(
            preset="rear-official", generate_with="full" if form == "explicit" else "question"
        ),
        PrefEvalRules(
            preset="prefeval",
            preference_as="history",
            system="You are a helpful assistant.",
            counting="pairs",
            word_limit=True,
            choice_style="letter",
        ),
    ]
    return choose_rules(presets, preset, switches)


def method_protocol(rules: PrefEvalRules, *, mcq: bool) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    if rules.preset != "prefeval":
        return rear_protocol(rules.preset, max_tokens=2048)
    longest = 16 if mcq and rules.choice_style == "letter" else 300
    return own_protocol("greedy", max_tokens=longest)


Prompting = Literal["zero-shot", "reminder", "cot", "self-critic"]
"""The benchmark's prompting baselines: nothing more, a reminder behind the question, worked examples before it, or an
answer that is criticised and written again."""

PROMPTINGS: tuple[Prompting, ...] = get_args(Prompting)


@dataclass(frozen=True, slots=True)
class ShownOptions:
    """The options of one question in the order shown; ``fitting`` is the letter of the one that fits."""

    shown: tuple[str, ...]
    fitting: str

    def lines(self) -> str:
        """One lettered line an option."""
        return "\n".join(
            f"{letter}. {option}"
            for letter, option in zip(string.ascii_uppercase, self.shown, strict=False)
        )


def shuffled(item: PrefEvalItem, seed: int) -> ShownOptions:
    """The item's options in an order that depends on ``seed`` and the item alone."""
    order = list(range(len(item.options)))
    random.Random(f"{seed}/{item.id}").shuffle(order)
    return ShownOptions(
        tuple(item.options[i] for i in order), string.ascii_uppercase[order.index(0)]
    )


def inserted(filler: Sequence[Message], turns: int, counting: Counting) -> tuple[Message, ...]:
    """The first ``turns`` messages, or pairs of messages, of the filler; every item gets the same ones.

    Counting messages, as the REAR paper's code does, an odd number ends on a user's message, so that two follow each
    other. The benchmark counts pairs, and what its paper calls 10 and 300 turns are 8 and 298 of them: the preference's
    exchange and the question count, too.
    """
    if turns < 0:
        raise BadInput(f"turns is {turns}; give 0 or more")
    count = 2 * turns if counting == "pairs" else turns
    if count > len(filler):
        per = 2 if counting == "pairs" else 1
        raise BadInput(
            f"{turns} {counting} of inserted turns were asked for, but there are {len(filler) // per}"
        )
    return tuple(filler[:count])


def question_text(
    item: PrefEvalItem, rules: PrefEvalRules, prompting: Prompting, options: ShownOptions | None
) -> str:
    """The last user turn: the question, as multiple choice if there are ``options``, with the baseline's additions."""
    text = item.question
    if options is not None:
        gaps = {"question": text, "options": options.lines()}
        template = load_template("prefeval", f"choice_{rules.choice_style}.txt", frozenset(gaps))
        text = template.fill(gaps)
    elif rules.word_limit:
        text = f"{text} {own_text('prefeval', 'word_limit.txt')}"
    if prompting == "reminder":
        return f"{text} {own_text('prefeval', 'reminder.txt')}"
    if prompting == "cot":
        examples = load_template("prefeval", "worked_examples.txt", frozenset({"question"}))
        return examples.fill({"question": text})
    return text


def stated_preference(item: PrefEvalItem, rules: PrefEvalRules) -> list[Message]:
    """The conversation that the model acknowledges the bare preference in (explicit form, history as preference)."""
    return [*_system(rules), Message("user", item.preference)]


def request_for(
    item: PrefEvalItem,
    rules: PrefEvalRules,
    question: str,
    filler: Sequence[Message],
    acknowledgement: str | None = None,
) -> BenchmarkRequest:
    """What every method is asked. ``acknowledgement`` is the model's own answer to the bare preference, where the
    preference was stated in the conversation; inserted turns come behind the preference and stand in both views.
    """
    history = item.history
    if acknowledgement is not None:
        history = (Message("user", item.preference), Message("assistant", acknowledgement))
    turns = (*history, *filler, Message("user", question))
    as_system = rules.preference_as == "system"
    return BenchmarkRequest(
        messages=(*_system(rules), *turns),
        preferences=(Preference(item.preference),) if as_system else (),
        prompt=PromptSettings(
            generate_with=rules.generate_with,
            question_system=rules.question_system,
            history="both" if as_system else "preference",
            preference_turns=None if as_system else len(history),
        ),
    )


def _system(rules: PrefEvalRules) -> list[Message]:
    return [] if rules.system is None else [Message("system", rules.system)]


Known = bool | None

VALUES = (
    "following",
    "unhelpful",
    "inconsistent",
    "hallucinated_preference",
    "preference_unaware",
    "violates",
    "acknowledged",
)
"""What an item is scored with: whether the answer follows the preference, the four errors that keep it from it, and two
of the judge's verdicts."""

_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_CHOICE = re.compile(r"<choice>\s*([ABCD])\s*</choice>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Whether the answer refers to a preference, and its sentence that does; empty if the judge quoted none."""

    verdict: bool
    restatement: str


def tagged(text: str, tag: str) -> str | None:
    """What stands in the first ``<tag>…</tag>``; None without one."""
    match = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL | re.IGNORECASE)
    return None if match is None else match[1].strip()


def read_yes_no(text: str) -> bool | None:
    """The judge's Yes or No; None if its answer tag is missing or says neither.

    The benchmark's code searches the tag for "yes" and "no" anywhere ("unknown" has a no), and reads a missing tag as
    neither; here it must begin with one of them.
    """
    said = tagged(text, "answer")
    match = _YES_NO.match(said or "")
    return None if match is None else match[1].lower() == "yes"


def read_acknowledged(text: str) -> Acknowledged | None:
    """The judge's answer to the first check; None if it cannot be read."""
    verdict = read_yes_no(text)
    if verdict is None:
        return None
    return Acknowledged(verdict, tagged(text, "preference") or "")


def read_choice(text: str) -> str | None:
    """The letter of the first ``<choice>X</choice>`` with X from A to D, in upper case; None without one."""
    match = _CHOICE.search(text)
    return None if match is None else match[1].upper()


def settle(verdict: Known, junk: Junk, *, unread: bool, official: bool) -> Known:
    """A verdict as the protocol takes it: one that cannot be read stays unknown, or is the benchmark's default."""
    if verdict is None and unread and junk == "official":
        return official
    return verdict


def outcome(
    *, acknowledged: Known, hallucinated: Known, violates: Known, helpful: Known
) -> dict[str, float | None]:
    """The numbers of one item, by the names of :data:`VALUES`.

    acknowledged: the answer refers to a preference. hallucinated: it refers to another one than the user's (counts only
    where acknowledged). The four errors exclude each other, and an answer follows the preference if it has none of
    them, which is the same as being helpful and not violating.
    """
    wrong = _both(helpful, violates)
    verdicts: dict[str, Known] = {
        "following": _both(helpful, _not(violates)),
        "unhelpful": _not(helpful),
        "inconsistent": _both(wrong, _both(acknowledged, _not(hallucinated))),
        "hallucinated_preference": _both(wrong, _both(acknowledged, hallucinated)),
        "preference_unaware": _both(wrong, _not(acknowledged)),
        "violates": violates,
        "acknowledged": acknowledged,
    }
    return {name: None if verdict is None else float(verdict) for name, verdict in verdicts.items()}


def _not(verdict: Known) -> Known:
    return None if verdict is None else not verdict


def _both(verdict: Known, other: Known) -> Known:
    if verdict is False or other is False:
        return False
    return None if verdict is None or other is None else True


SHUFFLE_SEED = 0
"""Of the options' order, as in ``prefeval_mcq``."""


def open_judged(form: Form, opening: Opening) -> Benchmark:
    """For ``preftilt reproduce``: two calls of the judge an answer, what the headline number needs."""
    rules, common = _opened(form, opening, mcq=False)
    name = f"prefeval-{form}"
    return Benchmark(
        name=name,
        title=f"PrefEval, {form}",
        metrics=("following", "unhelpful", "violates"),
        fault="violates",
        parts=(
            QualityPart("unhelpful", "helpful (%)", inverted=True),
            QualityPart("violates", "preference kept (%)", inverted=True),
        ),
        **common,
        judge=judged_by(
            name,
            prefeval_checks,
            opening,
            checks=2,
            judge_junk=rules.judge_junk,
        ),
        verdicts=verdicts_mark(rules, opening.judge_prompts),
    )


def open_choice(opening: Opening) -> Benchmark:
    """For ``preftilt reproduce``: the implicit choice as multiple choice, which the paper reports by accuracy."""
    _, common = _opened("choice", opening, mcq=True)
    return Benchmark(
        name="prefeval-choice",
        title="PrefEval, implicit choice",
        metrics=("correct", "no choice made"),
        fault="no choice made",
        **common,
        answers="letter",
        check=_chosen,
        verdicts=repr(SHUFFLE_SEED),
    )


def _opened(form: Form, opening: Opening, *, mcq: bool) -> tuple[PrefEvalRules, dict[str, Any]]:
    """The rules, and what the benchmarks of all forms have in common."""
    data = opening.folder("PrefEval")
    rules = rules_for(opening.preset, form, opening.switches)
    if rules.preference_as != "system":
        raise BadInput(
            "preference_as=history has the model speak before it is asked, and an experiment draws all candidates at"
            f" once: run inspect eval preftilt/prefeval_{form} for that"
        )
    items = load_items(data, form, options=mcq)
    test, validation = opening.split(items)

    def cases(some: Sequence[PrefEvalItem], turns: int) -> list[Case]:
        filler = inserted(load_filler(data) if turns else (), turns, rules.counting)
        return [_case(item, rules, filler, mcq) for item in some]

    also = {"shuffle_seed": SHUFFLE_SEED} if mcq else {"checks": 2}
    return rules, {
        "protocol": method_protocol(rules, mcq=mcq),
        "switches": {
            **rules.to_json(),
            **also,
            "rows there": f"{len(items)} of {sum(TOPICS.values())}",
        },
        "test": lambda turns: cases(test, turns),
        "validation": lambda: cases(validation, 0),
        "contexts": True,
    }


def _case(item: PrefEvalItem, rules: PrefEvalRules, filler: Sequence[Message], mcq: bool) -> Case:
    options = shuffled(item, SHUFFLE_SEED) if mcq else None
    question = question_text(item, rules, "zero-shot", options)
    facts = {"preference": item.preference, "question": item.question}
    fitting = "" if options is None else options.fitting
    return Case(item.id, request_for(item, rules, question, filler), facts, target=fitting)


def _chosen(case: Case, answer: str) -> Values:
    """An answer without a choice is wrong, and counted."""
    letter = read_choice(answer)
    return {
        "correct": float(letter == case.target),
        "no choice made": float(letter is None),
    }


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

    @lazy_inspect.task(f"prefeval_{form}")
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
        settings: str | dict[str, Any] | None = None,
        switches: str | dict[str, Any] | None = None,
        checks: int = 4,
        judge_prompts: str | None = None,
        max_judge_calls: int | None = None,
        max_tokens_total: int | None = None,
    ) -> Task:
        """PrefEval with answers that a judge checks.

        data: folder, or ``hub:OWNER/NAME``. topics: names, separated by commas; all that are there if none is given.
        preset: ``rear-paper``, ``rear-official`` or ``prefeval``; switches: changes to it, as JSON
        (:class:`PrefEvalRules`). prompting: ``zero-shot``, ``reminder``, ``cot`` or ``self-critic``. turns: of
        unrelated conversation inserted. checks: 4 of the judge an answer, or the 2 that the headline number needs.
        judge_prompts: a folder with the benchmark's own prompts. The others are those of every task.
        """
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
        about = {"form": form, "inserted_turns": turns, "checks": checks}
        return _task(f"prefeval_{form}", plan, scorer, budget, JUDGE, about)

    return prefeval


prefeval_explicit = _answered("explicit")
"""The preference was stated."""

prefeval_choice = _answered("choice")
"""The preference shows in a choice among four options."""

prefeval_persona = _answered("persona")
"""The preference is said in passing."""


@lazy_inspect.task("prefeval_mcq")
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
    settings: str | dict[str, Any] | None = None,
    switches: str | dict[str, Any] | None = None,
    shuffle_seed: int = 0,
    max_tokens_total: int | None = None,
) -> Task:
    """Pick the option that fits the preference; no judge. The REAR paper's "implicit choice" is the form ``choice``.

    form: ``explicit``, ``choice`` or ``persona``. shuffle_seed: of the options' order, which also depends on the item.
    """
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
    judge: JudgeSettings | None,
    about: Mapping[str, Any],
) -> Task:
    """The task with the resolved protocol in its metadata, and whatever ``about`` says."""
    from preftilt.eval.harness.solver import make_task

    return make_task(
        name,
        [_sample(item, plan.options.get(item.id)) for item in plan.items.values()],
        method=plan.method,
        budget=budget,
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
    from inspect_ai.dataset import Sample

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


@lazy_inspect.solver
def prefeval_answer(plan: PrefEvalPlan, budget: Budget) -> Solver:
    """Answers the sample's item by the plan: the acknowledgement, the baseline's turns, the method."""
    from preftilt.eval.harness.solver import answer_request, say, within

    async def answer(state: TaskState) -> None:
        item, rules, acknowledgement = plan.items[str(state.sample_id)], plan.rules, None
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

    return within(budget, answer)


async def _revise(
    state: TaskState, request: BenchmarkRequest, text: str, method: TaskMethod, budget: Budget
) -> None:
    """The model criticises its answer and the method answers once more; the first answer stays in the messages.

    The benchmark allows a revision more tokens than an answer; a user's own limit stands.
    """
    from preftilt.eval.harness.solver import answer_request, say

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


@lazy_inspect.scorer(VALUES)
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
    from preftilt.eval.harness.judge import judge_within, judged, scoring

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


@lazy_inspect.scorer(("correct",), ("no_choice", "over_budget"))
def prefeval_choice_made() -> Scorer:
    """Whether the option chosen is the fitting one. An answer without a choice is wrong, and counted."""
    from inspect_ai.scorer import Score

    from preftilt.eval.harness.judge import scoring

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
