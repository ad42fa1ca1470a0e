"""A data set over a Ray cluster: actors that hold an engine each, and records that come back as rows are done."""

from preftilt.cluster.actor_pool import Asked, Node, Pool, plan_pool
from preftilt.cluster.connect import LOCAL, check_address, joined, nodes, require_ray
from preftilt.cluster.rounds import Flow, answers
from preftilt.cluster.worker import Job

__all__ = [
    "LOCAL",
    "Asked",
    "Flow",
    "Job",
    "Node",
    "Pool",
    "answers",
    "check_address",
    "joined",
    "nodes",
    "plan_pool",
    "require_ray",
]
