"""The experiments of the REAR paper, a command each: ``preftilt reproduce table1 … fig6``.

::

    benchmarks  what is asked and how answers are judged: ``eval/benchmarks``, one file each
    measuring   parts.py: what is measured on an item; collecting.py: many items, several processes, resumable
    methods     every method of the tables, as what it picks from the records; no further model call
    verdicts    exact checks, or a judge through Inspect (``harness/judge.py``), for the answers that were picked
    numbers     rows of tables and points of curves: intervals, paired p-values, costs
    report      report.py: the words; ``eval/report.py``: Markdown and HTML; figures.py
"""
