"""How a vision-language model sees the images of a prompt: as embeddings in the place of its image tokens.

A prompt's images are put on a shelf when it is rendered, as what the model's processor made of them. When the prompt is
read, the model's own front part turns them into embeddings: its forward is run up to where it calls its language
model, and what it would have handed over is taken. So no architecture's way of embedding images is written down here.

Some models place an image's tokens in time, height and width (M-RoPE, Qwen2-VL): a token then has three positions, and
an image of many tokens takes few. They are told by the model's own function, as *shifts* from the tokens' places.
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

from preftilt.engines.image_tokens import FIRST, SPREAD
from preftilt.errors import EngineError
from preftilt.types import Tokens

IMAGE_CACHE_BYTES = 1 << 30
"""Images kept ready for prompts that are still to be read; the least recently used go first."""


@dataclass(eq=False, slots=True)
class PromptImages:
    """The images of one prompt as the processor made them.

    names: their digests. inputs: what the model takes besides ids. places: where in the prompt their tokens stand.
    of_tokens: inputs [1, P] that say something of every token of the prompt. embedded: [count, H], once it was needed.
    """

    names: tuple[str, ...]
    inputs: Mapping[str, Tensor]
    places: tuple[int, ...]
    of_tokens: Mapping[str, Tensor]
    embedded: Tensor | None = None

    @property
    def bytes(self) -> int:
        """What it holds."""
        held = [*self.inputs.values(), *([] if self.embedded is None else [self.embedded])]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


class ImageEmbedder:
    """Embeds tokens, those of images too.

    Images are shown from any thread; embeddings are made on the engine's worker alone. token: the id that stands for an
    image's token in the model's own vocabulary.
    """

    def __init__(self, model: nn.Module, token: int, *, capacity: int = IMAGE_CACHE_BYTES) -> None:
        self.model: Any = model
        self.token = token
        self.capacity = capacity
        self._shelf: OrderedDict[int, PromptImages] = OrderedDict()
        self._lock = threading.Lock()
        self._rope_index: Any = getattr(self.model.base_model, "get_rope_index", None)

    @property
    def text(self) -> Any:
        """The language model within the model."""
        return self.model.get_decoder()

    @property
    def turns(self) -> bool:
        """Whether the model's positions have three dimensions."""
        return self._rope_index is not None

    def shifts(self, tokens: Tokens) -> Tensor | None:
        """How far the model's positions of a prompt are from its tokens' places.

        [3, P + 1], the last column for all that follows the prompt; None if they are the places. Raises
        :class:`~preftilt.errors.EngineError` as :meth:`shown` does.
        """
        ids = torch.tensor([tokens])
        seen = ids >= FIRST
        if self._rope_index is None or not bool(seen.any()):
            return None
        number = ids[seen] % SPREAD
        shown = self.shown(int(ids[seen][0] - number[0]))
        of_tokens = {name: values.new_zeros(ids.shape) for name, values in shown.of_tokens.items()}
        for name, values in of_tokens.items():
            values[seen] = shown.of_tokens[name][0, list(shown.places)][number]
        wanted = inspect.signature(self._rope_index).parameters
        told = {k: values for k, values in {**shown.inputs, **of_tokens}.items() if k in wanted}
        positions, after = self._rope_index(self.plain(ids), **told)
        within = positions[:, 0] - torch.arange(len(tokens))
        return torch.cat([within, after.view(1, 1).expand(3, 1)], dim=1)

    def show(self, first: int, shown: PromptImages) -> None:
        """Keep images for the prompt whose image tokens begin with ``first``."""
        with self._lock:
            if self._shelf.setdefault(first, shown).names != shown.names:
                raise EngineError(
                    "two different images got the same token ids, which happens once in 2³⁶; show one at a time"
                )
            self._trim(first)

    def plain(self, tokens: Tensor) -> Tensor:
        """The ids that the model's own vocabulary has for ``tokens``."""
        return torch.where(tokens >= FIRST, self.token, tokens)

    def words(self, tokens: Tensor) -> dict[str, Tensor]:
        """``tokens`` [N, L] as the model takes them: ids, or embeddings where some are of images."""
        seen = tokens >= FIRST
        if not bool(seen.any()):
            return {"input_ids": tokens}
        embedded = self.model.get_input_embeddings()(self.plain(tokens))
        number = tokens % SPREAD
        first = tokens - number
        for name in first[seen].unique().tolist():
            here = seen & (first == name)
            embedded[here] = self._embeddings(name)[number[here]].to(embedded.dtype)
        return {"inputs_embeds": embedded}

    def shown(self, first: int) -> PromptImages:
        """The images whose tokens begin with ``first``.

        Raises :class:`~preftilt.errors.EngineError` if the shelf holds them no more.
        """
        with self._lock:
            images = self._shelf.get(first)
        if images is None:
            raise EngineError(
                "an image of this prompt is no longer held, because too many others came after it; ask again, or with"
                " fewer requests at a time"
            )
        return images

    def look(self, ids: Tensor, shown: PromptImages, of_tokens: Mapping[str, Tensor]) -> Any:
        """The model's own forward of ``ids`` [1, L], in its own vocabulary, with images."""
        inputs = {
            name: tensor.to(
                self.model.device, self.model.dtype if tensor.is_floating_point() else None
            )
            for name, tensor in {**shown.inputs, **of_tokens}.items()
        }
        return self.model(input_ids=ids, **inputs, use_cache=False)

    def _embeddings(self, first: int) -> Tensor:
        """[count, H] of the images whose tokens begin with ``first``; made once while they are held."""
        shown = self.shown(first)
        if shown.embedded is None:
            made = self._front(shown)
            with self._lock:
                shown.embedded = made
                self._trim(first)
        assert shown.embedded is not None
        return shown.embedded

    def _trim(self, latest: int) -> None:
        """Drop what was used longest ago, as far as room is needed; ``latest`` stays."""
        if latest in self._shelf:
            self._shelf.move_to_end(latest)
        while len(self._shelf) > 1 and self._held() > self.capacity:
            self._shelf.popitem(last=False)

    def _held(self) -> int:
        return sum(images.bytes for images in self._shelf.values())

    def _front(self, shown: PromptImages) -> Tensor:
        """Run the model up to its language model on image tokens alone; the embeddings [count, H] that it hands on.

        Positions of several dimensions would be told by the text between images; nobody looks at them here.
        """
        ids = torch.full((1, len(shown.places)), self.token, device=self.model.device)
        caught: list[Tensor] = []

        def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught.append(kwargs["inputs_embeds"])
            raise _ReachedLanguageModel

        hook = self.text.register_forward_pre_hook(catch, with_kwargs=True)
        places = torch.tensor(shown.places)
        of_tokens = {k: values[:, places] for k, values in shown.of_tokens.items()}
        if self.turns:
            of_tokens["position_ids"] = places[None]
        try:
            self.look(ids, shown, of_tokens)
        except _ReachedLanguageModel:
            pass
        finally:
            hook.remove()
        [embedded] = caught
        return embedded[0]


class _ReachedLanguageModel(Exception):
    """The language model was about to be called."""
