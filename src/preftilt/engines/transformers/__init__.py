"""The embedded engine over Hugging Face transformers.

The life of a request: ``engine.py`` checks it and submits it to the thread of ``../worker.py``, where ``scheduler.py``
decides what each forward computes. ``prefill.py`` fills the prefix cache (``prefix_cache.py``), ``running_batch.py``
decodes (tokens are drawn in ``sampler.py``), and ``scoring.py`` computes log-probs of given tokens. ``extend.py`` and
``decode.py`` lay out the two kinds of forward, which ``runner.py`` runs with the attention of ``attention.py``.
``open_model.py`` loads a model (``loading.py``), checks which attention is right for it (``probe.py``), and falls back
to ``expanded.py``. Images: ``image_prompts.py``, ``image_embedding.py``, ``image_check.py``; reward models:
``arm_loading.py``. What few models need is imported when a model needs it.
"""

from preftilt.engines.transformers.engine import TransformersEngine
from preftilt.engines.transformers.open_model import TransformersTuning, open_transformers

__all__ = ["TransformersEngine", "TransformersTuning", "open_transformers"]
