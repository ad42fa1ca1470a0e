"""vLLM in this process.

``start_vllm.py`` starts vLLM and measures whether its log-probs and prefix cache can be used; ``engine.py`` turns
requests into sequences (``sequences.py``), which the thread of ``worker.py`` runs in vLLM, all in one batch.
"""

from preftilt.engines.vllm.engine import VllmEngine
from preftilt.engines.vllm.start_vllm import open_vllm

__all__ = ["VllmEngine", "open_vllm"]
