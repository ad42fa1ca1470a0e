"""How a benchmark is built here: files and their checks, requests, methods, judges, budgets, solvers and scores.

``docs/how-to/benchmarks.md`` is the guide. Modules named below need nothing but preftilt; ``judge``, ``solver`` and
``scores`` import Inspect (the extra ``eval``), so import them only where an Inspect task is made.
"""
