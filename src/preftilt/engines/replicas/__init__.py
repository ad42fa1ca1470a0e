"""Several engines of the same model as one: ``vllm+http://a:8000,b:8000``.

``engine.py`` opens them and gives every request to one of them; it decides which one, too. ``replica.py`` is
one of them: its load, its model, and the watch that pings it and reopens it when it was lost. Nothing here knows
what kind of engine they are.
"""

from preftilt.engines.replicas.engine import Replicas, open_replicas

__all__ = ["Replicas", "open_replicas"]
