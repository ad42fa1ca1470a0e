"""Check at opening of a vision-language model: with images, log-probs must be those of its own forward."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import torch

from preftilt.engines.base import ScoreRequest
from preftilt.engines.transformers.expanded import ExpandedPath
from preftilt.engines.transformers.image_prompts import PROBE, ImageTokenizer
from preftilt.engines.transformers.jobs import score_job
from preftilt.engines.transformers.probe import tolerance
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.transformers.sampler import logprobs_of
from preftilt.engines.transformers.scheduler import TransformersScheduler
from preftilt.engines.vocabulary import FIRST_IMAGE_TOKEN, MAX_IMAGE_TOKENS
from preftilt.errors import PreftiltError
from preftilt.messages import Message, load_image
from preftilt.types import Tokens

SIDE = 96
"""Pixels per side of the test image."""


@dataclass(frozen=True, slots=True)
class ImageProbe:
    """A prompt with an image, a response, and its log-probs by the model's plain forward; or why there are none."""

    prompt: Tokens = ()
    response: Tokens = ()
    logprobs: np.ndarray | None = None
    failure: str | None = None


def probe_image(images: ImageTokenizer, runner: ModelRunner) -> ImageProbe:
    """Run the plain forward on a conversation with an image, before the model is patched."""
    try:
        prompt = images.render([Message("user", PROBE, (load_image(_noise()),))])
        response = images.encode(PROBE)
        ids = torch.tensor([*prompt, *response], device=runner.device)
        first = next(token for token in prompt if token >= FIRST_IMAGE_TOKEN)
        prompt_images = images.embedder.prompt_images(first - first % MAX_IMAGE_TOKENS)
        token_inputs = {
            name: torch.cat([values, values.new_zeros(1, len(response))], dim=1)
            for name, values in prompt_images.token_inputs.items()
        }
        output = images.embedder.forward(
            images.embedder.placeholder_ids(ids)[None], prompt_images, token_inputs
        )
        logits = output.logits[0, len(prompt) - 1 : -1]
        logprobs = logprobs_of(runner.to_float32(logits), ids[len(prompt) :])
    except PreftiltError as failure:
        return ImageProbe(failure=str(failure))
    except (
        Exception
    ) as failure:  # An unknown architecture may raise anything; it can still be used for text.
        return ImageProbe(failure=f"{type(failure).__name__}: {failure}")
    return ImageProbe(prompt, response, logprobs.cpu().numpy())


def checked_images(
    images: ImageTokenizer,
    image_probe: ImageProbe,
    path: TransformersScheduler | ExpandedPath,
    label: str,
) -> ImageTokenizer:
    """``images``, with a refusal set if the engine's path does not reproduce the plain forward."""
    if image_probe.logprobs is None:
        return replace(
            images, refusal=f"{label} cannot be shown images here ({image_probe.failure})"
        )
    job = score_job(ScoreRequest(prompt=image_probe.prompt, completion=image_probe.response))
    path.add([job])
    while not path.idle:
        path.step()
    failure = job.future.exception()
    if failure is not None:
        return replace(images, refusal=f"{label} cannot be shown images here ({failure})")
    gap = float(np.abs(job.future.result() - image_probe.logprobs).max())
    if gap > tolerance(path.runner.model.dtype):
        reason = f"{label} places images in a way that preftilt does not follow (log-probs differ by {gap:.2g})"
        return replace(images, refusal=reason)
    return images


def _noise() -> str:
    """An image of random colours, always the same, as a data: URL."""
    import PIL.Image

    colours = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    buffer = BytesIO()
    PIL.Image.fromarray(colours).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
