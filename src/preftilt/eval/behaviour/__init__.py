"""Behaviour against the user's own words: what methods generate, beside what the user wrote.

After the direct behavioural evaluation of Rezk et al. ("The Reward Model Selection Crisis in Personalized Alignment",
arXiv 2512.23067): a user's past examples and the true completion are given, answers are compared with it by ROUGE, and
the methods' discrimination (:mod:`preftilt.eval.accuracy`) stands beside their generation.
"""
