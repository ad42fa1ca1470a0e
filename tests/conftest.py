"""Array shapes are checked at run time, in the modules named here, before any of them is imported.

Properties are checked on fifty examples, without a limit of time: how long an example takes says more about the machine
than about us.
"""

from hypothesis import settings
from jaxtyping import install_import_hook

import tests.shapes

CHECKED = (
    "preftilt.engines.memo",
    "preftilt.eval.stats",
    "preftilt.path",
    "preftilt.result",
    "preftilt.reward",
    "preftilt.run",
    "preftilt.search",
    "preftilt.streams",
    "preftilt.testing",
    "preftilt.types",
)

settings.register_profile("quick", deadline=None, max_examples=50)
settings.load_profile("quick")
install_import_hook(CHECKED, f"{tests.shapes.__name__}.checked")
