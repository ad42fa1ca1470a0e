"""A random tiny vision-language model with its processor, written to disk and opened for real; pictures for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from tests.engine.models import END, END_ID, VOCABULARY, byte_tokenizer

IMAGE = "<image>"
SIDE, PATCH = 28, 7
IMAGE_TOKENS = (SIDE // PATCH) ** 2
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}"
    + IMAGE
    + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    + END
    + "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def save_llava(folder: Path, *, template: str = TEMPLATE) -> str:
    """LLaVA with a CLIP of two layers and a Llama of two layers; the folder's path."""
    torch.manual_seed(7)
    tokenizer = byte_tokenizer(template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    text = _text_config(len(tokenizer))
    vision = transformers.CLIPVisionConfig(
        **SIZES,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=16,
        initializer_range=0.5,
    )
    config = transformers.LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=VOCABULARY,  # pyright: ignore[reportCallIssue]  (transformers' own name for it)
        vision_feature_layer=-2,
    )
    transformers.LlavaForConditionalGeneration(config).eval().save_pretrained(folder)
    processor = transformers.LlavaProcessor(
        CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=template,
    )
    processor.save_pretrained(folder)
    return str(folder)


def save_idefics3(folder: Path) -> str:
    """Idefics 3, which cuts a picture into tiles and shows it once more as a whole; the folder's path."""
    torch.manual_seed(8)
    tokenizer = byte_tokenizer(template=TEMPLATE)
    tiles = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    marks = ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE, *marks, *tiles]})
    vision = transformers.Idefics3VisionConfig(
        **SIZES, num_attention_heads=2, image_size=SIDE, patch_size=PATCH, initializer_range=0.5
    )
    config = transformers.Idefics3Config(
        text_config=_text_config(len(tokenizer)),
        vision_config=vision,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        pad_token_id=None,
    )
    transformers.Idefics3ForConditionalGeneration(config).eval().save_pretrained(folder)
    processor = transformers.Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
        ),
        tokenizer,
        image_seq_len=(SIDE // PATCH // 2) ** 2,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    return str(folder)


def _text_config(vocabulary: int) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        **SIZES,
        vocab_size=vocabulary,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=None,
    )


def picture(folder: Path, seed: int, *, width: int = 40, height: int = 32) -> str:
    """A file with blocks of colours at random."""
    colours = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3))
    path = folder / f"picture-{seed}.png"
    PIL.Image.fromarray(colours.astype(np.uint8)).resize((width, height), 0).save(path)
    return str(path)
