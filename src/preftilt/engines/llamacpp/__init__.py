"""llama.cpp in this process, over a GGUF file: the engine for laptops.

The life of a request: ``engine.py`` checks it and hands it to the thread of ``engines/worker.py``, where
``scheduler.py`` decides what each batch holds. A batch is made of ``batch_tasks.py``: prompts being prefilled,
completions being scored, responses being sampled (``sampler.py``). Each owns a sequence of llama.cpp that shares its
prefix with others, and may be kept for later calls (``sequences.py``). ``bindings.py`` holds every call of llama.cpp,
``vocabulary.py`` its tokenizer, and ``open_gguf.py`` opens a file and measures with ``probe.py`` what may be promised.
"""

from preftilt.engines.llamacpp.engine import LlamaCppEngine
from preftilt.engines.llamacpp.open_gguf import LlamaCppTuning, open_llamacpp

__all__ = ["LlamaCppEngine", "LlamaCppTuning", "open_llamacpp"]
