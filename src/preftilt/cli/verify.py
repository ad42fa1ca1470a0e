"""``preftilt verify``: one page about an engine, to read or to paste into an issue."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from typer import Argument, Option

import preftilt
from preftilt.cli.configure import check_model, engine_from
from preftilt.cli.options import ModelFlags
from preftilt.engines.base import Engine, Fact, ServerRefused
from preftilt.errors import BadInput
from preftilt.testing.verify import EngineCheck, TokenCost, check_engine, measure_cost


def verify(
    *,
    spec: Annotated[
        str | None,
        Argument(
            metavar="[URL|MODEL]",
            help="vllm+http://HOST:PORT, sglang+http://…, openai+http://…, or anything --model takes.",
        ),
    ] = None,
    quick: Annotated[
        bool, Option("--quick", help="Only what opening it finds out: nothing is drawn.")
    ] = False,
    tolerance: Annotated[
        float, Option(min=0, metavar="NATS", help="Log-probs of a token this close are equal.")
    ] = 0.05,
    as_json: Annotated[
        bool, Option("--json", help="Print one JSON object instead of Markdown.")
    ] = False,
    model: ModelFlags,
) -> None:
    """Find out what a server or model can do, check it, and print a page of Markdown for an issue.

    Example: preftilt verify vllm+http://127.0.0.1:8000 --tokenizer Qwen/Qwen3-0.6B
    """
    if spec is not None and model.model != ModelFlags().model:
        raise BadInput("name the engine once: as an argument, or with --model")
    if model.reward_model or model.reward_tokenizer or model.judge_model:
        raise BadInput("verify looks at one engine; leave reward models and judges out")
    model = replace(model, model=spec or model.model)
    check_model(model)
    try:
        engine = engine_from(model)
    except ServerRefused as failure:
        page = _page(model.model, failure.facts, refused=str(failure))
        _print(page, as_json)
        raise
    try:
        checks, cost = ([], None) if quick else asyncio.run(_measured(engine, tolerance))
        page = _page(
            engine.name,
            engine.info.facts,
            plan=engine.info.plan,
            capabilities=_abilities(engine),
            checks=checks,
            cost=cost,
        )
    finally:
        engine.close()
    _print(page, as_json)
    if any(check.holds is False for check in checks):
        raise typer.Exit(1)


async def _measured(
    engine: Engine, tolerance: float
) -> tuple[Sequence[EngineCheck], TokenCost | None]:
    return await check_engine(engine, tolerance), await measure_cost(engine)


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
        "guides": able.guides,
        "guided_logprobs": able.guided_logprobs,
        "proposes": able.proposes,
        "images": able.images,
        "arms": {arm.name: [goal.name for goal in arm.objectives] for arm in able.arms},
        "versions": engine.versions,
    }


def _page(
    engine: str,
    facts: Sequence[Fact],
    *,
    plan: Sequence[str] = (),
    capabilities: dict[str, Any] | None = None,
    checks: Sequence[EngineCheck] = (),
    cost: TokenCost | None = None,
    refused: str | None = None,
) -> dict[str, Any]:
    """All that the page says, as one object."""
    return {
        "engine": engine,
        "preftilt": preftilt.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "facts": [asdict(fact) for fact in facts],
        "plan": list(plan),
        "capabilities": capabilities or {},
        "checks": [asdict(check) for check in checks],
        "cost": None if cost is None else asdict(cost),
        "refused": refused,
    }


def _print(page: dict[str, Any], as_json: bool) -> None:
    if as_json:
        from preftilt.cli.show import print_json

        print_json(page)
    else:
        print(_markdown(page), file=sys.stdout)


def _markdown(page: dict[str, Any]) -> str:
    parts = [
        f"## preftilt verify: {page['engine']}",
        f"preftilt {page['preftilt']}, Python {page['python']}, {page['platform']}",
    ]
    if page["refused"] is not None:
        parts.append(f"**Refused**: {page['refused']}")
    if page["capabilities"]:
        parts.append(
            _table(("it", ""), [(key, _told(value)) for key, value in page["capabilities"].items()])
        )
    if page["facts"]:
        rows = [(fact["question"], fact["answer"], fact["meaning"]) for fact in page["facts"]]
        parts += ["### What opening found out", _table(("asked", "answer", "so"), rows)]
    if page["plan"]:
        parts.append("\n".join(f"- {line}" for line in page["plan"]))
    if page["checks"]:
        marks = {True: "yes", False: "**NO**", None: "–"}
        rows = [
            (check["name"], marks[check["holds"]], check["measured"]) for check in page["checks"]
        ]
        parts += ["### What must hold", _table(("law", "holds", "measured"), rows)]
    if page["cost"] is not None:
        parts += ["### What a token costs", _costs(page["cost"])]
    return "\n\n".join(parts)


def _costs(cost: dict[str, Any]) -> str:
    guided = cost["guided"]
    rows = [
        ("drawn", f"{cost['plain']:.2f} ms", ""),
        (
            "guided by two views",
            "cannot guide" if guided is None else f"{guided:.2f} ms",
            "" if guided is None else f"{guided / cost['plain']:.2f} × drawn",
        ),
        ("scored", f"{cost['scored']:.2f} ms", f"{cost['scored'] / cost['plain']:.2f} × drawn"),
    ]
    return _table(("one answer at a time", "a token", ""), rows)


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return (
        {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
