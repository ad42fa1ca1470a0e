"""A dialogue's words: the persona, what the user's model is told, and the chat as others read it; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preftilt.errors import BadInput
from preftilt.eval.harness.prompt_files import PromptTemplate, load_template
from preftilt.eval.harness.request import BenchmarkRequest
from preftilt.eval.pingpong.data import Character, Language, PingPongItem
from preftilt.eval.pingpong.protocol import PingPongRules
from preftilt.messages import Message
from preftilt.prompt import PromptSettings
from preftilt.records.parsing import parse_json
from preftilt.types import Preference

PACKAGE = "preftilt.eval.pingpong"

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
        return load_template(PACKAGE, file, gaps, folder)

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
