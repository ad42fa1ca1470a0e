"""From a name to a reward model.

=============================  =============================================================
``vllm+http(s)://HOST:PORT``   a vLLM server with a sequence-classification model
``sglang+http(s)://HOST:PORT`` an SGLang server with one (``--is-embedding``)
``MODULE:FUNCTION``            a function of yours
a name                         a scorer that a package added (entry point ``preftilt.scorers``)
a hub id or a path             a sequence-classification model, by transformers in this process
=============================  =============================================================
"""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from preftilt.engines.options import EngineOptions, refuse_others
from preftilt.errors import BadInput, MissingPackage
from preftilt.plugins import installed
from preftilt.rivals.base import RewardModel
from preftilt.rivals.scorers import SCORERS, installed_scorer, named_scorer

KEY_VARIABLE = "PREFTILT_REWARD_API_KEY"
"""Holds the key of a reward model's server, unless the options name another variable: the key of the model's own
server is none of its business."""

_SERVER = re.compile(r"(vllm|sglang)\+(https?://.+)")
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def open_reward_model(spec: str, options: EngineOptions | None = None) -> RewardModel:
    """Open the reward model that ``spec`` names; see the top of this module::

        open_reward_model("Skywork/Skywork-Reward-V2-Qwen3-0.6B")
        open_reward_model("vllm+http://127.0.0.1:8001", EngineOptions(tokenizer="Skywork/…"))
        open_reward_model("my_scorers:brevity")

    ``options``: of a model in this process ``dtype``, ``device``, ``trust_remote_code``, ``allow_pickle`` and
    ``max_context``; of a server ``tokenizer``, ``served_model``, ``api_key_env``, ``timeout``, ``max_connections`` and
    ``max_context``. Raises :class:`~preftilt.errors.BadInput`, :class:`~preftilt.errors.UnknownModel` or
    :class:`~preftilt.errors.MissingPackage`, and :class:`~preftilt.errors.EngineError` for a server that does not
    answer.
    """
    options = options or EngineOptions()
    if options.api_key_env == EngineOptions().api_key_env:
        options = replace(options, api_key_env=KEY_VARIABLE)
    if not spec.strip():
        raise BadInput("no reward model is named; give a hub id, a path, a server or a function")
    if runs_here(spec):
        _need("torch", "transformers")
        return import_module("preftilt.rivals.classifier").open_classifier(spec, options)
    served = _SERVER.fullmatch(spec)
    if served:
        _need("httpx2", "http")
        return import_module("preftilt.rivals.served").open_served(served[1], served[2], options)
    if "://" in spec:
        raise BadInput(
            f"say which kind of server {spec} is: vllm+http://HOST:PORT or sglang+http://HOST:PORT"
        )
    refuse_others(options, "a scorer that is a function", {"api_key_env"})
    return installed_scorer(spec) or named_scorer(spec)


def runs_here(spec: str) -> bool:
    """Whether ``spec`` names a model that would be loaded into this process."""
    if Path(spec).expanduser().exists():
        return True
    return "://" not in spec and not _FUNCTION.fullmatch(spec) and spec not in installed(SCORERS)


def _need(package: str, extra: str) -> None:
    for name in (package, "transformers"):
        if find_spec(name) is None:
            raise MissingPackage(f'this reward model needs {name}: pip install "preftilt[{extra}]"')
