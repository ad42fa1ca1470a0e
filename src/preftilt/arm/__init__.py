"""Trained autoregressive reward models (ARMs): specification, preference vectors, layers, attaching them to a base.

``spec`` and ``alpha`` know no torch; the other modules do and are imported where a model is at hand.
"""
