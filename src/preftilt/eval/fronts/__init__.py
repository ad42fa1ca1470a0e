"""Several objectives at once: how good answers are over all mixes of them (fronts, hypervolume, inner products)."""
