"""Trains the bundled model from scratch on the demo world: ``python -m tools.train_demo``."""
