"""The experiments of the REAR paper, a command each: ``preftilt reproduce table1 … fig6``.

::

    benchmark   what is asked and how answers are judged (``benchmarks.py``: the table; one entry a benchmark)
    measuring   parts.py: what is measured on an item; collecting.py: many items, several processes, resumable
    methods     every method of the tables, as what it picks from the records; no further model call
    verdicts    exact checks, or a judge through Inspect (``judging.py``), for the answers that were picked
    numbers     tables.py and curves.py: intervals, paired p-values, costs
    report      report.py and notes.py: the words; document.py: Markdown and HTML; figures.py
"""
