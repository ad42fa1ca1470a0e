"""``preftilt ask``: one question, and everything there is to see about its answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from typer import Argument, Option

from preftilt.api import Realigner, Settings
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
from preftilt.cli.options import Conversation, ModelFlags, Preferences, SettingFlags, ShowFlags
from preftilt.cli.show import Meter, Show, print_json, spinner
from preftilt.engines.waiting import together
from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.recording import beside
from preftilt.records.lines import write_text
from preftilt.result import Realigned
from preftilt.rivals import ByLogprob
from preftilt.search import Greedy
from preftilt.types import Preference

if TYPE_CHECKING:
    from preftilt.example import ExampleFit

REFRESH_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class AskRequest:
    """One question with everything that shapes its answer."""

    messages: Sequence[Message]
    preferences: Sequence[Preference]
    settings: Settings
    example: str | None = None


@dataclass(frozen=True, slots=True)
class AskResult:
    """The answer; what the model says by itself, if that was compared; and what an example tells of λ."""

    realigned: Realigned
    plain: Realigned | None = None
    fit: ExampleFit | None = None


def ask(
    *,
    question: Annotated[str | None, Argument(help="What to ask.")] = None,
    preference: Preferences = None,
    messages: Conversation = None,
    image: Annotated[
        list[str] | None,
        Option(
            metavar="FILE",
            help="A picture that QUESTION is about, for a model that sees (may be repeated).",
        ),
    ] = None,
    flags: SettingFlags,
    model: ModelFlags,
    show: ShowFlags,
) -> None:
    """Answer one question, following a preference more strongly.

    Example: preftilt ask "How can I enjoy studying maths?" --preference "I dislike gamification."
    """
    _check_show(show)
    check_model(model)
    settings = settings_from(flags, list(arms_from(model)))
    conversation, wanted = request_from(question, messages, preference or (), settings, image or ())
    check_strengths(flags.get("lambda"), wanted, settings)
    check_judges(model, [settings])
    request = AskRequest(conversation, wanted, settings, show.example)
    compare = not show.json if show.compare is None else show.compare
    result = _answer(request, model, compare and not _is_plain(request.settings))
    try:  # Files first: whoever reads the output may stop reading (| head), which ends the program.
        _write_files(show, result.realigned, result.plain)
    finally:
        _print(show, result)


def _answer(request: AskRequest, model: ModelFlags, compare: bool) -> AskResult:
    with spinner() as say:
        say(f"opening {model.model}")
        engine = engine_from(model)
        try:
            with closing(open_judges(model)) as judges:
                return asyncio.run(
                    _all_asked(Realigner(engine, judges=judges), request, compare, say)
                )
        finally:
            engine.close()


async def _all_asked(
    realigner: Realigner, request: AskRequest, compare: bool, say: Callable[[str], None]
) -> AskResult:
    """The realigned answer and, side by side with it, what the model says by itself; then the example."""
    settings = realigner.settled(request.settings)  # Both are scored at one λ.
    if request.example is not None:
        from preftilt.example import check_example

        check_example(
            realigner, request.messages, request.preferences, request.example, settings=settings
        )
    alone = replace(
        settings,
        search=Greedy(),
        method=ByLogprob(),
        prompt=replace(settings.prompt, generate_with="full"),
    )
    requests = {"realigned": settings} | ({"alone": alone} if compare else {})
    meter = Meter()

    async def tell() -> None:
        while True:
            sampled, scored = meter.tokens
            say(f"{settings.search.name}: {sampled:,} tokens sampled, {scored:,} scored")
            await asyncio.sleep(REFRESH_SECONDS)

    telling = asyncio.create_task(tell())
    try:
        results = await together(
            realigner.realign(
                request.messages,
                request.preferences,
                settings=settings,
                on_progress=meter.reporter(key),
            )
            for key, settings in requests.items()
        )
    finally:
        telling.cancel()
    fit = None
    if request.example is not None:
        from preftilt.example import lambda_from_example

        fit = await lambda_from_example(
            realigner,
            request.messages,
            request.preferences,
            request.example,
            results[0],
            settings=settings,
        )
    return AskResult(results[0], beside(*results) if compare else None, fit)


def _is_plain(settings: Settings) -> bool:
    """Whether the search is the very answer it would be compared with."""
    return settings.search.name == "greedy" and settings.prompt.generate_with == "full"


def _write_files(show: ShowFlags, result: Realigned, plain: Realigned | None) -> None:
    if show.plot is not None:
        from preftilt.plots import plot_realigned

        plot_realigned(result, show.plot, plain=plain)
    if show.explain_html is not None:
        from preftilt.explain import explain_html

        write_text(show.explain_html, explain_html(result))


def _print(flags: ShowFlags, answered: AskResult) -> None:
    result, plain, fit = answered.realigned, answered.plain, answered.fit
    if flags.json:
        print_json(result.to_json() | ({} if fit is None else {"example": fit.to_json()}))
        return
    show = Show(Console(file=sys.stdout))
    show.answers(result, plain)
    show.candidates(result, plain)
    if len(result.candidates) > 1:
        show.path(result)
    show.effect(result)
    if fit is not None:
        show.example(fit, result)
    if flags.explain:
        show.why(result)
    show.cost(result, plain)


def _check_show(show: ShowFlags) -> None:
    """What could fail after the tokens are spent is tried before."""
    if show.json and (show.compare or show.explain):
        name = "--compare" if show.compare else "--explain"
        raise BadInput(f"{name} does not apply to --json: the object holds one request's result")
    if show.plot is not None:
        from preftilt.plots import check_picture

        check_picture(show.plot)
    for path in (show.plot, show.explain_html):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise BadInput(f"cannot write {path}: name a file in a folder that exists")
