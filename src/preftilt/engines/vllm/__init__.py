"""vLLM in this process.

``start_vllm.py`` starts vLLM and measures what is right for it; ``engine.py`` turns requests into sequences
(``sequences.py``), which the one thread of ``worker.py`` puts through vLLM, all of them together.
"""

from preftilt.engines.vllm.engine import VllmEngine
from preftilt.engines.vllm.start_vllm import open_vllm

__all__ = ["VllmEngine", "open_vllm"]
