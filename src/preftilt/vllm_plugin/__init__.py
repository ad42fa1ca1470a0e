"""preftilt inside the user's own ``vllm serve``: ``VLLM_PLUGINS=preftilt vllm serve MODEL``.

vLLM loads what pyproject.toml names: ``entry.py`` refuses a vLLM that has no place for plugins, and adds the knob to
``/v1/chat/completions`` (``route.py``). Requests that turn it are answered by :mod:`preftilt.server`, on an engine that
asks the vLLM that is running anyway (``opening.py``, ``client.py``); all others are vLLM's, as they were.
"""
