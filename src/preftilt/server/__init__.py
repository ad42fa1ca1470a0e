"""An OpenAI-compatible server with the preference as a knob: ``preftilt serve``.

``wire`` is what clients send, ``resolve`` turns it into one immutable :class:`~preftilt.server.resolve.Job`, ``work``
answers it, ``replies`` and ``streaming`` say it in OpenAI's words, ``middleware`` stands around them all.
"""
