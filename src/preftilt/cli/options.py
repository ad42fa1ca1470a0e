"""The flags of every command, each declared once, in groups; ``grouped`` gives a command the flags of its groups.

A flag that was not given is None: settings know their own defaults, and check values (``preftilt.records.patch``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from typer import Argument, Option


def _option(panel: str, *names: str, help: str, default: str = "", **rest: Any) -> Any:
    """An option whose default, which settings know, is told in its help."""
    told = f"{help} (default: {default})" if default else help
    return Option(*names, help=told, rich_help_panel=panel, **rest)


_search = partial(_option, "Search")
_score = partial(_option, "Score")
_prompt = partial(_option, "Prompt")
_model = partial(_option, "Model")
_output = partial(_option, "Output")

Lambda = Annotated[
    float | None,
    _score(
        "--lambda",
        help="Strength of every preference without its own; 1 is the model as it is.",
        default="20",
    ),
]
Input = Annotated[str, Argument(metavar="IN.jsonl", help="Rows to read; - is standard input.")]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawFlags:
    """How candidates are drawn."""

    search: Annotated[
        str | None,
        _search(
            metavar="best-of-n|dvts|sample|greedy",
            help="How the answer is searched for.",
            default="best-of-n",
        ),
    ] = None
    n: Annotated[int | None, _search("--n", "-n", help="best-of-n: answers.", default="16")] = None
    subtrees: Annotated[int | None, _search(help="dvts: subtrees.", default="4")] = None
    width: Annotated[int | None, _search(help="dvts: continuations a step.", default="4")] = None
    delimiter: Annotated[
        str | None,
        _search(metavar="TEXT", help=r"dvts: ends a step; knows \n, \t, \\.", default=r"\n"),
    ] = None
    max_steps: Annotated[int | None, _search(help="dvts: steps at most.", default="40")] = None
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
            metavar="sum|mean",
            help="Sum over tokens, or divide it by their number.",
            default="sum",
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
    system: Annotated[
        str | None, _prompt(metavar="TEXT", help="System message of the conversation.")
    ] = None
    question_system: Annotated[
        str | None,
        _prompt(metavar="TEXT", help="System message where the preference is left out."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFlags:
    """Which model, and how it is opened."""

    model: Annotated[
        str,
        _model(
            "--model",
            "-m",
            metavar="ID|PATH|SCHEME:NAME",
            help="A Hugging Face model (demo is the bundled one), or an engine such as "
            "vllm+http://HOST:PORT.",
        ),
    ] = "demo"
    tokenizer: Annotated[
        str | None,
        _model(metavar="ID|PATH", help="The tokenizer, where it does not come with the model."),
    ] = None
    scorer: Annotated[
        str | None,
        _model(
            metavar="SPEC",
            help="A second engine that scores, for a server that can only sample.",
        ),
    ] = None
    dtype: Annotated[str, _model(metavar="TYPE", help="float32, bfloat16, float16, auto.")] = "auto"
    device: Annotated[str, _model(metavar="DEVICE", help="cpu, cuda, cuda:1, auto.")] = "auto"
    chat_template: Annotated[
        str | None,
        _model(
            metavar="FILE|plain",
            help="Chat template (Jinja) for a model without one; plain is built in.",
        ),
    ] = None
    thinking: Annotated[
        bool | None,
        _model(
            "--thinking/--no-thinking",
            help="Whether a thinking model thinks before it answers.",
            default="no",
        ),
    ] = None
    trust_remote_code: Annotated[
        bool, _model("--trust-remote-code", help="Run code that the model brings along.")
    ] = False
    allow_pickle: Annotated[
        bool, _model("--allow-pickle", help="Load weights that are not safetensors.")
    ] = False
    template_arg: Annotated[
        list[str] | None,
        _model(
            "--template-arg",
            metavar="NAME=VALUE",
            help="A variable of the chat template (JSON or text); may be repeated.",
        ),
    ] = None
    sampler_logprobs: Annotated[
        str,
        _model(
            metavar="auto|on|off",
            help="Whether log-probs of drawing stand in for scores; auto measures.",
        ),
    ] = "auto"
    max_rows: Annotated[
        int | None,
        _model(
            "--max-rows",
            min=1,
            metavar="N",
            help="Sequences in a batch at most.",
            default="64 on a CPU, 256 elsewhere",
        ),
    ] = None
    max_context: Annotated[
        int | None,
        _model(min=1, metavar="N", help="Tokens of prompt and answer to make room for."),
    ] = None
    threads: Annotated[int | None, _model(min=1, metavar="N", help="CPU threads.")] = None
    adapter: Annotated[
        str | None, _model(metavar="ID|PATH", help="A LoRA adapter for every call.")
    ] = None
    served_model: Annotated[
        str | None,
        _model(metavar="ID", help="Which of a server's models.", default="its only one"),
    ] = None
    api_key_env: Annotated[
        str, _model(metavar="NAME", help="Environment variable with the server's key.")
    ] = "PREFTILT_API_KEY"
    timeout: Annotated[
        float, _model(metavar="SECONDS", help="For one question to a server, retries included.")
    ] = 600.0
    max_connections: Annotated[
        int, _model(min=1, metavar="N", help="Questions to a server at once.")
    ] = 64


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
    concurrency: Annotated[int, _output(min=1, help="Rows in flight; they share batches.")] = 32


def flag(name: str) -> str:
    """How a field is spelled on the command line."""
    return "--" + name.replace("_", "-")


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with every parameter that is a group of flags replaced by those flags."""
    hints = get_type_hints(command, include_extras=True)
    flat: dict[str, inspect.Parameter] = {}
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            flat |= _parameters(hints[name])
        else:
            flat[name] = parameter.replace(
                annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY
            )

    @wraps(command, assigned=("__name__", "__doc__", "__module__"), updated=())
    def flattened(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{one.name: given.pop(one.name) for one in fields(group)})
        command(**given)

    shown: Any = flattened
    shown.__signature__ = inspect.Signature([*flat.values()])
    shown.__annotations__ = {name: one.annotation for name, one in flat.items()}
    del shown.__wrapped__
    return flattened


def _parameters(group: Any) -> dict[str, inspect.Parameter]:
    types = get_type_hints(group, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {
        one.name: inspect.Parameter(
            one.name, keyword, default=one.default, annotation=types[one.name]
        )
        for one in fields(group)
    }
