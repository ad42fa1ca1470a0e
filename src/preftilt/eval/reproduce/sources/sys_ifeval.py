"""S-IFEval: following that a program checks; λ and all else is chosen on rows that are never reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version

from preftilt.errors import BadInput
from preftilt.eval.harness.method import BenchmarkProtocol, one_of
from preftilt.eval.reproduce.benchmark import Benchmark, Case, Opening, Values
from preftilt.eval.sys_ifeval.checking import METRICS, check_answer, constraint_metric
from preftilt.eval.sys_ifeval.data import SysIFEvalItem, load_items, load_single
from preftilt.eval.sys_ifeval.protocol import PROTOCOL, request_for

ROWS = ("short", "all", "exclusion", "validation")


def open_sys_ifeval(opening: Opening) -> Benchmark:
    """The switch ``rows`` is ``short`` (those that 200 tokens can meet), ``all``, ``exclusion``: the set of words to
    leave out, whose rows serve validation and are reported for what they say about such wishes alone; or
    ``validation``: the rows that λ is chosen on, to choose other settings on them, too.

    Validation items are, in turns, two of S-IFEval's own third and one of each set of single constraints.
    """
    data = opening.folder("S-IFEval")
    unknown = [name for name in opening.switches if name != "rows"]
    if unknown:
        raise BadInput(f"S-IFEval has no switch {unknown[0]!r}; it has rows")
    rows = one_of("rows", opening.switches.get("rows", "short"), ROWS)
    items = [item for item in load_items(data) if rows == "all" or item.can_be_short]
    test = [item for item in items if item.split == "test"]
    validation = _in_turns([item for item in items if item.split == "validation"], data)
    if rows == "exclusion":
        test, validation = [item for item in load_single(data) if item.opposite is not None], []
    if rows == "validation":
        test, validation = validation, []
    return Benchmark(
        name="sys-ifeval",
        title="S-IFEval",
        metrics=METRICS,
        breakdown=tuple(
            constraint_metric(constraint)
            for constraint in sorted({name for item in items for name in item.constraints})
        ),
        protocol=BenchmarkProtocol(settings=PROTOCOL.settings, searches=PROTOCOL.searches),
        switches={"rows": rows, "rows there": len(test), "if-verifiable": version("if-verifiable")},
        test=lambda inserted: [_case(item) for item in test[: opening.limit]],
        validation=lambda: [_case(item) for item in validation[: opening.validation]],
        check=_check,
        verdicts=version("if-verifiable"),
    )


def _in_turns(own: Sequence[SysIFEvalItem], data: str) -> list[SysIFEvalItem]:
    single = load_single(data)
    mixed: list[SysIFEvalItem] = []
    for place in range(0, len(own), 2):
        mixed += [*own[place : place + 2], *single[place : place + 2]]
    return mixed


def _case(item: SysIFEvalItem) -> Case:
    return Case(item.id, request_for(item), asdict(item))


def _check(case: Case, answer: str) -> Values:
    facts = case.facts
    return check_answer(facts["constraints"], facts["arguments"], facts["prompt"], answer)
