"""What is measured on one item, in parts that are kept and resumed apart; every experiment names those that it needs.

One pool of samples serves all λ, all N and every method that picks among samples. What depends on λ while it draws
(trees) or chooses tokens by it (guided decoding) is drawn for itself. Times are taken apart, too: a part of its own
answers a few items with one method after the other, alone, as a user would.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from preftilt.api import Realigner, Settings
from preftilt.declare import check_settings, setting
from preftilt.engines.base import Engine
from preftilt.engines.memo import MemoEngine
from preftilt.engines.waiting import together
from preftilt.eval.answers import (
    DrawnAnswer,
    RecordedAnswer,
    draw_plain,
    draw_realigned,
    recorded_answer,
)
from preftilt.eval.harness.benchmark import BenchmarkProtocol, Case, Json, choose_method, patched
from preftilt.eval.reproduce.measured import AnswerCost, CostedAnswer, answer_record, costed_record
from preftilt.prompt import with_preferences
from preftilt.rivals import ByJudge, ByRewardModel, Judges
from preftilt.rivals.methods import JudgeMode, Method, for_reward_model
from preftilt.rivals.verdict import GenerativeRewardModel
from preftilt.types import Preference, Reduction, Stream

GUIDED: Mapping[str, Json] = {
    "Amulet": {"search": {"name": "amulet"}},
    "Linear Alignment": {"search": {"name": "linear-alignment"}},
    "CFG": {"search": {"name": "cfg"}, "lambda": 3.0},
}
"""Guided decoding as the paper compares with it, greedy: the presets ``amulet-default`` and ``la-amulet-repo``; and CFG
in the same way, at the λ of every token that Linear Alignment has by default: their answers are equal."""

GUIDANCE: Mapping[str, Json] = {
    "guided, λ = 3, nucleus mask 0.9": {
        "search": {"name": "cfg", "mask_top_p": 0.9},
        "lambda": 3.0,
    },
    "guided by divergence, λ = 2 (AdaCAD)": {
        "search": {"name": "cfg", "strength_by": "divergence"},
        "lambda": 2.0,
    },
    "guided by divergence, λ = 10": {
        "search": {"name": "cfg", "strength_by": "divergence"},
        "lambda": 10.0,
    },
    "Amulet": GUIDED["Amulet"],
}
"""Guided decoding, greedy, that is compared beside the grid over λ (:func:`guidance_name`); Linear Alignment at its
default is that grid's λ = 3."""

GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
TREE = "DVTS-REAR"
BEST_OF = "best-of-N, REAR"
REWARD_MODEL = "external RM"
JUDGED: dict[str, JudgeMode] = {"generative RM": "forced", "generative RM, CoT": "cot"}


NUMBERS = "NUMBER[,NUMBER…]"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSettings:
    """How a benchmark is measured; a change makes other records.

    Attributes:
        protocol: the benchmark's.
        settings: changes to settings: '{"max_tokens": 512, "top_p": 0.9}'. They win over the protocol's.
        seed: of the random streams.
        n: samples that methods pick from. They are the first of the pool.
        pool: samples an item, for the figure over N.
        lambdas: λ of tree searches.
        judge_tokens: tokens of a generative RM's reasons at most.
        guided_lambdas: λ of guided decoding, greedy (token-level).
        drawn_lambdas: λ of guided draws (token-level).
        drawn: guided draws an item (token-level).
    """

    protocol: BenchmarkProtocol = field(default_factory=lambda: BenchmarkProtocol(settings={}))
    settings: Json = setting(factory=dict, metavar="JSON", panel="Experiment")
    seed: int = setting(0, panel="Experiment")
    n: int = setting(16, least=2, flags=("--n", "-n"))
    pool: int = setting(16, least=2, told="n")
    lambdas: tuple[float, ...] = setting(
        (1.0, 3.0, 5.0, 20.0, 50.0), flags=("--tree-lambdas",), metavar=NUMBERS
    )
    judge_tokens: int = setting(512, least=1, flags=("--rm-tokens",))
    guided_lambdas: tuple[float, ...] = setting((1.5, 2.0, 3.0), metavar=NUMBERS)
    drawn_lambdas: tuple[float, ...] = setting((2.0,), metavar=NUMBERS)
    drawn: int = setting(4, least=1)

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def flat(self) -> dict[str, Any]:
        """The settings in use, the method of picking apart, which is what is compared."""
        own = {**self.protocol.settings, **self.settings}
        return {name: value for name, value in own.items() if name != "method"}

    @property
    def lam(self) -> float:
        """λ of best-of-n: the preset's, or preftilt's own."""
        return self.settings_for({"name": "best-of-n"}).strength

    @property
    def reduction(self) -> Reduction:
        """The preset's."""
        return self.settings_for({"name": "dvts"}).reward.reduction

    def changed(self, changes: Json) -> Settings:
        """As :meth:`settings_for`, from changes with the search among them."""
        rest = {name: value for name, value in changes.items() if name != "search"}
        return self.settings_for(changes["search"], **rest)

    def settings_for(self, search: Json, **changes: Any) -> Settings:
        """Settings for a search, by the protocol and the user."""
        own = BenchmarkProtocol(settings={**self.flat, **changes}, searches=self.protocol.searches)
        method = choose_method(own, settings={"search": dict(search)})
        return replace(patched(Settings(), method.settings), seed=self.seed)

    def guidance(self, lam: float) -> Settings:
        """Settings for greedy decoding guided at λ."""
        return self.changed({"search": {"name": "cfg"}, "lambda": lam, **GREEDY})

    def draws(self, lam: float) -> Settings:
        """Settings for answers drawn guided at λ, by the protocol's sampling."""
        return self.changed({"search": {"name": "cfg", "n": self.drawn}, "lambda": lam})

    def guided(self, name: str) -> Settings:
        """Settings for the guided decoding of that name, greedy."""
        return self.changed({**GUIDED[name], **GREEDY})


def guidance_name(lam: float) -> str:
    """The name of greedy decoding guided at λ."""
    return f"guided, λ = {lam:g}"


def against_name(lam: float) -> str:
    """The name of guided decoding whose question view states the opposite wish."""
    return f"guided against the opposite, λ = {lam:g}"


def away_name(lam: float) -> str:
    """The name of guided decoding that is led away from the opposite wish, with the wish itself in no prompt."""
    return f"guided away from the opposite, λ = {lam:g}"


def drawn_guidance(lam: float) -> str:
    """The name of the pool of answers drawn guided at λ."""
    return f"guided draws, λ = {lam:g}"


@dataclass(frozen=True, slots=True)
class OpenModels:
    """Models, open, and how they are used."""

    engine: Engine
    judges: Judges
    how: MeasureSettings

    async def draw(
        self, case: Case, settings: Settings, engine: Engine | None = None, *, scored: bool = True
    ) -> DrawnAnswer:
        """One request of the case; without ``scored`` the answer is drawn and nothing more."""
        settings = replace(settings, prompt=case.request.prompt)
        realigner = Realigner(engine or self.engine, judges=self.judges)
        draw = draw_realigned if scored else draw_plain
        return await draw(realigner, case.request, settings, case.stream, True)


Measure = Callable[[OpenModels, Case, Sequence[str]], Awaitable[dict[str, Any]]]
"""Measures a part of an item; it is given the texts of its pool where the part rates them."""


async def measure_pool(models: OpenModels, case: Case, texts: Sequence[str]) -> dict[str, Any]:
    """The greedy answer, which is the same in every repeat, and samples with their scores."""
    how = models.how
    searches: list[Json] = [{"name": "best-of-n", "n": how.pool}]
    if case.repeat == 1:
        searches.append({"name": "greedy"})
    drawn, *greedy = await together(
        models.draw(case, how.settings_for(search, reduction="sum")) for search in searches
    )
    record = {
        "prompt": drawn.record["prompt_tokens"].get("full", drawn.read),
        "scored_views": sorted(drawn.record["usage"]["scored"]),
        "pool": [answer_record(answer) for answer in _by_slot(drawn)],
    }
    for greedy_draw in greedy:
        answer = recorded_answer(greedy_draw.record["candidates"][0])
        record["greedy"] = costed_record(CostedAnswer(answer, AnswerCost(answer.length)))
    return record


async def measure_trees(models: OpenModels, case: Case, texts: Sequence[str]) -> dict[str, Any]:
    """Tree searches at every λ, by the protocol's reduction; they share the steps on which they agree."""
    how = models.how
    settings = {
        f"{lam:g}": how.settings_for({"name": "dvts"}, **{"lambda": lam}) for lam in how.lambdas
    }
    return {"trees": await _each(models, case, settings, MemoEngine(models.engine))}


async def measure_avoiding(models: OpenModels, case: Case, texts: Sequence[str]) -> dict[str, Any]:
    """Two remedies for a wish that says what to avoid, which names it: the contrast against the opposite wish in place
    of the question alone, at every λ of the grid; and a negative strength on the opposite wish, at 1 − λ."""
    opposite = case.facts.get("opposite")
    if opposite is None:
        return {"skipped": "its preference does not only say what to leave out"}
    how, request = models.how, case.request
    contrasted = replace(request, prompt=replace(request.prompt, against=opposite))
    reversed_wish = replace(request, preferences=(Preference(opposite),))
    against = {against_name(lam): how.guidance(lam) for lam in how.guided_lambdas}
    away = {away_name(1 - lam): how.guidance(1 - lam) for lam in how.guided_lambdas}
    measured = await _guided(models, replace(case, request=contrasted), against)
    if "skipped" in measured:
        return measured
    others = await _guided(models, replace(case, request=reversed_wish), away)
    return {"guided": measured["guided"] | others["guided"]}


def measure_guided(kinds: Callable[[MeasureSettings], Mapping[str, Settings]]) -> Measure:
    """Guided decoding, greedy, of all ``kinds`` by name."""

    async def measure(models: OpenModels, case: Case, texts: Sequence[str]) -> dict[str, Any]:
        return await _guided(models, case, kinds(models.how))

    return measure


async def _guided(
    models: OpenModels, case: Case, settings: Mapping[str, Settings]
) -> dict[str, Any]:
    """Nothing where the engine does not guide."""
    if not models.engine.capabilities.guides:
        return {"skipped": f"{models.engine.name} does not guide decoding"}
    return {"guided": await _each(models, case, settings)}


async def _each(
    models: OpenModels, case: Case, settings: Mapping[str, Settings], engine: Engine | None = None
) -> dict[str, Any]:
    """The record of an answer by each of ``settings``."""
    drawn = await together(models.draw(case, each, engine) for each in settings.values())
    return {
        name: costed_record(
            CostedAnswer(recorded_answer(answer.record["candidates"][0]), _spent(answer))
        )
        for name, answer in zip(settings, drawn, strict=True)
    }


async def measure_draws(models: OpenModels, case: Case, texts: Sequence[str]) -> dict[str, Any]:
    """Answers drawn guided, several an item, with the log-probs of both views that came with them."""
    if not models.engine.capabilities.guides:
        return {"skipped": f"{models.engine.name} does not guide decoding"}
    how = models.how
    drawn = await together(models.draw(case, how.draws(lam)) for lam in how.drawn_lambdas)
    return {
        "draws": {
            drawn_guidance(lam): [answer_record(answer) for answer in _by_slot(pool)]
            for lam, pool in zip(how.drawn_lambdas, drawn, strict=True)
        }
    }


def measure_judge(name: str) -> Measure:
    """What a generative RM makes of the pool's answers; equal ones are judged once."""

    async def measure(models: OpenModels, case: Case, texts: Sequence[str]) -> dict[str, Any]:
        method = _judge(name, models.how)
        judge = GenerativeRewardModel(models.judges.judge or models.engine, method)
        request = case.request
        messages = with_preferences(request.messages, request.preferences, request.prompt)
        judge.check(messages)
        distinct = list(dict.fromkeys(texts[: models.how.n]))
        stream = Stream(models.how.seed, f"{case.stream}\x1fjudge")
        verdicts = await judge.judge(messages, distinct, stream)
        by_text = dict(zip(distinct, verdicts, strict=True))
        masses = [verdict.mass for verdict in verdicts if verdict.score is not None]
        return {
            "by": name,
            "scores": [by_text[text].score for text in texts[: models.how.n]],
            "spent": {
                "sampled": sum(verdict.sampled for verdict in verdicts),
                "scored": sum(verdict.read for verdict in verdicts),
                "judged": sum(verdict.forwards for verdict in verdicts),
            },
            "sure": sum(masses) / len(masses) if masses else None,
        }

    return measure


async def measure_reward_model(
    models: OpenModels, case: Case, texts: Sequence[str]
) -> dict[str, Any]:
    """What the external reward model makes of the pool's answers."""
    model, request = models.judges.reward_model, case.request
    assert model is not None
    messages = for_reward_model(request.messages, request.preferences, request.prompt, "system")
    model.check(messages)
    distinct = list(dict.fromkeys(texts[: models.how.n]))
    rated = await model.score([(messages, text) for text in distinct])
    by_text = dict(zip(distinct, rated.scores, strict=True))
    # A function says nothing about what it read; it was asked for every answer all the same.
    judged = rated.forwards or len(distinct)
    return {
        "by": REWARD_MODEL,
        "scores": [by_text[text] for text in texts[: models.how.n]],
        "spent": {"sampled": 0, "scored": rated.tokens, "judged": judged},
    }


async def measure_times(models: OpenModels, case: Case, texts: Sequence[str]) -> dict[str, Any]:
    """Seconds for an answer by each method, one after the other."""
    how, n = models.how, {"name": "best-of-n", "n": models.how.n}
    methods: dict[str, Method] = {name: _judge(name, how) for name in JUDGED}
    if models.judges.reward_model is not None:
        methods[REWARD_MODEL] = ByRewardModel()
    full = {BEST_OF: how.settings_for(n), TREE: how.settings_for({"name": "dvts"})}
    full |= {name: replace(how.settings_for(n), method=method) for name, method in methods.items()}
    if models.engine.capabilities.guides:
        full |= {name: how.guided(name) for name in GUIDED}
    return await _timed(models, case, full)


async def measure_guidance_times(
    models: OpenModels, case: Case, texts: Sequence[str]
) -> dict[str, Any]:
    """Seconds for an answer by guided decoding, greedy and drawn, beside best-of-n and the model alone."""
    how = models.how
    full = {BEST_OF: how.settings_for({"name": "best-of-n", "n": how.n})}
    if models.engine.capabilities.guides:
        full |= {guidance_name(lam): how.guidance(lam) for lam in how.guided_lambdas}
        full |= {drawn_guidance(lam): how.draws(lam) for lam in how.drawn_lambdas}
    return await _timed(models, case, full)


async def _timed(models: OpenModels, case: Case, full: Mapping[str, Settings]) -> dict[str, Any]:
    """One answer by each of ``full``, after the greedy one and one sample, which are drawn and not scored; and before
    all a greedy one that is not counted."""
    how = models.how
    greedy, sample = (how.settings_for({"name": name}) for name in ("greedy", "sample"))
    plain = {"greedy": greedy, "one sample": sample}
    spent = _spent(await models.draw(case, greedy, scored=False))
    seconds = {}
    for name, settings in {**plain, **full}.items():
        began = time.perf_counter()
        drawn = await models.draw(case, settings, scored=name not in plain)
        seconds[name] = time.perf_counter() - began
        spent += _spent(drawn)
    return {"seconds": seconds, "spent": [spent.sampled, spent.scored]}


PARTS: Mapping[str, Measure] = {
    "pool": measure_pool,
    "guided": measure_guided(
        lambda how: {name: replace(how.guided(name), reward=Settings().reward) for name in GUIDED}
    ),
    "guidance": measure_guided(
        lambda how: {guidance_name(lam): how.guidance(lam) for lam in how.guided_lambdas}
    ),
    "other guidance": measure_guided(
        lambda how: {name: how.changed({**kind, **GREEDY}) for name, kind in GUIDANCE.items()}
    ),
    "avoiding": measure_avoiding,
    "draws": measure_draws,
    "trees": measure_trees,
    **{name: measure_judge(name) for name in JUDGED},
    REWARD_MODEL: measure_reward_model,
    "times": measure_times,
    "guidance times": measure_guidance_times,
}
RATES = frozenset({*JUDGED, REWARD_MODEL})
"""The parts that rate a pool."""

TIMED = frozenset({"times", "guidance times"})
"""The parts whose items are answered one after the other, with nothing beside them."""

ONCE = frozenset({"guided", "guidance", "other guidance", "avoiding"}) | TIMED
"""The parts that only the first repeat of an item has: guided decoding is greedy, and the same in all of them."""

AFTER_POOLS = RATES | TIMED
"""The parts that only items have whose pool was drawn: an item that does not fit the context has none of them."""


def _judge(name: str, how: MeasureSettings) -> ByJudge:
    return ByJudge(judge_mode=JUDGED[name], judge_tokens=how.judge_tokens)


def _by_slot(drawn: DrawnAnswer) -> list[RecordedAnswer]:
    """All candidates in the order drawn, with their tokens' log-probs."""
    answers = []
    for short, whole in zip(drawn.record["candidates"], drawn.candidates, strict=True):
        answer = recorded_answer(short)
        gains = whole.gains[whole.thoughts :]
        questions = whole.logprobs["question"][whole.thoughts :]
        kept = replace(answer, questions=questions[: answer.length], gains=gains[: answer.length])
        answers.append((whole.slot, kept))
    return [answer for _, answer in sorted(answers, key=lambda pair: pair[0])]


def _spent(drawn: DrawnAnswer) -> AnswerCost:
    """What guided decoding reads besides its own prompt counts as scored, and so does what a method reads to pick."""
    usage = drawn.record.get("usage")
    if usage is None:  # Drawn plainly.
        return AnswerCost(drawn.sampled)
    guided, method = sum(usage["guided"].values()), usage["method"]
    besides = guided - usage["sampled"] if guided else 0
    return AnswerCost(
        usage["sampled"] + method.get("sampled", 0),
        sum(usage["scored"].values()) + besides + method.get("tokens", 0),
    )
