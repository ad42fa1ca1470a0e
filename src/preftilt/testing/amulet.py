"""Amulet as published, iteration by iteration, to check its closed form (``guided.kappa``) against."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def amulet_iterations(
    preferred: Float[np.ndarray, "V"],
    base: Float[np.ndarray, "V"],
    *,
    iterations: int,
    alpha: float,
    anchor: float,
    eta: float,
) -> Float[np.ndarray, "V"]:
    """log π after ``iterations`` updates (section 3), from log-probs with and without the preference."""
    policy = preferred
    utilities = np.zeros_like(preferred)
    for t in range(1, iterations + 1):
        utilities = utilities + alpha * (policy - base)
        policy = (anchor * preferred + utilities / t + policy / (eta * t)) / (
            anchor + 1 / (eta * t)
        )
        policy = policy - np.logaddexp.reduce(policy)
    return policy
