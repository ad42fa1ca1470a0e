"""Several engines of the same model as one: ``vllm+http://a:8000,b:8000``.

``engine.py`` is the engine; it gives every request to one of them. Which one is decided in ``routing.py``.
``replica.py`` is one of them: what it is at, and whether it is trusted. ``watch.py`` asks them whether they are still
there and brings back those that were lost. ``opening.py`` opens them, and ``identity.py`` sees to it that they hold the
same model. Nothing here knows what kind of engine they are.
"""

from preftilt.engines.replicas.engine import Replicas
from preftilt.engines.replicas.opening import open_replicas

__all__ = ["Replicas", "open_replicas"]
