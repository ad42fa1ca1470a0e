"""The bundled model and its world: questions, preferences and an exact checker."""
