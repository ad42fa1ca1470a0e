"""Embeds the images of a prompt for a vision-language model, in the place of its image tokens.

The processor's outputs for a prompt's images are cached when it is rendered. When the prompt is prefilled, the model
embeds them: its forward is run up to the call of its language model, whose input embeddings are captured. So this works
for any architecture, whatever its way of embedding images.

Some models give image tokens positions in time, height and width (M-RoPE, Qwen2-VL): a token then has three position
ids, and an image advances the position by less than its number of tokens. The model's own ``get_rope_index`` computes
them; they are kept as *shifts*, position id minus token index.
"""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from preftilt.engines.vocabulary import FIRST_IMAGE_TOKEN, MAX_IMAGE_TOKENS
from preftilt.errors import EngineError
from preftilt.types import Tokens

IMAGE_CACHE_BYTES = 1 << 30
"""Size of the LRU cache of processed images, for prompts that are still to be prefilled."""


@dataclass(eq=False, slots=True)
class PromptImages:
    """The processed images of one prompt.

    digests: of the images. inputs: the model's inputs besides ids. places: indices of the image tokens in the prompt.
    token_inputs: inputs [1, P] with a value per token of the prompt. embedded: [count, H], computed when first needed.
    """

    digests: tuple[str, ...]
    inputs: Mapping[str, Tensor]
    places: tuple[int, ...]
    token_inputs: Mapping[str, Tensor]
    embedded: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Bytes of its tensors."""
        tensors = [*self.inputs.values(), *([] if self.embedded is None else [self.embedded])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class ImageEmbedder:
    """Embeds tokens, image tokens included.

    Images are added from any thread; embeddings are computed on the engine's worker alone. token: the model's own id of
    an image token.
    """

    def __init__(self, model: nn.Module, token: int, *, capacity: int = IMAGE_CACHE_BYTES) -> None:
        self.model: Any = model
        self.token = token
        self.capacity = capacity
        self._cache: OrderedDict[int, PromptImages] = OrderedDict()
        self._lock = threading.Lock()
        self._rope_index: Any = getattr(self.model.base_model, "get_rope_index", None)

    @property
    def language_model(self) -> Any:
        """The language model within the model."""
        return self.model.get_decoder()

    @property
    def has_3d_positions(self) -> bool:
        """Whether the model's position ids have three dimensions."""
        return self._rope_index is not None

    def shifts(self, tokens: Tokens) -> Tensor | None:
        """Position ids of a prompt's tokens minus their indices.

        [3, P + 1], the last column for all tokens after the prompt; None if all are zero. Raises
        :class:`~preftilt.errors.EngineError` as :meth:`prompt_images` does.
        """
        ids = torch.tensor([tokens])
        is_image = ids >= FIRST_IMAGE_TOKEN
        if self._rope_index is None or not bool(is_image.any()):
            return None
        number = ids[is_image] % MAX_IMAGE_TOKENS
        prompt_images = self.prompt_images(int(ids[is_image][0] - number[0]))
        token_inputs = {
            name: values.new_zeros(ids.shape) for name, values in prompt_images.token_inputs.items()
        }
        for name, values in token_inputs.items():
            values[is_image] = prompt_images.token_inputs[name][0, list(prompt_images.places)][
                number
            ]
        accepted = inspect.signature(self._rope_index).parameters
        arguments = {
            k: values
            for k, values in {**prompt_images.inputs, **token_inputs}.items()
            if k in accepted
        }
        positions, delta = self._rope_index(self.placeholder_ids(ids), **arguments)
        within = positions[:, 0] - torch.arange(len(tokens))
        return torch.cat([within, delta.view(1, 1).expand(3, 1)], dim=1)

    def add(self, first: int, prompt_images: PromptImages) -> None:
        """Cache the images of the prompt whose first image token is ``first``."""
        with self._lock:
            if self._cache.setdefault(first, prompt_images).digests != prompt_images.digests:
                raise EngineError(
                    "two different images got the same token ids, which happens once in 2³⁶; show one at a time"
                )
            self._trim(first)

    def placeholder_ids(self, tokens: Tensor) -> Tensor:
        """``tokens`` with image tokens replaced by the model's own image token id."""
        return torch.where(tokens >= FIRST_IMAGE_TOKEN, self.token, tokens)

    def model_inputs(self, tokens: Tensor) -> dict[str, Tensor]:
        """Model inputs for ``tokens`` [N, L]: ids, or embeddings if some are image tokens."""
        is_image = tokens >= FIRST_IMAGE_TOKEN
        if not bool(is_image.any()):
            return {"input_ids": tokens}
        embedded = self.model.get_input_embeddings()(self.placeholder_ids(tokens))
        number = tokens % MAX_IMAGE_TOKENS
        first = tokens - number
        for name in first[is_image].unique().tolist():
            mask = is_image & (first == name)
            embedded[mask] = self._embeddings(name)[number[mask]].to(embedded.dtype)
        return {"inputs_embeds": embedded}

    def prompt_images(self, first: int) -> PromptImages:
        """The images whose first token is ``first``.

        Raises :class:`~preftilt.errors.EngineError` if they were evicted.
        """
        with self._lock:
            images = self._cache.get(first)
        if images is None:
            raise EngineError(
                "an image of this prompt is no longer held, because too many others came after it; ask again, or with"
                " fewer requests at a time"
            )
        return images

    def forward(
        self, ids: Tensor, prompt_images: PromptImages, token_inputs: Mapping[str, Tensor]
    ) -> Any:
        """The model's own forward of ``ids`` [1, L] (its own vocabulary) with images."""
        inputs = {
            name: tensor.to(
                self.model.device, self.model.dtype if tensor.is_floating_point() else None
            )
            for name, tensor in {**prompt_images.inputs, **token_inputs}.items()
        }
        return self.model(input_ids=ids, **inputs, use_cache=False)

    def _embeddings(self, first: int) -> Tensor:
        """Embeddings [count, H] of the images whose first token is ``first``; computed once while cached."""
        prompt_images = self.prompt_images(first)
        if prompt_images.embedded is None:
            embedded = self._embed(prompt_images)
            with self._lock:
                prompt_images.embedded = embedded
                self._trim(first)
        assert prompt_images.embedded is not None
        return prompt_images.embedded

    def _trim(self, latest: int) -> None:
        """Evict the least recently used images beyond ``capacity``; ``latest`` stays."""
        if latest in self._cache:
            self._cache.move_to_end(latest)
        while len(self._cache) > 1 and self._bytes_held() > self.capacity:
            self._cache.popitem(last=False)

    def _bytes_held(self) -> int:
        return sum(images.bytes for images in self._cache.values())

    def _embed(self, prompt_images: PromptImages) -> Tensor:
        """Run the model up to its language model on image tokens alone, and capture the embeddings [count, H].

        Three-dimensional position ids would depend on the text between images; here they are not used.
        """
        ids = torch.full((1, len(prompt_images.places)), self.token, device=self.model.device)
        captured: list[Tensor] = []

        def capture(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            captured.append(kwargs["inputs_embeds"])
            raise _ReachedLanguageModel

        hook = self.language_model.register_forward_pre_hook(capture, with_kwargs=True)
        places = torch.tensor(prompt_images.places)
        token_inputs = {k: values[:, places] for k, values in prompt_images.token_inputs.items()}
        if self.has_3d_positions:
            token_inputs["position_ids"] = places[None]
        try:
            self.forward(ids, prompt_images, token_inputs)
        except _ReachedLanguageModel:
            pass
        finally:
            hook.remove()
        [embedded] = captured
        return embedded[0]


class _ReachedLanguageModel(Exception):
    """The language model was about to be called."""
