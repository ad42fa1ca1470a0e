"""Engines that are servers, opened by URL: ``vllm+http://…``, ``sglang+http://…``, ``openai+http://…``.

``opening.py`` connects, finds the tokenizer and has the server probed. A dialect knows how its kind of server is asked,
and probes it: ``vllm.py``; ``sglang.py``; ``completions.py`` with its probe in ``openai.py``; ``chat.py``, for which
``remembering.py`` keeps conversations. What all dialects must do is in ``dialect.py``, what servers answer in
``answers.py``, how their log-probs are put to the test in ``measures.py``. ``engine.py`` makes an engine of any
dialect, on the connections of ``connection.py``, which live in the thread of ``engines/loop.py``.
"""
