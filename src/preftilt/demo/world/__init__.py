"""A small world of everyday recommendations, with preferences and an exact checker.

Everything in it is generated from the tables beside this module: questions, preferences in several
wordings, answers, and the verdict on an answer (helpful? violates the preference?), which needs no
judge. The bundled model was trained on conversations of this world and of nothing else.
"""

from preftilt.demo.world.atlas import (
    Recommendation,
    Topic,
    WorldPreference,
    preference,
    preferences,
    topic,
    topics,
)
from preftilt.demo.world.checking import Cause, WorldVerdict, check, judge
from preftilt.demo.world.splits import Question, Split, WorldItem, items, questions, wordings

__all__ = [
    "Cause",
    "Question",
    "Recommendation",
    "Split",
    "Topic",
    "WorldItem",
    "WorldPreference",
    "WorldVerdict",
    "check",
    "items",
    "judge",
    "preference",
    "preferences",
    "questions",
    "topic",
    "topics",
    "wordings",
]
