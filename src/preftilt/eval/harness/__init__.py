"""How a benchmark is built here: files and their checks, requests, methods, judges, budgets, solvers and scores.

``docs/how-to/benchmarks.md`` is the guide. ``judge`` and ``solver`` import Inspect (the extra ``eval``), so import them
only where an Inspect task is made; the others need nothing but preftilt.
"""
