"""Several engines of the same model as one: ``vllm+http://a:8000,b:8000``.

``engine.py`` is the engine; it gives every request to one of them. Which one is decided in ``routing.py``.
``replica.py`` is one of them: its load, and whether it is trusted. ``health.py`` pings them and reopens those that were
lost. ``start_replicas.py`` opens them, and ``identity.py`` checks that they hold the same model. Nothing here knows
what kind of engine they are.
"""

from preftilt.engines.replicas.engine import Replicas
from preftilt.engines.replicas.start_replicas import open_replicas

__all__ = ["Replicas", "open_replicas"]
