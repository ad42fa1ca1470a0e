"""How many actors there are and what each holds: from what was asked for and what the nodes have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preftilt.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the cluster, as Ray counts it."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorRequest:
    """What the user said of the actors; None is left to :func:`plan_pool`."""

    actors: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("cpus", self.cpus, 0.01), ("gpus", self.gpus, 0.0)):
            if value is not None and not least <= value < float("inf"):
                raise BadInput(f"--ray-{name}-per-actor is {value:g}; give {least:g} or more")
        if self.gpus is not None and self.gpus > 1 and self.gpus % 1:
            raise BadInput(f"--ray-gpus-per-actor is {self.gpus:g}; above 1 give whole GPUs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPool:
    """Actors of one size."""

    actors: int
    cpus: float
    gpus: float


def plan_pool(nodes: Sequence[Node], asked: ActorRequest, *, holds_model: bool) -> ActorPool:
    """The pool that ``nodes`` have room for.

    holds_model: an actor computes itself, rather than asking a server. It then has a GPU where there are any, and else
    all CPUs that the smallest node has; there is one actor a GPU, or else one a node.
    Raises :class:`~preftilt.errors.BadInput` if there is no room for what was asked: Ray would wait for ever.
    """
    working = [one for one in nodes if one.cpus > 0]
    if not working:
        raise BadInput("the Ray cluster has no node with CPUs; start one (ray start)")
    any_gpu = any(one.gpus > 0 for one in working)
    gpus = asked.gpus if asked.gpus is not None else float(holds_model and any_gpu)
    whole_node = holds_model and not gpus
    cpus = asked.cpus or (min(one.cpus for one in working) if whole_node else 1.0)
    if asked.cpus is None and asked.actors is not None and whole_node:
        cpus = _shared(working, asked.actors)
    room = [_room(one, cpus, gpus) for one in working]
    actors = asked.actors or (sum(room) if gpus else sum(map(bool, room)))
    if not 0 < actors <= sum(room):
        each = f"{cpus:g} CPUs and {gpus:g} GPUs each"
        raise BadInput(
            f"the Ray cluster has room for {sum(room)} actors with {each}, not for {max(actors, 1)}: ask for fewer or"
            " smaller ones (--ray-actors, --ray-cpus-per-actor, --ray-gpus-per-actor), or start more nodes"
        )
    return ActorPool(actors=actors, cpus=cpus, gpus=gpus)


def _shared(nodes: Sequence[Node], actors: int) -> float:
    """CPUs an actor where ``actors`` share the nodes evenly: a node takes its part, and splits itself among them."""
    a_node = -(-actors // len(nodes))
    return max(min(one.cpus for one in nodes) // a_node, 1.0)


def _room(node: Node, cpus: float, gpus: float) -> int:
    by_cpus = int(node.cpus / cpus + 1e-9)
    if not gpus:
        return by_cpus
    # A fraction of a GPU is a part of one GPU: Ray never joins what is left of two.
    a_gpu = int(1 / gpus + 1e-9)
    by_gpus = int(node.gpus) * a_gpu if a_gpu else int(node.gpus / gpus)
    return min(by_cpus, by_gpus)
