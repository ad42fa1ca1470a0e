"""The embedded engine over Hugging Face transformers.

The life of a request: ``engine.py`` checks it and hands it to the ``worker.py`` thread, where ``scheduler.py``
decides what each forward holds. ``prefill.py`` fills caches (``prefix_cache.py``), ``running_batch.py`` draws tokens
(``sampler.py``) and ``scoring.py`` reads given ones. ``extend.py`` and ``decode.py`` lay out the two kinds of
forward, which ``runner.py`` runs with the attention of ``attention.py``. ``open_model.py`` loads a model
(``loading.py``), measures what is right for it (``probe.py``), and falls back to ``expanded.py``.
"""

from preftilt.engines.transformers.engine import TransformersEngine
from preftilt.engines.transformers.open_model import TransformersTuning, open_transformers

__all__ = ["TransformersEngine", "TransformersTuning", "open_transformers"]
