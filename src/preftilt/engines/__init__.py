"""Inference engines: one contract (``base.py``), one package per engine, opened by name with ``open.py``.

Chat templates are applied in ``chat_template.py``, requests checked in ``checks.py``; an engine in this process runs
in the thread of ``worker.py``, one on a server in that of ``waiting.py``.
"""
