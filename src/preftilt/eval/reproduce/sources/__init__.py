"""Benchmarks as experiments see them: requests and verdicts, made from the benchmarks' own data and scorers."""
