"""What every experiment of the paper compares, and what has to be measured for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preftilt.errors import BadInput
from preftilt.eval.calibrate import REDUCTIONS, Calibration
from preftilt.eval.harness.benchmark import Benchmark
from preftilt.eval.reproduce import methods
from preftilt.eval.reproduce.methods import LAMBDAS_OF_N, ComparedMethod, over_lambda, sizes
from preftilt.eval.reproduce.parts import (
    GUIDANCE,
    JUDGED,
    RATES,
    REWARD_MODEL,
    TIMED,
    MeasureSettings,
    against_name,
    away_name,
    guidance_name,
)
from preftilt.eval.reproduce.verdicts import Verdicts


@dataclass(frozen=True, slots=True)
class Experiment:
    """A table or figure: what it shows, the parts it is made of, and whether with messages inserted, too."""

    title: str
    parts: frozenset[str]
    contexts: bool = False


EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment(
        "Table 1: every method", frozenset({"pool", "trees", "guided", "times", *RATES})
    ),
    "table2": Experiment("Table 2: long contexts", frozenset({"pool", "guided", "times"}), True),
    "table3": Experiment(
        "Table 3: score and what went wrong", frozenset({"pool", "times", "generative RM"})
    ),
    "fig2": Experiment("Figure 2: λ and score", frozenset({"pool", "trees"})),
    "fig3": Experiment("Figure 3: λ and the two parts", frozenset({"pool", "trees", "guided"})),
    "fig4": Experiment("Figure 4: samples and score", frozenset({"pool"})),
    "fig5": Experiment("Figure 5: length of context and score", frozenset({"pool", "guided"}), True),
    "fig6": Experiment(
        "Figure 6: time and tokens", frozenset({"pool", "trees", "guided", "times", *RATES})
    ),
}  # fmt: skip
"""The paper's experiments by name. Its Table 3 is of MMHal-Bench; here it is the same comparison on any benchmark."""

PAPERS = tuple(EXPERIMENTS)

TOKEN_LEVEL = "token-level"
EXPERIMENTS[TOKEN_LEVEL] = Experiment(
    "Picking whole answers, and guiding every token",
    frozenset(
        {"pool", "guidance", "draws", "other guidance", "trees", "generative RM", "guidance times"}
    ),
)
"""Not the paper's; a benchmark's name in place of an experiment's stands for it (``preftilt reproduce sys-ifeval``)."""

EQUAL_TOKENS = "equal-tokens"
EXPERIMENTS[EQUAL_TOKENS] = Experiment(
    "What tokens buy: more draws, or draws that are dropped early", frozenset({"pool", "draws"})
)
"""Not the paper's: ways to spend fewer tokens than best-of-N, each beside best-of-M at equal tokens."""

OWN = frozenset({TOKEN_LEVEL, EQUAL_TOKENS})
"""The experiments that choose on validation items for themselves, and have a verdict on every draw."""

AVOIDING = "avoiding"
EXPERIMENTS[AVOIDING] = Experiment(
    "What to leave out", frozenset({"pool", "guidance", "other guidance", "avoiding"})
)
"""Not the paper's either: wishes that say what to avoid, on benchmarks whose rows know the opposite wish."""

ALL = "all"
"""Every experiment of the paper."""

REFERENCES = ("greedy", "lambda-1")
Chosen = Sequence[Calibration]
"""The λ chosen on validation items, one for each reduction; none without validation items."""


def named(names: Sequence[str]) -> list[str]:
    """The experiments asked for, in the paper's order; ``all`` is every one."""
    unknown = [name for name in names if name != ALL and name not in EXPERIMENTS]
    if unknown or not names:
        wrong = f"there is no experiment {unknown[0]!r}" if unknown else "name an experiment"
        raise BadInput(f"{wrong}; there are {', '.join(EXPERIMENTS)} and {ALL}")
    return [name for name in EXPERIMENTS if name in names or (ALL in names and name in PAPERS)]


def parts_of(names: Sequence[str], *, inserted: bool) -> list[str]:
    """What has to be measured, pools first, as the parts that rate them need them; ``inserted``: in long contexts."""
    chosen = [EXPERIMENTS[name] for name in names if EXPERIMENTS[name].contexts or not inserted]
    needed = frozenset[str]().union(*(experiment.parts for experiment in chosen))
    order = (
        "pool",
        "guidance",
        "draws",
        "other guidance",
        "avoiding",
        "guided",
        "trees",
        *JUDGED,
        REWARD_MODEL,
        *sorted(TIMED),
    )
    return [part for part in order if part in needed and not (inserted and part in TIMED)]


def reference_of(name: str, how: MeasureSettings) -> ComparedMethod:
    """What methods are compared with: the model's greedy answer, or best-of-n without realigning."""
    if name not in REFERENCES:
        raise BadInput(f"the reference is {name!r}; it must be one of {', '.join(REFERENCES)}")
    return methods.greedy() if name == "greedy" else methods.plain(how.n, how.reduction)


def rears(how: MeasureSettings, chosen: Chosen) -> list[ComparedMethod]:
    """BoN-REAR at the preset's λ by all reductions, the preset's first, and at the λ chosen on validation items."""
    own = how.reduction
    lam = how.lam
    reductions = sorted(REDUCTIONS, key=lambda reduction: reduction != own)
    picked = [calibration.chosen.option for calibration in chosen]
    return [
        *(methods.rear(how.n, lam, reduction) for reduction in reductions),
        *(methods.rear(how.n, option.lam, option.reduction, chosen=True) for option in picked),
    ]


def table_1(
    benchmark: Benchmark, how: MeasureSettings, chosen: Chosen, verdicts: Verdicts
) -> list[ComparedMethod]:
    """Every method; those that were not measured drop out."""
    n, own = how.n, how.reduction
    compared = [
        methods.greedy(),
        methods.one_sample(),
        methods.random_of(n, how.seed, exact=benchmark.exact),
        *methods.likelihoods(n, own),
        *rears(how, chosen),
        *(methods.trees(lam, own) for lam in tree_lambdas(how)),
        *methods.judges(n),
        *methods.decoders(),
        methods.guided("CFG"),
    ]
    if benchmark.answers is not None:
        compared += [
            methods.voted(n, benchmark.answers, None),
            methods.voted(n, benchmark.answers, how.lam),
        ]
    if benchmark.exact:
        compared.append(methods.any_of(n, verdicts.rightness(benchmark.headline)))
    return compared


def tree_lambdas(how: MeasureSettings) -> list[float]:
    """The λ of tree searches that the table shows: the paper's best for stated preferences, and the preset's."""
    return [lam for lam in how.lambdas if lam in (1.0, 3.0, how.lam)]


def table_2(how: MeasureSettings, chosen: Chosen) -> list[ComparedMethod]:
    """What the figure of long contexts compares: all that need no more than a pool, and guided decoding.

    A chosen λ that is 1 or the preset's has no line of its own.
    """
    own, lam = how.reduction, how.lam
    best = [method for method in rears(how, chosen) if method.reduction == own]
    return [
        methods.greedy(),
        methods.plain(how.n, own),
        *[method for method in best if not (method.chosen and method.lam in (1.0, lam))],
        *methods.decoders(),
    ]


def table_3(how: MeasureSettings, chosen: Chosen) -> list[ComparedMethod]:
    return [methods.greedy(), *rears(how, chosen), methods.rated("generative RM", how.n)]


def avoiding(how: MeasureSettings) -> list[ComparedMethod]:
    """The model alone, guided by the wish as it is stated, and the remedies."""
    grid = how.guided_lambdas
    return [
        methods.greedy(),
        *(methods.guided(guidance_name(lam)) for lam in grid),
        *(methods.guided(against_name(lam)) for lam in grid),
        *(methods.guided(away_name(1 - lam)) for lam in grid),
        *(methods.guided(name) for name in GUIDANCE),
    ]


def timed(how: MeasureSettings) -> list[ComparedMethod]:
    """One method for every way of spending time."""
    own, lam = how.reduction, how.lam
    tree = [methods.trees(tree_lam, own) for tree_lam in how.lambdas if tree_lam == lam] or [
        methods.trees(tree_lam, own) for tree_lam in how.lambdas[-1:]
    ]
    return [
        methods.greedy(),
        methods.one_sample(),
        *methods.decoders(),
        methods.rear(how.n, lam, own),
        *tree,
        *methods.judges(how.n),
    ]


def every_pick(benchmark: Benchmark, how: MeasureSettings, pool: int) -> list[ComparedMethod]:
    """All methods that any table or figure shows, oracles apart: what verdicts are needed for."""
    own = how.reduction
    compared = table_1(benchmark, how, (), Verdicts({})) + avoiding(how)
    compared += [method for each in over_lambda(how).values() for method in each]
    for n in sizes(pool):
        compared += [methods.rear(n, lam, own) for lam in LAMBDAS_OF_N]
        compared += methods.judges(n) if n <= how.n else []
    return [method for method in compared if not method.oracle]
