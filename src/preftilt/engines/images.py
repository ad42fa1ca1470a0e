"""Images in prompts: token ids that name a picture.

A prompt with images has as many image tokens as the model has embeddings for them. Plain placeholders would be the same
for all images, so they get ids of their own, above every vocabulary: a digest of the prompt's images, and the token's
number among them. So prompts are plain token ids, and two prompts are equal only if their images are.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from preftilt.errors import BadInput
from preftilt.messages import Image
from preftilt.types import Tokens

FIRST = 1 << 52
"""The lowest id of an image's token; with all of them below 2^53, JSON readers keep them exact."""

SPREAD = 1 << 16
"""Tokens of one prompt's images at most; a token's number is its id modulo this."""


def image_tokens(images: Sequence[Image], count: int) -> Tokens:
    """The ids of ``count`` tokens for a prompt's images, in order."""
    if count > SPREAD:
        raise BadInput(
            f"the images of a prompt have {count} tokens and may have {SPREAD}; show fewer or smaller ones"
        )
    digests = "/".join(image.digest for image in images).encode()
    name = int.from_bytes(blake2b(digests, digest_size=8).digest()) % (FIRST // SPREAD)
    start = FIRST + name * SPREAD
    return tuple(range(start, start + count))


def without_images(tokens: Tokens) -> Tokens:
    """The tokens without image tokens, all of which must be in the vocabulary."""
    return tuple(token for token in tokens if token < FIRST)
