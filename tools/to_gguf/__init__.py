"""Writes a Llama or Qwen2 model of transformers as a GGUF file; see ``python -m tools.to_gguf --help``."""

from tools.to_gguf.export import export_gguf
from tools.to_gguf.vocabulary import CannotExport

__all__ = ["CannotExport", "export_gguf"]
