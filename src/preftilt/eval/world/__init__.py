"""The demo world as a benchmark: the bundled model's questions, checked exactly, without a judge."""
