"""Inference engines: one contract (``base.py``), one package or file an engine, opened by ``open.py``."""
