"""Policy accuracy: how often a scoring rule ranks a preferred response above a dispreferred one.

A reward model may rank pairs well and the decoding that it steers may not (Rezk et al., "The Reward Model Selection
Crisis in Personalized Alignment", arXiv 2512.23067). Here both are measured on the same pairs, before anything is
deployed, and without generating anything. What the same methods generate stands beside it (``behaviour``).
"""
