"""Small random reward models in folders, on the engine tests' tiny models; what they say by plain forwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from preftilt.arm.attach import attach, tokenizer_hash
from preftilt.arm.spec import Objective
from preftilt.types import Reader, Tokens
from tests.arm.arms import HELP, SAFE, saved, shaken, spec_for
from tests.engine.models import VOCABULARY

PARM, UNIARM = Reader("parm", (0.7, 0.3)), Reader("uniarm", (0.2, 0.8))
HELPFUL, SAFER = Reader("helpful", (1.0,)), Reader("safer", (1.0,))
READERS = (None, PARM, UNIARM, HELPFUL, SAFER)


def make_arms(model: str, root: Path, **changes: Any) -> dict[str, str]:
    """Folders of four reward models of ``model``, by name; ``changes`` to what they say about themselves."""
    base = _model(model)
    tokenizer = tokenizer_hash(transformers.AutoTokenizer.from_pretrained(model))
    kinds: dict[str, tuple[str, Objective]] = {
        "parm": ("parm", HELP),
        "uniarm": ("uniarm", HELP),
        "helpful": ("genarm", HELP),
        "safer": ("genarm", SAFE),
    }
    folders: dict[str, str] = {}
    for number, (name, (method, objective)) in enumerate(kinds.items()):
        own = {"objectives": (objective,)} if method == "genarm" else {}
        given = {"tokenizer": tokenizer, "base": model, **own, **changes}
        spec = spec_for(base, method, **given)
        weights = shaken(base, spec)
        turned = {one: tensor.roll(number, 0) for one, tensor in weights.up.items()}
        folders[name] = str(saved(root / name, spec, replace(weights, up=turned)))
    return folders


class Oracle:
    """Log-probs by plain forwards of transformers, with a reward model attached or without."""

    def __init__(self, model: str, folders: dict[str, str]) -> None:
        self._model = _model(model)
        self._arms = {name: attach(self._model, Path(one)) for name, one in folders.items()}

    def after(self, context: Tokens, reader: Reader | None) -> np.ndarray:
        """Of every token after ``context``: [V]."""
        return self._logprobs(context, reader)[-1]

    def score(self, prompt: Tokens, completion: Tokens, reader: Reader | None) -> np.ndarray:
        """Of the tokens of ``completion``: [T]."""
        rows = self._logprobs(prompt + completion[:-1], reader)[len(prompt) - 1 :]
        return rows[np.arange(len(completion)), list(completion)]

    def _logprobs(self, tokens: Tokens, reader: Reader | None) -> np.ndarray:
        with torch.inference_mode():
            if reader is None:
                logits = self._model(torch.tensor([tokens])).logits
            else:
                with self._arms[reader.arm].rows(torch.tensor([reader.alpha])):
                    logits = self._model(torch.tensor([tokens])).logits
        return torch.log_softmax(logits[0, :, :VOCABULARY].double(), -1).numpy()


def _model(folder: str) -> Any:
    eager = None if Path(folder).name == "bloom" else "eager"
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=eager
    ).eval()
