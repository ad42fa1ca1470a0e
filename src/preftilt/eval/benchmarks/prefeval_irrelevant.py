"""PrefEval's questions with a preference that has nothing to do with them: is the answer bent towards it?

Every question gets a preference that PrefEval states with a question of another group of topics (a vegan asks for a
laptop). The answer is bent where it names something of that preference that the question does not name. A program says
so, by words, which chance also brings: λ = 0 answers without the preference, and shows how often. A bent answer is
certain to be found where it repeats the preference's words, and not where it only goes round them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache

from preftilt.errors import BadInput
from preftilt.eval.benchmarks.prefeval import method_protocol, rules_for
from preftilt.eval.benchmarks.prefeval_data import PrefEvalItem, load_items
from preftilt.eval.harness.benchmark import Benchmark, Case, Opening, Values, ask
from preftilt.eval.harness.rows import own_text

SEED = 0
"""Of the order of the questions, and of which preference each of them gets."""

SHORTEST = 4
"""Letters of a word that counts."""

STEM = 6
"""Words that begin alike in so many letters, a last s apart, are one word: exercise, exercising; vegan, vegans."""


def open_irrelevant(opening: Opening) -> Benchmark:
    """For ``preftilt reproduce``; validation items are those behind ``opening.limit``, as everywhere."""
    rules = rules_for(opening.preset, "explicit", opening.switches)
    if rules.preference_as != "system":
        raise BadInput(
            "prefeval-irrelevant states a preference in place of the item's own, which is then nowhere in its"
            " history: leave the switch preference_as at system"
        )
    items = list(load_items(opening.folder("PrefEval"), "explicit"))
    random.Random(SEED).shuffle(items)
    test, validation = opening.split(items)
    return Benchmark(
        name="prefeval-irrelevant",
        title="PrefEval's questions with an irrelevant preference",
        metrics=("not bent", "share of its words named"),
        fault="share of its words named",
        protocol=method_protocol(rules, mcq=False),
        switches={**rules.to_json(), "seed of preferences": SEED},
        test=lambda turns: [_case(item, items) for item in test],
        validation=lambda: [_case(item, items) for item in validation],
        check=_named,
        verdicts=repr((SHORTEST, STEM, sorted(said_of_anything()))),
    )


def irrelevant_preference(item: PrefEvalItem, items: Sequence[PrefEvalItem]) -> str:
    """A preference of another group of topics than the item's.

    Raises :class:`~preftilt.errors.BadInput` if there is none.
    """
    group = _group(item)
    others = [other.preference for other in items if _group(other) != group]
    if not others:
        raise BadInput(
            f"every preference there belongs to the topics {group}_…; irrelevant ones need PrefEval's other topics, too"
        )
    return random.Random(f"{SEED}/{item.id}").choice(others)


@cache
def said_of_anything() -> frozenset[str]:
    """Words in which preferences of all kinds are stated."""
    return frozenset(own_text("prefeval", "said_of_anything.txt").split())


def telling_words(preference: str, question: str) -> frozenset[str]:
    """The stems of words by which an answer names the preference: not the question's, and not said of anything."""
    return _stems(preference) - _stems(question)


def _group(item: PrefEvalItem) -> str:
    return item.topic.partition("_")[0]


def _case(item: PrefEvalItem, items: Sequence[PrefEvalItem]) -> Case:
    preference = irrelevant_preference(item, items)
    facts = {"preference": preference, "question": item.question}
    return Case(item.id, ask(item.question, preference), facts)


def _named(case: Case, answer: str) -> Values:
    words = telling_words(case.facts["preference"], case.facts["question"])
    named = words & _stems(answer)
    return {
        "not bent": float(not named),
        "share of its words named": len(named) / len(words) if words else 0.0,
    }


def _stems(text: str) -> frozenset[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return frozenset(
        word.rstrip("s")[:STEM]
        for word in words
        if len(word) >= SHORTEST and word not in said_of_anything()
    )
