"""Tiny random models of the Qwen-VL family, with positions in three dimensions, and their plain forwards.

They are saved as their makers save them: files for the tokenizer and for pictures, none for videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from preftilt.messages import Message
from preftilt.types import Tokens
from tests.engine.models import END, END_ID, byte_tokenizer

FAMILY = ("qwen2_vl", "qwen2_5_vl")
START, PAD, STOP, VIDEO = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"
PATCH, MERGED = 7, 2
SIZES = {1: (42, 28), 2: (28, 70), 3: (84, 28)}
"""Width and height of a picture by its seed."""
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}"
    + START
    + PAD
    + STOP
    + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    + END
    + "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def save_qwen(folder: Path, kind: str) -> str:
    """A model of two layers that sees by two layers; the folder's path."""
    torch.manual_seed(9)
    tokenizer = byte_tokenizer(template=TEMPLATE)
    tokenizer.add_special_tokens({"additional_special_tokens": [START, PAD, STOP, VIDEO]})
    ids = dict(zip((START, PAD, STOP, VIDEO), range(END_ID + 1, len(tokenizer)), strict=True))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100.0,
            "mrope_section": [4, 6, 6],
        },
        "bos_token_id": None,
        "eos_token_id": END_ID,
    }
    eyes = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "initializer_range": 0.5}
    names: dict[str, Any] = {
        "image_token_id": ids[PAD],
        "video_token_id": ids[VIDEO],
        "vision_start_token_id": ids[START],
        "vision_end_token_id": ids[STOP],
    }
    transformers.set_seed(9)
    _model(kind, text, eyes, names).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGED,
        size={"shortest_edge": (2 * PATCH) ** 2, "longest_edge": (20 * PATCH) ** 2},
    ).save_pretrained(folder)
    return str(folder)


def _model(kind: str, text: dict[str, Any], eyes: dict[str, Any], names: dict[str, Any]) -> Any:
    if kind == "qwen2_vl":
        eyes = {**eyes, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        config: Any = transformers.Qwen2VLConfig(text_config=text, vision_config=eyes, **names)
        return transformers.Qwen2VLForConditionalGeneration(config)
    eyes |= {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 48}
    eyes |= {"window_size": 4 * PATCH, "fullatt_block_indexes": [1]}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=eyes, **names)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen_picture(folder: Path, seed: int) -> str:
    """A file with colours at random, in the size of its seed."""
    width, height = SIZES[seed]
    colours = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = folder / f"picture-{seed}.png"
    PIL.Image.fromarray(colours).save(path)
    return str(path)


def grid(seed: int) -> tuple[int, int]:
    """Tokens of a picture, down and across."""
    width, height = SIZES[seed]
    return height // PATCH // MERGED, width // PATCH // MERGED


class QwenOracle:
    """The model by itself: every prompt and response in one plain forward, which places the tokens on its own."""

    def __init__(self, folder: str) -> None:
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self._eyes: Any = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        self._model: Any = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()

    def __call__(self, messages: Sequence[Message], response: Tokens) -> np.ndarray:
        """Log-probs of the response, float64."""
        shown = [PIL.Image.open(one.url).convert("RGB") for m in messages for one in m.images]
        given = dict(self._eyes(shown, return_tensors="pt")) if shown else {}
        prompt = self._ids(messages, given.get("image_grid_thw", ()))
        ids = torch.tensor([[*prompt, *response]])
        if given:
            given["mm_token_type_ids"] = (ids == self._model.config.image_token_id).int()
        with torch.inference_mode():
            self._model.model.rope_deltas = None
            logits = self._model(input_ids=ids, **given).logits[0, len(prompt) - 1 : -1]
        chosen = torch.log_softmax(logits.double(), dim=-1).gather(1, torch.tensor([response]).T)
        return chosen[:, 0].numpy()

    def readable(self, responses: Iterable[Tokens]) -> list[Tokens]:
        """Those without the token that stands for a part of a picture, which a random model may draw, too."""
        found = [one for one in responses if self._model.config.image_token_id not in one]
        assert found
        return found

    def _ids(self, messages: Sequence[Message], grids: Any) -> Tokens:
        counts = iter([int(one.prod()) // MERGED**2 for one in grids])
        text = ""
        for message in messages:
            parts = [
                one if isinstance(one, str) else START + PAD * next(counts) + STOP
                for one in message.parts()
            ]
            text += f"{message.role}: {''.join(parts)}{END}"
        return tuple(self._tokenizer(text + "assistant: ", add_special_tokens=False)["input_ids"])
