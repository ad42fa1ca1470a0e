"""``preftilt probe``: what an engine can do, and how preftilt would use it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from preftilt.cli.grouping import grouped
from preftilt.cli.model_options import ModelFlags
from preftilt.errors import BadInput

if TYPE_CHECKING:
    from preftilt.engines.base import Engine
    from preftilt.engines.facts import Fact


@grouped
def probe(
    *,
    spec: Annotated[
        str | None,
        Argument(
            metavar="[URL|MODEL]",
            help="vllm+http://HOST:PORT, sglang+http://…, openai+http://…, or anything --model takes.",
        ),
    ] = None,
    as_json: Annotated[
        bool, Option("--json", help="Print one JSON object instead of tables.")
    ] = False,
    model: ModelFlags,
) -> None:
    """Ask a server what it can do, and show the plan: how candidates would be drawn and scored.

    Example: preftilt probe vllm+http://127.0.0.1:8000 --tokenizer Qwen/Qwen3-0.6B
    """
    from preftilt.cli.configure import check_model, engine_from
    from preftilt.engines.facts import Probed, ServerRefused

    if spec is not None and model.model != ModelFlags().model:
        raise BadInput("name the engine once: as an argument, or with --model")
    if model.reward_model or model.reward_tokenizer or model.judge_model:
        raise BadInput("probe looks at one engine; leave reward models and judges out")
    model = replace(model, model=spec or model.model)
    check_model(model)
    try:
        engine = engine_from(model)
    except ServerRefused as failure:
        _show(model.model, failure.facts, (), {}, as_json, refused=str(failure))
        raise
    try:
        facts, plan = (engine.facts, engine.plan) if isinstance(engine, Probed) else ((), ())
        _show(engine.name, facts, plan, _abilities(engine), as_json)
    finally:
        engine.close()


def _abilities(engine: Engine) -> dict[str, Any]:
    """What any engine says it can do, in the words of its contract."""
    able = engine.capabilities
    return {
        "model": engine.model,
        "max_context": able.max_context,
        "eos": sorted(able.eos),
        "turn_end": able.turn_end,
        "sampler_logprobs": able.sampler_logprobs,
        "keyed_streams": able.keyed_streams,
        "arms": {arm.name: [goal.name for goal in arm.objectives] for arm in able.arms},
        "versions": engine.versions,
    }


def _show(
    name: str,
    facts: Sequence[Fact],
    plan: Sequence[str],
    abilities: dict[str, Any],
    as_json: bool,
    *,
    refused: str | None = None,
) -> None:
    if as_json:
        answers = [
            {"question": fact.question, "answer": fact.answer, "meaning": fact.meaning}
            for fact in facts
        ]
        report = {"engine": name, "facts": answers, "plan": list(plan), "capabilities": abilities}
        print(json.dumps(report | {"refused": refused}, allow_nan=False))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout)
    table = Table(title=name, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("asked", "answer", "so"):
        table.add_column(column, overflow="fold")
    for fact in facts:
        table.add_row(fact.question, fact.answer, fact.meaning)
    if facts:
        console.print(table)
    for line in plan:
        console.print(line, markup=False, highlight=False)
    for key, value in abilities.items():
        console.print(f"{key}: {value}", markup=False, highlight=False)
    if refused is not None:
        console.print("no plan: it cannot be used as asked", markup=False, highlight=False)
