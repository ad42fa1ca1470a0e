"""Reward models and judges: checked against the settings that use them, then opened."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace

from preftilt.api import Settings
from preftilt.cli.configure import moment_from
from preftilt.cli.options import ModelFlags
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput
from preftilt.rivals import ByJudge, ByRewardModel, Judges, open_reward_model, runs_here
from preftilt.search import ARGS

ABOUT_WEIGHTS = ("dtype", "device", "trust_remote_code", "allow_pickle")
JUDGE_KEY_VARIABLE = "PREFTILT_JUDGE_API_KEY"
"""Holds the key of a judge's server; the key of the model's own is none of its business."""


def check_judges(model: ModelFlags, settings: Iterable[Settings]) -> None:
    """Refuse a judge that none of the requests would ask, and a request whose judge is not named."""
    every = list(settings)
    rewarded = [
        settings.method.name if isinstance(settings.method, ByRewardModel) else settings.search.name
        for settings in every
        if isinstance(settings.method, ByRewardModel) or isinstance(settings.search, ARGS)
    ]
    if model.reward_model is None and rewarded:
        raise BadInput(f"{rewarded[0]} needs a reward model: name one with --reward-model SPEC")
    if model.reward_model is not None and not rewarded:
        raise BadInput(
            "--reward-model does nothing here: add --method reward-model or --search args"
        )
    if model.reward_model is None and model.reward_tokenizer is not None:
        raise BadInput("--reward-tokenizer belongs to --reward-model")
    if model.judge_model is not None and not any(
        isinstance(settings.method, ByJudge) for settings in every
    ):
        raise BadInput("--judge-model does nothing here: add --method generative-reward-model")


def check_served(model: ModelFlags, settings: Settings) -> None:
    """As :func:`check_judges` for a server, whose clients may ask for any judge that it has."""
    asks = isinstance(settings.method, ByRewardModel) or isinstance(settings.search, ARGS)
    if asks and model.reward_model is None:
        raise BadInput(
            "the server's default needs a reward model: name one with --reward-model SPEC"
        )


def open_judges(model: ModelFlags) -> Judges:
    """Open the reward model and the judge; of the model's flags they share only those about weights."""
    with ExitStack() as opened:
        reward_model = judge = None
        if model.reward_model is not None:
            reward_model = open_reward_model(model.reward_model, reward_options(model))
            opened.callback(reward_model.close)
        if model.judge_model is not None:
            judge = open_engine(model.judge_model, judge_options(model))
        opened.pop_all()
    return Judges(reward_model=reward_model, judge=judge)


def reward_options(model: ModelFlags) -> EngineOptions:
    """Flags about weights go to a model in this process only; a server or a function knows nothing of them."""
    options = EngineOptions(tokenizer=model.reward_tokenizer)
    if model.reward_model is None or not runs_here(model.reward_model):
        return options
    return replace(
        options,
        **{name: value for name, value in model.options.items() if name in ABOUT_WEIGHTS},
    )


def judge_options(model: ModelFlags) -> EngineOptions:
    """Only servers have a key; an engine in this process refuses the option. All prompts show one date."""
    served = "+http" in (model.judge_model or "").partition("://")[0]
    options = EngineOptions(now=moment_from(model))
    return replace(options, api_key_env=JUDGE_KEY_VARIABLE) if served else options
