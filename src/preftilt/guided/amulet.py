"""Amulet (Zhang et al., ICLR 2025, arXiv 2502.19148) in closed form: its T iterations at a token are one number κ.

Every iteration is affine in log-prob vectors with scalar coefficients, and normalising only adds a constant,
so after T iterations log π_T = log π_pref + κ_T (log π_pref − log π_base) + const, with κ from a scalar recursion.
That is O(V) a token where the loop takes O(T · V) time and memory. ``preftilt.testing.amulet`` has the loop.
"""

from __future__ import annotations


def kappa(iterations: int, *, alpha: float, anchor: float, eta: float) -> float:
    """κ_T after ``iterations`` T; λ of the guided decoder is 1 + κ_T.

    ``anchor`` is the paper's λ, the weight of staying near the distribution with the preference. With ``alpha`` <
    ``anchor`` κ tends to (α/λ) / (1 − α/λ); otherwise it has no limit and grows with T.
    """
    k = sums = 0.0
    for t in range(1, iterations + 1):
        sums += alpha * (1 + k)
        k = (sums / t + k / (eta * t)) / (anchor + 1 / (eta * t))
    return k
