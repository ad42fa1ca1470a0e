"""A data set over a Ray cluster: every actor holds an engine, and records come back as rows are done."""

from preftilt.cluster.connect import (
    LOCAL,
    ActorPool,
    ActorRequest,
    Node,
    check_address,
    joined,
    nodes,
    plan_pool,
    require_ray,
)
from preftilt.cluster.rounds import RowBatching, answer_rows
from preftilt.cluster.worker import ClusterJob

__all__ = [
    "LOCAL",
    "ActorPool",
    "ActorRequest",
    "ClusterJob",
    "Node",
    "RowBatching",
    "answer_rows",
    "check_address",
    "joined",
    "nodes",
    "plan_pool",
    "require_ray",
]
