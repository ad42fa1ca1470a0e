"""Multifaceted Bench (Lee et al., 2024): system messages of several wishes, answers judged by a rubric for each."""
