"""The flags of every command, each declared once, in groups; those of the model stand in ``model_options``.

A flag that was not given is None: settings know their own defaults, and check values (``preftilt.records.patch``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from preftilt.cli.grouping import option
from preftilt.defaults import CUT_OFF, LAMBDA, LAMBDA_OF_TOKENS, REDUCTION

_search = partial(option, "Search")
_score = partial(option, "Score")
_arm = partial(option, "Reward models")
_prompt = partial(option, "Prompt")
_output = partial(option, "Output")
_cluster = partial(option, "Cluster")

Lambda = Annotated[
    float | None,
    _score(
        "--lambda",
        help="Strength of every preference without its own; 1 is the model as it is. Of the search cfg, that of every"
        " token.",
        default=f"{LAMBDA:g}; cfg, {LAMBDA_OF_TOKENS['cfg']:g}",
    ),
]
Input = Annotated[str, Argument(metavar="IN.jsonl", help="Rows to read; - is standard input.")]
Conversation = Annotated[
    str | None,
    Option(metavar="FILE", help="A whole conversation (JSON) instead of QUESTION; - is stdin."),
]
"""The option that takes the place of a question."""

Preferences = Annotated[
    list[str] | None,
    Option(
        "--preference",
        "-p",
        metavar="TEXT[=STRENGTH]",
        help="What you want; repeat it for more, each with its own strength if you like "
        "(negative: turn away).",
    ),
]
RowPreferences = Annotated[
    list[str] | None,
    Option(
        "--preference",
        "-p",
        metavar="TEXT[=STRENGTH]",
        help="What is wanted in rows that state no preference; may be repeated.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawFlags:
    """How candidates are drawn."""

    search: Annotated[
        str | None,
        _search(
            metavar="auto|best-of-n|dvts|sample|greedy|cfg|linear-alignment|amulet|arm|args",
            help="How the answer is searched for; auto lets the engine decide: cfg where it can guide decoding,"
            " and best-of-n where it only draws and scores. Or a preset: la-author, la-amulet-repo, amulet-default,"
            " genarm-pku, parm-pku, uniarm-recon.",
            default="auto",
        ),
    ] = None
    n: Annotated[
        int | None, _search("--n", "-n", help="Answers to pick from.", default="16; guided, 1")
    ] = None
    subtrees: Annotated[int | None, _search(help="dvts: subtrees.", default="4")] = None
    width: Annotated[int | None, _search(help="dvts: continuations a step.", default="4")] = None
    delimiter: Annotated[
        str | None,
        _search(metavar="TEXT", help=r"dvts: ends a step; knows \n, \t, \\.", default=r"\n"),
    ] = None
    max_steps: Annotated[int | None, _search(help="dvts: steps at most.", default="40")] = None
    ratio: Annotated[
        float | None,
        _search(
            help="linear-alignment: λ of every token, less 1 (--lambda ranks the answers).",
            default="2",
        ),
    ] = None
    strength_by: Annotated[
        str | None,
        _search(
            metavar="fixed|divergence",
            help="cfg: the same λ at every token, or more of it the more the views differ there.",
            default="fixed",
        ),
    ] = None
    greedy: Annotated[
        bool | None,
        _search(
            "--greedy/--no-greedy",
            help="cfg: the likeliest token each time, whatever the temperature; so it is where no search is named.",
            default="no",
        ),
    ] = None
    mask_top_p: Annotated[
        float | None,
        _search(help="cfg, linear-alignment: draw inside this nucleus only.", default="no mask"),
    ] = None
    mask_from: Annotated[
        str | None,
        _search(
            metavar="preference|result",
            help="Whose nucleus: with the preference, or guided.",
            default="preference",
        ),
    ] = None
    mask_temperature: Annotated[
        float | None, _search(help="The temperature of that nucleus.", default="1")
    ] = None
    iterations: Annotated[int | None, _search(help="amulet: of its game.", default="60")] = None
    anchor: Annotated[float | None, _search(help="amulet: pull back.", default="2")] = None
    eta: Annotated[float | None, _search(help="amulet: learning rate.", default="10")] = None
    weight: Annotated[float | None, _search(help="args: of the reward.", default="1.5")] = None
    shortlist: Annotated[int | None, _search(help="args: tokens tried.", default="10")] = None
    max_tokens: Annotated[
        int | None, _search(help="Tokens an answer.", default="512 or what fits")
    ] = None
    temperature: Annotated[float | None, _search(help="0 is greedy.", default="1")] = None
    top_p: Annotated[float | None, _search(help="1 filters nothing.", default="1")] = None
    top_k: Annotated[int | None, _search(help="0 filters nothing.", default="0")] = None
    generate_with: Annotated[
        str | None,
        _search(
            metavar="full|question",
            help="Draw answers with the preference in the prompt, or without.",
            default="full",
        ),
    ] = None
    seed: Annotated[int | None, _search(help="Same seed, same answers.", default="0")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFlags:
    """How log-probs become a score, λ apart."""

    gamma: Annotated[float | None, _score(help="Discount a token, in (0, 1].", default="1")] = None
    reduction: Annotated[
        str | None,
        _score(
            metavar="sum|mean|centred",
            help="Sum over tokens; divided by their number; or measured against the candidates' mean a token,"
            " whatever their lengths.",
            default=REDUCTION,
        ),
    ] = None
    eos: Annotated[
        str | None,
        _score(
            metavar="include|exclude",
            help="Whether the end of an answer is scored.",
            default="include",
        ),
    ] = None
    cut_off: Annotated[
        str | None,
        _score(
            metavar="last|as-is",
            help="Answers that --max-tokens cut off: behind all that ended, or by their scores.",
            default=CUT_OFF,
        ),
    ] = None
    alpha: Annotated[
        str | None,
        _arm(
            metavar="NAME=X,…",
            help="How much each objective of the reward models counts, e.g. help=0.7,harmless=0.3. For the search"
            " amulet a number, its utility.",
            default="none; amulet, 2",
        ),
    ] = None
    arm_weight: Annotated[
        list[str] | None,
        _arm(
            metavar="[NAME=]W",
            help="Weight of the reward models' log-probs beside the base's 1; may be repeated, by name.",
            default="1",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFlags:
    """Where things stand in the prompts."""

    placement: Annotated[
        str | None,
        _prompt(
            metavar="system|user|history",
            help="Where the preference stands.",
            default="system",
        ),
    ] = None
    history: Annotated[
        str | None,
        _prompt(
            metavar="both|preference",
            help="Earlier turns stand in every prompt, or are themselves the preference.",
            default="both",
        ),
    ] = None
    preference_turns: Annotated[
        int | None,
        _prompt(
            help="history preference: earlier turns that are it, from the first on.",
            default="all of them",
        ),
    ] = None
    system: Annotated[
        str | None, _prompt(metavar="TEXT", help="System message of the conversation.")
    ] = None
    question_system: Annotated[
        str | None,
        _prompt(metavar="TEXT", help="System message where the preference is left out."),
    ] = None
    against: Annotated[
        str | None,
        _prompt(
            metavar="TEXT",
            help="Compare the preference with this wish in its place, instead of with the question alone: for what to"
            ' avoid, -p "No puns." --against "Use puns."',
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowFlags:
    """What ``ask`` shows, and where."""

    json: Annotated[bool, _output("--json", help="Print the result as one JSON object.")] = False
    compare: Annotated[
        bool | None,
        _output(
            "--compare/--no-compare",
            help="Show what the model answers by itself, too.",
            default="yes, but not with --json",
        ),
    ] = None
    explain: Annotated[
        bool, _output("--explain", help="Show the answer's tokens by preference gain.")
    ] = False
    explain_html: Annotated[
        Path | None, _output(metavar="FILE", help="The same for every candidate, as a web page.")
    ] = None
    example: Annotated[
        str | None,
        _output(
            metavar="TEXT",
            help="An answer that you like: show which λ would have given it, among the candidates and guided.",
        ),
    ] = None
    plot: Annotated[
        Path | None,
        _output(metavar="FILE", help="Draw candidates and λ-path: .png, .svg or .pdf."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFlags:
    """What a command over rows does with its files."""

    resume: Annotated[
        bool, _output("--resume", help="Go on with OUT: do the rows it lacks or that failed.")
    ] = False
    force: Annotated[bool, _output("--force", help="Overwrite OUT.")] = False
    limit: Annotated[int | None, _output(min=1, help="Only the first rows.")] = None
    records: Annotated[
        str,
        _output(
            "--records",
            metavar="full|scores|text",
            help="What is kept of a record: all, or no tokens and log-probs, or the answer alone.",
        ),
    ] = "full"
    keep_columns: Annotated[
        bool,
        _output(
            "--keep-columns", help="Carry fields of rows that are not ours along, into the records."
        ),
    ] = False
    concurrency: Annotated[int, _output(min=1, help="Rows in flight; they share batches.")] = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFlags:
    """Where ``run`` answers its rows: here, or by actors of a Ray cluster."""

    ray: Annotated[
        str | None,
        _cluster(
            metavar="local|auto|HOST:PORT",
            help="Answer the rows on a Ray cluster: one on this machine, the one it belongs to, or by address.",
        ),
    ] = None
    ray_actors: Annotated[
        int | None,
        _cluster(
            min=1,
            metavar="N",
            help="Actors, each with an engine of its own and --concurrency rows in flight.",
            default="one a GPU, or else one a node",
        ),
    ] = None
    ray_cpus_per_actor: Annotated[
        float | None,
        _cluster(metavar="X", help="CPUs an actor.", default="1; a node's, for a model on CPUs"),
    ] = None
    ray_gpus_per_actor: Annotated[
        float | None,
        _cluster(metavar="X", help="GPUs an actor.", default="1 where there are any"),
    ] = None
    ray_batch: Annotated[
        int | None,
        _cluster(
            min=1,
            metavar="N",
            help="Rows that travel together; more are less work for Ray, fewer come back sooner.",
            default="1",
        ),
    ] = None
