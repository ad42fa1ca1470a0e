"""Benchmarks: what each asks and how its answers are judged; ``*_task`` modules are their Inspect tasks."""
