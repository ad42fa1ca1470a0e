"""Measuring: what a method does to answers, with intervals, on data whose truth is known or judged."""
