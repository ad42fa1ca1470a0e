"""PingPong v2 (Gusev, 2024): a model plays a character in a chat with a user who is another model; a judge rates it.

PingPong's settings file: eight characters and eight situations a language (IlyaGusev/ping_pong_bench, version 2).

A dialogue is one character in one situation, 64 a language. Nothing of it is in this
package; its licence is Apache-2.0.

Where the paper, its code and the benchmark do different things: one switch each, and presets by name.

========================  ================  =====================  =====================
switch                    rear-paper        rear-official          pingpong
========================  ================  =====================  =====================
how the answer is made    best of 16        best of 16             one sample
candidates drawn from     full prompt       the history alone      full prompt
score of a candidate      sum               mean                   sum
sampling                  T 1               T 1, top-p 0.8,        T 0.6, top-p 0.9
                                            top-k 20
longest answer            2048              2048                   1536
turns of a dialogue       4                 4                      the situation's (4, 8)
greeting                  in the persona    in the persona and as  in the persona
                          and as a turn     a turn
the user's sampling       T 0               T 0                    T 0.8, top-p 0.95
refusals                  are rated         are rated              take the dialogue out
longest judgement         2048              2048                   4096
========================  ================  =====================  =====================

The preference is the character's persona; the question view is the history alone. The user is the model in the role
``interrogator``, by default the model under test itself, as in REAR's code. The benchmark's table is the mean of two
judges; here there is one.

As an Inspect task::

    inspect eval preftilt/pingpong --model preftilt/Qwen/Qwen2.5-7B-Instruct -T data=../shared/data -T language=ru
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from preftilt.declare import setting
from preftilt.errors import BadInput
from preftilt.eval.harness import lazy_inspect
from preftilt.eval.harness.benchmark import (
    BenchmarkProtocol,
    BenchmarkRequest,
    Rules,
    TaskMethod,
    choose_method,
    choose_rules,
    one_of,
    own_protocol,
    rear_protocol,
)
from preftilt.eval.harness.budget import COUNTS, Budget, JudgeSettings
from preftilt.eval.harness.rows import (
    HUB,
    DataRow,
    PromptTemplate,
    data_folder,
    load_template,
    load_templates,
    parsed,
    read_bytes,
)
from preftilt.messages import Message
from preftilt.prompt import PromptSettings
from preftilt.records.lines import parse_json
from preftilt.types import GenerateWith, Preference

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import Score, Scorer, Target
    from inspect_ai.solver import Solver, TaskState

Language = Literal["en", "ru"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

FILE = "settings_v2.json"
COUNT = 8
"""Characters, and situations, of a language."""

MARK = "interrogator_system_prompt_path"
"""A field that the first version's file has not; its numbers in ``version`` do not tell the two apart."""

GREETINGS = ("initial_message", "inital_message", "greeting")
"""How the opening line is spelled; the published code reads the first one alone, so that it misses the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """Who is played. ``greetings`` has the opening line by the field that it stands in."""

    name: str
    system_prompt: str
    example: str | None
    summary: str
    greetings: dict[str, str]


@dataclass(frozen=True, slots=True)
class Situation:
    """What the user is up to, and for how many turns."""

    text: str
    turns: int
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PingPongItem:
    """One dialogue."""

    id: str
    character: Character
    situation: Situation


def load_items(data: str, language: Language) -> tuple[PingPongItem, ...]:
    """The 64 dialogues of a language, characters in file order and for each all situations; ``data`` is a folder."""
    if data.startswith(HUB):
        raise BadInput(
            f"PingPong's {FILE} is on no hub of data sets; give the folder it is in (-T data=FOLDER)"
        )
    path = data_folder(data, "ping_pong_bench") / FILE
    whole = parsed(path.name, read_bytes(path))
    if not isinstance(whole, dict):
        raise BadInput(
            f"{path.name} must hold an object with languages, not {type(whole).__name__}"
        )
    own = DataRow(FILE, 0, whole).object(language)
    own.text(MARK)
    characters = [_character(row) for row in _eight(own, "characters")]
    situations = [_situation(row) for row in _eight(own, "situations")]
    return tuple(
        PingPongItem(f"{language}/{i}/{j}", character, situation)
        for i, character in enumerate(characters)
        for j, situation in enumerate(situations)
    )


def _eight(row: DataRow, name: str) -> tuple[DataRow, ...]:
    rows = row.objects(name)
    if len(rows) != COUNT:
        raise row.wrong(name, f"has {len(rows)} entries, not {COUNT}")
    return rows


def _character(row: DataRow) -> Character:
    said = {name: row.optional_text(name) or "" for name in GREETINGS}
    return Character(
        name=row.text("char_name"),
        system_prompt=row.text("system_prompt"),
        example=row.optional_text("example_prompt") or None,
        summary=row.text("summary"),
        greetings={name: text for name, text in said.items() if text.strip()},
    )


def _situation(row: DataRow) -> Situation:
    turns = row.fields.get("num_turns")
    if isinstance(turns, bool) or not isinstance(turns, int) or turns < 1:
        raise row.wrong("num_turns", f"must be a whole number from 1, not {turns!r}")
    tags = row.texts("tags") if "tags" in row.fields else ()
    return Situation(row.text("text"), turns, tags)


Refusals = Literal["rated", "excluded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PingPongRules(Rules):
    """The switches of PingPong; see the table above.

    turns: of every dialogue; None is the situation's own number. greetings: opening lines are read from the field
    ``initial_message`` alone, as in the published codes, or from its other spellings, too. greeting_as_turn: the
    opening line is also the first turn of the chat. interrogator_temperature: 0 is the user's most likely words.
    """

    preset: Literal["rear-paper", "rear-official", "pingpong"]
    generate_with: GenerateWith = "full"
    turns: int | None = setting(4, least=1)
    greetings: Literal["initial_message", "all"] = "initial_message"
    greeting_as_turn: bool = True
    interrogator_temperature: float = setting(0.0, least=0)
    refusals: Refusals = "rated"

    def greeting(self, character: Character) -> str | None:
        """The character's opening line, where it has one that is read."""
        names = GREETINGS[:1] if self.greetings == "initial_message" else GREETINGS
        return next(
            (character.greetings[name] for name in names if name in character.greetings), None
        )


PRESETS = (
    PingPongRules(preset="rear-paper"),
    PingPongRules(preset="rear-official", generate_with="question"),
    PingPongRules(
        preset="pingpong",
        turns=None,
        greeting_as_turn=False,
        interrogator_temperature=0.8,
        refusals="excluded",
    ),
)


rules_for = partial(choose_rules, PRESETS)
"""A preset's rules with the user's switches."""


def method_protocol(rules: PingPongRules) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    if rules.preset != "pingpong":
        return rear_protocol(rules.preset, max_tokens=2048)
    return own_protocol("sample", temperature=0.6, top_p=0.9, max_tokens=1536)


def interrogator_settings(rules: PingPongRules) -> dict[str, Any]:
    """How the user's words are drawn."""
    if rules.interrogator_temperature == 0:
        return {"search": {"name": "greedy"}, "max_tokens": 1024}
    return {
        "search": {"name": "sample"},
        "temperature": float(rules.interrogator_temperature),
        "top_p": 0.95,
        "max_tokens": 1024,
    }


def judge_settings(preset: str) -> JudgeSettings:
    """How the judge is asked; T 0.1 in all presets."""
    longest = 4096 if preset == "pingpong" else 2048
    return JudgeSettings(max_tokens=longest, temperature=0.1, top_p=0.95)


NAMED = frozenset({"char_name", "text"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The prompts of the player (who is the model under test) and of the interrogator (who is the user)."""

    player: PromptTemplate
    example: PromptTemplate
    greeting: PromptTemplate
    interrogator: PromptTemplate
    asking: PromptTemplate

    def to_json(self) -> dict[str, str]:
        """Whose wording each is."""
        return {"player": self.player.source, "interrogator": self.interrogator.source}


def load_roles(language: Language, folder: str | None) -> Roles:
    """The prompts of a language, from the user's folder if one is given."""

    def load(file: str, gaps: frozenset[str]) -> PromptTemplate:
        return load_template("pingpong", file, gaps, folder)

    persona = frozenset({"char_name", "system_prompt", "example", "greeting"})
    return Roles(
        player=load(f"player_{language}.txt", persona),
        example=load(f"player_example_{language}.txt", NAMED),
        greeting=load(f"player_greeting_{language}.txt", NAMED),
        interrogator=load("interrogator_system.txt", frozenset({"summary", "situation"})),
        asking=load("interrogator_user.txt", frozenset({"dialogue"})),
    )


def persona(character: Character, rules: PingPongRules, roles: Roles) -> str:
    """The player's system message; without an example or a greeting its section is left out."""
    greeting = rules.greeting(character)
    return roles.player.fill(
        {
            "char_name": character.name,
            "system_prompt": character.system_prompt,
            "example": _section(roles.example, character.name, character.example),
            "greeting": _section(roles.greeting, character.name, greeting),
        }
    )


def opening(character: Character, rules: PingPongRules) -> tuple[Message, ...]:
    """What stands in the chat before the user says anything."""
    greeting = rules.greeting(character) if rules.greeting_as_turn else None
    return () if greeting is None else (Message("assistant", greeting),)


def request_for(
    item: PingPongItem, said: Sequence[Message], rules: PingPongRules, roles: Roles
) -> BenchmarkRequest:
    """The player's next turn: ``said`` ends with the user; the persona is the preference."""
    return BenchmarkRequest(
        messages=tuple(said),
        preferences=(Preference(persona(item.character, rules, roles)),),
        prompt=PromptSettings(generate_with=rules.generate_with),
    )


def asking_the_user(item: PingPongItem, said: Sequence[Message], roles: Roles) -> list[Message]:
    """What the interrogator is given; it knows the character's summary alone."""
    gaps = {"summary": item.character.summary, "situation": item.situation.text}
    return [
        Message("system", roles.interrogator.fill(gaps)),
        Message("user", roles.asking.fill({"dialogue": _chat(said) or "(nothing yet)"})),
    ]


def read_utterance(text: str) -> str | None:
    """The user's words in the interrogator's JSON; None if it cannot be read or they are blank."""
    value = cut_json(text)
    said = value.get("next_utterance") if isinstance(value, dict) else None
    return said.strip() or None if isinstance(said, str) else None


def turns_for_judge(said: Sequence[Message]) -> str:
    """The chat under "Turn k" headings; a greeting before the first one is shown, and not rated."""
    lines: list[str] = []
    turn = 0
    for message in said:
        if message.role == "user":
            turn += 1
            lines.append(f"Turn {turn}\nUser: {message.content}")
        else:
            who = "Player" if turn else "Player (greeting, not to be rated)"
            lines.append(f"{who}: {message.content}\n")
    return "\n".join(lines).strip()


def cut_json(text: str) -> object:
    """The JSON value from the first "{" to the last "}"; None without one."""
    start, end = text.find("{"), text.rfind("}")
    try:
        return parse_json(text[start : end + 1].encode()) if 0 <= start < end else None
    except (BadInput, UnicodeEncodeError):
        return None


def _section(template: PromptTemplate, name: str, text: str | None) -> str:
    return "" if text is None else "\n\n" + template.fill({"char_name": name, "text": text})


def _chat(said: Sequence[Message]) -> str:
    names = {"user": "User", "assistant": "Character"}
    return "\n".join(f"{names[message.role]}: {message.content}" for message in said)


SCALES = ("in_character", "entertaining", "fluency")
VALUES = (*SCALES, "score", "refused")
"""What a dialogue is scored with: the mean over its turns of each scale from 1 to 5, their mean, and whether the judge
saw a refusal in any turn."""


@dataclass(frozen=True, slots=True)
class TurnRatings:
    """The ratings of one message, by scale, and whether it is a refusal."""

    ratings: tuple[float, ...]
    refusal: bool


def reader(turns: int) -> Callable[[str], tuple[TurnRatings, ...] | None]:
    """A parser of judgements of ``turns`` turns; it gives None unless all are there, with numbers from 1 to 5."""

    def read(text: str) -> tuple[TurnRatings, ...] | None:
        judgement = cut_json(text)
        entries = judgement.get("scores") if isinstance(judgement, dict) else None
        if not isinstance(entries, list) or len(entries) != turns:
            return None
        rated = [_turn(entry) for entry in entries]
        whole = [turn for turn in rated if turn is not None]
        return tuple(whole) if len(whole) == turns else None

    return read


def rate(rated: Sequence[TurnRatings] | None, refusals: Refusals) -> dict[str, float | None]:
    """A dialogue's numbers by the names of :data:`VALUES`; all None where there is no judgement."""
    if rated is None:
        return dict.fromkeys(VALUES)
    refused = any(turn.refusal for turn in rated)
    if refused and refusals == "excluded":
        return dict.fromkeys(VALUES) | {"refused": 1.0}
    means = [sum(turn.ratings[i] for turn in rated) / len(rated) for i in range(len(SCALES))]
    numbers: dict[str, float | None] = dict(zip(SCALES, means, strict=True))
    return numbers | {"score": sum(means) / len(means), "refused": float(refused)}


def _turn(entry: object) -> TurnRatings | None:
    if not isinstance(entry, dict):
        return None
    ratings: list[Any] = [entry.get(f"{scale}_score") for scale in SCALES]
    if not all(type(value) in (int, float) and 1 <= value <= 5 for value in ratings):
        return None
    return TurnRatings(tuple(map(float, ratings)), entry.get("is_refusal") is True)


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


@lazy_inspect.task("pingpong")
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
    changes to it (:class:`PingPongRules`), as JSON. role_prompts: a folder with other wordings for player and
    interrogator; judge_prompts: one with ``judge_system.txt`` and ``judge_user.txt``. The others are those of every
    task.
    """
    from preftilt.eval.harness.solver import make_task

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
        budget=budget,
        judge=judge_settings(rules.preset),
        solver=pingpong_dialogue(plan, budget),
        scorer=scorer,
        protocol=rules.to_json(),
        roles=roles.to_json(),
        language=language,
        items=len(items),
    )


def _sample(item: PingPongItem, plan: DialoguePlan) -> Sample:
    """The situation; the chat is made when it is held."""
    from inspect_ai.dataset import Sample

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


@lazy_inspect.solver
def pingpong_dialogue(plan: DialoguePlan, budget: Budget) -> Solver:
    """Holds the sample's dialogue by the plan: the interrogator says something, the method answers as the character."""
    from preftilt.eval.harness.solver import RECORD, answer_request, say, within

    async def hold(state: TaskState) -> None:
        item = plan.items[str(state.sample_id)]
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

    return within(budget, hold)


@lazy_inspect.scorer(VALUES, (*COUNTS, *OWN_COUNTS))
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
    from preftilt.eval.harness.judge import SPENT, judge_within, judged

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
    from preftilt.eval.harness.judge import no_answer

    score = no_answer(VALUES, spent or broken or "", (*COUNTS, *OWN_COUNTS))
    assert isinstance(score.value, dict)
    if spent is None:
        score.value |= {"broken": 1.0, "over_budget": 0.0}
        score.reason = "dialogue_broken"
    return score
