"""llama.cpp in this process, over a GGUF file: the engine of people with a laptop.

The life of a request: ``engine.py`` checks it and hands it to the ``worker.py`` thread, where ``scheduler.py`` decides
what each batch holds. A batch is made of ``feeds.py``: prompts being read, completions being scored, rows being drawn
(``sampler.py``). Each owns a sequence of llama.cpp (``strands.py``) that shares its beginning with others; those worth
keeping for later calls stay in ``kept.py``. ``library.py`` is all that is called of llama.cpp, ``vocabulary.py`` its
tokenizer, and ``opening.py`` opens a file and measures with ``probe.py`` what may be promised of it.
"""

from preftilt.engines.llamacpp.engine import LlamaCppEngine
from preftilt.engines.llamacpp.opening import Tuning, open_llamacpp

__all__ = ["LlamaCppEngine", "Tuning", "open_llamacpp"]
