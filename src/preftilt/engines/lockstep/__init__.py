"""Guided decoding inside vLLM: the views of a response are requests of their own, which step as one group.

``member_params.py`` says what every member of a group carries with it, ``rows.py`` turns a batch's logits into the
groups' next tokens (``race.py`` draws them), ``processor.py`` is that as vLLM loads it. ``groups.py`` is the other
side: it asks for a group, takes only what all its members drew in the same step, and asks again for
what did not come in step. ``limits.py`` refuses what can never come in step, and keeps groups from being in
each other's way.
"""
