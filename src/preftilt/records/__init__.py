"""JSON lines in and out: checked rows, and an output file that survives being killed."""
