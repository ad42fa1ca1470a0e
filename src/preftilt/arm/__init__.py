"""Trained autoregressive reward models: what they are, how a preference vector enters them, how a model wears them.

``spec`` and ``alpha`` know no torch; the other modules do and are imported where a model is at hand.
"""
