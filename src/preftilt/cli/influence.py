"""``preftilt influence``: which sentences of a preference or system message carry an answer."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from typing import Annotated

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from preftilt.ablation import Influence, SentenceInfluence, measure_influence
from preftilt.api import Realigner
from preftilt.cli.configure import (
    arms_from,
    check_judges,
    check_model,
    check_strengths,
    engine_from,
    open_judges,
    request_from,
    settings_from,
)
from preftilt.cli.options import Conversation, Flags, ModelFlags, Preferences, SettingFlags, flag
from preftilt.cli.show import Show, print_json, safe, spinner
from preftilt.declare import declarations
from preftilt.errors import BadInput
from preftilt.explain import signed, visible
from preftilt.prompt import PromptSettings

BAR = 12
"""Characters of the longest bar."""


def influence(
    *,
    question: Annotated[str | None, Argument(help="What is asked.")] = None,
    preference: Preferences = None,
    messages: Conversation = None,
    response: Annotated[
        str | None,
        Option(
            metavar="TEXT",
            help="The answer to explain. (default: one is drawn, as ask does)",
        ),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print the result as one JSON object.")] = False,
    flags: SettingFlags,
    model: ModelFlags,
) -> None:
    """Show which sentences of a preference or system message carry an answer: one at a time is left out.

    Example: preftilt influence "How can I enjoy maths?" -p "I dislike games. I like music."
    """
    check_model(model)
    if response is not None:
        _check_nothing_is_drawn(flags, model)
    settings = settings_from(flags, list(arms_from(model)))
    conversation, wanted = request_from(
        question, messages, preference or (), settings, needs_preference=False
    )
    if response is None:
        check_strengths(flags.get("lambda"), wanted, settings)
    check_judges(model, [settings])
    with spinner() as say:
        say(f"opening {model.model}")
        engine = engine_from(model)
        try:
            with closing(open_judges(model)) as judges:
                say("drawing an answer" if response is None else "scoring")
                realigner = Realigner(engine, judges=judges)
                result = asyncio.run(
                    measure_influence(
                        realigner, conversation, wanted, response=response, settings=settings
                    )
                )
        finally:
            engine.close()
    if as_json:
        print_json(result.to_json())
    else:
        show_influence(Show(Console(file=sys.stdout)), result)


def show_influence(show: Show, result: Influence) -> None:
    """The answer, every sentence with what it is worth, and the dead ones by name."""
    show.print(Text(f"Answer: {safe(result.text.strip())}"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.add_column("nats", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=BAR)
    several = len({sentence.source for sentence in result.sentences}) > 1
    if several:
        table.add_column("in", no_wrap=True)
    table.add_column("sentence", ratio=2)
    dead = len(result.dead)
    if dead:
        table.add_column("")
    table.add_column("most on", ratio=1)
    largest = max(abs(sentence.nats) for sentence in result.sentences)
    for sentence in result.sentences:
        source = (sentence.source.replace("_", " "),) if several else ()
        table.add_row(
            signed(sentence.nats),
            _bar(sentence.nats, largest),
            *source,
            safe(" ".join(sentence.text.split())),
            *(["dead" if sentence.dead else ""] if dead else ()),
            _strongest(result, sentence),
            style="dim" if sentence.dead else "",
        )
    show.print(table)
    show.print(
        Text(
            "nats: log p(answer) less what it is without the sentence; all of them together:"
            f" {signed(result.total)}. Sentences that repeat each other count for little each.\n",
            style="dim",
        )
    )
    if dead:
        show.print(
            Text(
                f"{dead} of {len(result.sentences)} sentences {'is' if dead == 1 else 'are'} dead: the answer is as"
                " likely without\n"
            )
        )
    show.print(
        Text(
            f"{result.scored:,} tokens scored; {result.model}"
            + ("" if result.settings is None else f", λ = {result.settings['lambda']:g}"),
            style="dim",
        )
    )
    for note in result.notes:
        show.print(Text(f"note: {note}", style="yellow"))


def _bar(nats: float, largest: float) -> str:
    """Its length is the influence beside the largest one; what speaks against the answer is hatched."""
    share = abs(nats) / largest if 0 < largest < float("inf") else float(abs(nats) > 0)
    return ("█" if nats > 0 else "░") * round(BAR * min(share, 1.0))


def _strongest(result: Influence, sentence: SentenceInfluence) -> str:
    return ", ".join(
        f"“{visible(result.pieces[place]).strip()}” {signed(float(sentence.by_token[place]))}"
        for place in sentence.strongest
    )


def _check_nothing_is_drawn(flags: Flags, model: ModelFlags) -> None:
    """With a response of one's own, flags that say how an answer is drawn would do nothing."""
    shaping = {setting.name for setting in declarations(PromptSettings)} - {
        "against",
        "generate_with",
    }
    for name in [*flags, *(["arm"] if "arms" in model.options else [])]:
        if name not in shaping:
            raise BadInput(
                f"{flag(name)} says how an answer is drawn or chosen, and does nothing beside --response: leave one out"
            )
