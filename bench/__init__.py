"""How fast the embedded engine is, beside transformers' own ``generate`` and plain forwards: ``python -m bench``."""
