"""MMHal-Bench: questions about pictures, rated by a judge that reads texts alone. Its model must take images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preftilt.errors import BadInput
from preftilt.eval.harness.budget import Budget
from preftilt.eval.mmhal.data import MMHalItem, load_items, load_pictures
from preftilt.eval.mmhal.protocol import MMHalRules, method_protocol, request_for, rules_for
from preftilt.eval.reproduce.benchmark import Benchmark, Case, Opening, verdicts_mark
from preftilt.eval.reproduce.judging import judged_by
from preftilt.images import Image

if TYPE_CHECKING:
    from inspect_ai.scorer import Scorer


def open_mmhal(opening: Opening) -> Benchmark:
    """The paper's Table 3; pictures must lie in the data folder (``inspect eval preftilt/mmhal -T fetch=true`` gets
    them)."""
    data = opening.folder("MMHal-Bench")
    rules = rules_for(opening.preset, opening.switches)
    if rules.wish is None:
        raise BadInput(
            "without a preference there is nothing to compare; leave preference=none out"
        )
    items = load_items(data)
    test, validation = opening.split(items)
    pictures = load_pictures(data, [*test, *validation], fetch=False)

    def scorer(budget: Budget) -> Scorer:
        from preftilt.eval.mmhal.scorers import mmhal_ratings

        return mmhal_ratings(
            judge_prompts=opening.judge_prompts,
            junk=rules.junk,
            budget=budget,
        )

    return Benchmark(
        name="mmhal",
        title="MMHal-Bench",
        metrics=("score", "hallucinated"),
        fault="hallucinated",
        protocol=method_protocol(rules),
        switches=rules.to_json(),
        test=lambda _: [_case(item, pictures[item.id], rules) for item in test],
        validation=lambda: [_case(item, pictures[item.id], rules) for item in validation],
        judge=judged_by("mmhal", scorer, opening),
        verdicts=verdicts_mark(rules, opening.judge_prompts),
    )


def _case(item: MMHalItem, picture: Image, rules: MMHalRules) -> Case:
    facts = {
        "question": item.question,
        "image_content": list(item.content),
        "target": item.reference,
    }
    return Case(item.id, request_for(item, picture, rules), facts)
