"""The demo world's measurement of reward models that decode: pairs, training, a sweep over preference vectors."""
