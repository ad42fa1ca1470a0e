"""The number and size of actors, from what the user asked for and the resources of the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preftilt.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The resources of a node, as Ray counts them."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorRequest:
    """The actors that the user asks for; None leaves it to :func:`plan_pool`."""

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
    """A number of actors with the same resources."""

    actors: int
    cpus: float
    gpus: float


def plan_pool(nodes: Sequence[Node], wanted: ActorRequest, *, holds_model: bool) -> ActorPool:
    """The pool of actors that fits on ``nodes``.

    holds_model: an actor runs the model itself, rather than calling a server. It then gets a GPU where there are any,
    and otherwise all CPUs of the smallest node; there is one actor a GPU, or otherwise one a node.
    Raises :class:`~preftilt.errors.BadInput` if ``wanted`` does not fit: Ray would wait for ever.
    """
    working = [node for node in nodes if node.cpus > 0]
    if not working:
        raise BadInput("the Ray cluster has no node with CPUs; start one (ray start)")
    any_gpu = any(node.gpus > 0 for node in working)
    gpus = wanted.gpus if wanted.gpus is not None else float(holds_model and any_gpu)
    whole_node = holds_model and not gpus
    cpus = wanted.cpus or (min(node.cpus for node in working) if whole_node else 1.0)
    if wanted.cpus is None and wanted.actors is not None and whole_node:
        cpus = _cpus_per_actor(working, wanted.actors)
    room = [_actors_that_fit(node, cpus, gpus) for node in working]
    actors = wanted.actors or (sum(room) if gpus else sum(map(bool, room)))
    if not 0 < actors <= sum(room):
        each = f"{cpus:g} CPUs and {gpus:g} GPUs each"
        raise BadInput(
            f"the Ray cluster has room for {sum(room)} actors with {each}, not for {max(actors, 1)}: ask for fewer or"
            " smaller ones (--ray-actors, --ray-cpus-per-actor, --ray-gpus-per-actor), or start more nodes"
        )
    return ActorPool(actors=actors, cpus=cpus, gpus=gpus)


def _cpus_per_actor(nodes: Sequence[Node], actors: int) -> float:
    """CPUs of an actor where ``actors`` are spread evenly over the nodes and share the CPUs of theirs."""
    actors_per_node = -(-actors // len(nodes))
    return max(min(node.cpus for node in nodes) // actors_per_node, 1.0)


def _actors_that_fit(node: Node, cpus: float, gpus: float) -> int:
    by_cpus = int(node.cpus / cpus + 1e-9)
    if not gpus:
        return by_cpus
    # Ray takes a fraction of a GPU from a single GPU, never from the remainders of two.
    actors_per_gpu = int(1 / gpus + 1e-9)
    by_gpus = int(node.gpus) * actors_per_gpu if actors_per_gpu else int(node.gpus / gpus)
    return min(by_cpus, by_gpus)
