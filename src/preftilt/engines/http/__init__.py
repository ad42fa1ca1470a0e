"""Engines that are servers, opened by URL: ``vllm+http://…``, ``sglang+http://…``, ``openai+http://…``.

``open_server.py`` connects, finds the tokenizer and has the server probed. A dialect writes the requests that one kind
of server takes, and probes it: ``vllm.py``, ``sglang.py``, ``openai.py``; their contract is in ``dialect.py``, the JSON
that servers answer with in ``responses.py``, the fields that a server refuses in ``server_quirks.py``, tests of its
log-probs in ``logprob_checks.py``. ``engine.py`` makes an engine of any dialect, and cuts responses where they end
(``response_stream.py``); ``chat.py`` is the engine of servers that are asked by chat. ``connection.py`` is the HTTP
client, which lives in the thread of ``engines/waiting.py``.
"""
