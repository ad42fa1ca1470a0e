"""How fast serving is, beside the same upstream alone and beside neighbours: ``python -m bench.serving``."""
