"""The demo world as a benchmark: exact verdicts, no judge, everything offline.

``collect`` runs a model over a split and saves one record an item; ``choose`` picks answers from records for any λ, N
and reduction, with no further model call; ``report`` turns records into tables and figures.
"""
