"""Inference engines: one contract (``base.py``), one package per engine, opened by name with ``open.py``.

Chat templates are applied in ``chat_template.py``. Optional abilities of an engine: streams (``streaming.py``), guided
decoding (``guides.py``), log-probs under guided decoding (``normalises.py``), progress and pings (``base.py``).
"""
