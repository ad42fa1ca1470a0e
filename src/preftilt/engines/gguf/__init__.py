"""GGUF files: finds the file of a name, and converts it for transformers and vLLM into a cache folder.

llama.cpp reads such a file as it is. For the other engines it is converted once, by transformers' own reader: weights
in float32, config, tokenizer, chat template and end-of-turn token, all from the file.
"""

from preftilt.engines.gguf.files import gguf_in

__all__ = ["gguf_in"]
