"""Guided decoding: a search's expansion becomes an engine request, and its responses become completions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, Engine, GuidedView, GuideRequest, ProposeRequest
from preftilt.engines.waiting import together
from preftilt.errors import BadInput
from preftilt.guided import (
    RewardGuidedDraw,
    Shortlist,
    TrajectoryReward,
    draw_by_reward,
    view_weights,
)
from preftilt.search import GuidedSearch, Search
from preftilt.streams import stream_key
from preftilt.types import (
    Completion,
    Expand,
    Guide,
    Query,
    Reader,
    RewardGuide,
    Sampling,
    Stream,
    Tokens,
    Usage,
    View,
)

Rows = Mapping[Tokens, Float[np.ndarray, "T"]]
"""A completion's tokens → their log-probs."""

Source = tuple[Tokens, Reader | None]
"""A prompt and who reads it: what log-probs belong to."""

GENERATION = "generation"
"""The name, beside those of the views, of the prompt that answers are drawn from."""


@dataclass(frozen=True, slots=True)
class DrawnCompletions:
    """Completions, with the log-probs that came with them and count as scores, by prompt and reader."""

    completions: tuple[Completion, ...]
    known: Mapping[Source, Rows]


def count_as_scores(
    sources: Collection[Source], query: Query, able: Capabilities, *, guided: bool
) -> bool:
    """Whether log-probs of ``sources``, which come with the drawing, are scores, so that picking reads nothing more.

    They are where the engine found that drawing and scoring agree. Where rounding tells them apart, those of guided
    drawing are if all views of ``query`` are among them; one view drawn and another scored would not compare.
    """
    views = {(view.prompt, view.reader) for view in query.views}
    return able.sampler_logprobs or (guided and able.guided_logprobs and views <= {*sources})


def drawn_sources(query: Query, search: Search) -> tuple[frozenset[Source], bool]:
    """What log-probs come with drawing for ``search``, and whether that is guided by views."""
    guide = view_guide(search)
    if guide is None:
        return frozenset({(query.prompt, None)}), False
    views, _ = guided_views(query, guide)
    return frozenset((view.prompt, view.reader) for view in views.values()), True


def view_guide(search: Search) -> Guide | None:
    """How ``search`` mixes the views at every token; None if it does not, or asks a reward model in their place."""
    guide = search.guide if isinstance(search, GuidedSearch) else None
    return guide if isinstance(guide, Guide) else None


def check_guided(
    engine: Engine, search: Search, query: Query, reward: TrajectoryReward | None
) -> None:
    """Raises :class:`~preftilt.errors.BadInput` if ``engine`` cannot draw for ``query`` as ``search`` asks."""
    _check_scored(engine, search, query)
    if not isinstance(search, GuidedSearch):
        return
    by_reward = isinstance(search.guide, RewardGuide)
    able = engine.capabilities
    if not (able.proposes if by_reward else able.guides):
        raise BadInput(
            f"{engine.name} cannot choose token by token, as the search {search.name!r} does: open the model in this"
            " process (--model with its hub id or path), or take another search (--search best-of-n)"
        )
    guide = view_guide(search)
    if guide is not None and guide.strength_by == "divergence":
        _check_single(query)
    if by_reward and reward is None:
        raise BadInput(
            f"the search {search.name!r} needs a reward model: name one with --reward-model SPEC (in the library:"
            " Realigner(…, judges=Judges(reward_model=open_reward_model(SPEC))))"
        )


def _check_scored(engine: Engine, search: Search, query: Query) -> None:
    """Where the engine does not score, every view's log-probs must come with drawing."""
    reason = engine.capabilities.unscored
    if not reason:
        return
    sources, guided = drawn_sources(query, search)
    drawn = sources if guided else frozenset()
    missing = [view.name for view in query.views if (view.prompt, view.reader) not in drawn]
    if missing:
        raise BadInput(
            f"the search {search.name!r} needs log-probs of given tokens ({', '.join(missing)}): {reason}; or take the"
            " search 'cfg', with a λ other than 0 and 1"
        )


def _check_single(query: Query) -> None:
    if len(query.ratios) != 1:
        raise BadInput(
            f"a strength by divergence compares two views, and the request has {len(query.ratios)} preferences: give"
            " one, or take the strength as it is (--strength-by fixed)"
        )


def guided_views(query: Query, guide: Guide) -> tuple[dict[str, GuidedView], int]:
    """The views to draw from, by name, and the number of the one that a mask of the preference looks at.

    Views of no weight are left out, as they would cost a forward a token for nothing. The mask looks at the prompt
    that answers are drawn from, which is one more view of no weight where it is none of the others.
    """
    looks = guide.mask is not None and guide.mask.of == "preference"
    read = by_base(query)
    if guide.by_prompt:
        views = {_drawn_from(query): GuidedView(query.prompt, 1.0)}
    else:
        weights = view_weights(query.ratios, query.lam, guide.strength)
        both = guide.strength_by == "divergence"  # A token's weights are others than these.
        views = {
            view.name: GuidedView(view.prompt, weight)
            for view, weight in zip(read, weights, strict=True)
            if weight != 0 or both or (looks and view.prompt == query.prompt)
        }
    prompts = [view.prompt for view in views.values()]
    if looks and query.prompt not in prompts:
        views[GENERATION] = GuidedView(query.prompt, 0.0)
        prompts.append(query.prompt)
    views |= {
        view.name: GuidedView(view.prompt, view.weight, view.reader)
        for view in query.views[len(read) :]
        if view.weight != 0
    }
    return views, prompts.index(query.prompt) if looks else 0


def by_base(query: Query) -> Sequence[View]:
    """The views that the base model reads; those of reward models come after them."""
    return query.views[: len(query.views) - len(query.arms)]


def _drawn_from(query: Query) -> str:
    """The name of the view whose prompt answers are drawn from."""
    names = (view.name for view in by_base(query) if view.prompt == query.prompt)
    return next(names, GENERATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guiding:
    """What guided drawing knows of its request; ``usage`` is counted in."""

    engine: Engine
    query: Query
    sampling: Sampling
    stream: Stream
    usage: Usage
    reward: TrajectoryReward | None

    def request(self, expand: Expand, guide: Guide) -> GuideRequest:
        """The engine request for ``expand``."""
        views, preferred = guided_views(self.query, guide)
        return GuideRequest(
            views=tuple(views.values()),
            prefix=expand.parent.tokens,
            slots=expand.slots,
            stream=self.stream,
            sampling=self.sampling,
            max_tokens=expand.max_tokens,
            mask=guide.mask,
            preferred=preferred,
            strength_by=guide.strength_by,
            step=expand.step,
            keep=expand.step is not None,
        )

    async def by_views(self, request: GuideRequest, guide: Guide) -> DrawnCompletions:
        """Draw what ``request`` asks for; each token is taken from one distribution a view."""
        [guided] = await self.engine.guide([request])
        names, _ = guided_views(self.query, guide)
        self._count(dict.fromkeys(names, sum(len(response.tokens) for response in guided)))
        known: dict[Source, Rows] = {
            (view.prompt, view.reader): {
                response.tokens: response.logprobs[number] for response in reversed(guided)
            }
            for number, view in enumerate(request.views)
        }
        first = [
            Completion(response.tokens, response.logprobs[0], response.finish, response.absent)
            for response in guided
        ]
        return self._drawn(first, known, guided=True)

    def _drawn(
        self, completions: Sequence[Completion], known: Mapping[Source, Rows], *, guided: bool
    ) -> DrawnCompletions:
        counts = count_as_scores(known, self.query, self.engine.capabilities, guided=guided)
        return DrawnCompletions(tuple(completions), known if counts else {})

    def plain(self, completions: Sequence[Completion]) -> DrawnCompletions:
        """Completions drawn from the query's prompt, whose log-probs are those under it."""
        rows = {completion.tokens: completion.logprobs for completion in reversed(completions)}
        return self._drawn(completions, {(self.query.prompt, None): rows}, guided=False)

    async def by_reward(self, expand: Expand, guide: RewardGuide) -> DrawnCompletions:
        """Draw what ``expand`` asks for with the help of the reward model."""
        draws = [self._reward_draw(expand, guide, slot) for slot in expand.slots]
        work = [draw_by_reward(draw, self._propose(guide), self._reward) for draw in draws]
        return self.plain(await together(work))

    def _reward_draw(self, expand: Expand, guide: RewardGuide, slot: int) -> RewardGuidedDraw:
        return RewardGuidedDraw(
            guide=guide,
            sampling=self.sampling,
            prefix=expand.parent.tokens,
            key=stream_key(self.stream, slot),
            eos=self.engine.capabilities.eos,
            room=expand.max_tokens,
        )

    def _propose(self, guide: RewardGuide):
        view = _drawn_from(self.query)

        async def propose(so_far: Tokens) -> Shortlist:
            request = ProposeRequest(prompt=self.query.prompt, prefix=so_far, count=guide.shortlist)
            [proposal] = await self.engine.propose([request])
            self._count({view: 1})
            return proposal.tokens, proposal.logprobs

        return propose

    async def _reward(self, responses: Sequence[Tokens]) -> Sequence[float | None]:
        assert self.reward is not None
        self._count({"reward": len(responses)})
        return await self.reward(responses)

    def _count(self, guided: Mapping[str, int]) -> None:
        for name, number in guided.items():
            self.usage.guided[name] = self.usage.guided.get(name, 0) + number
