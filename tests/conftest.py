"""Array shapes are checked at run time, in the modules named here, before any of them is imported."""

from jaxtyping import install_import_hook

import tests.shapes

CHECKED = (
    "preftilt.engines.memo",
    "preftilt.eval.bootstrap",
    "preftilt.path",
    "preftilt.result",
    "preftilt.reward",
    "preftilt.run",
    "preftilt.search",
    "preftilt.streams",
    "preftilt.testing",
    "preftilt.types",
)

install_import_hook(CHECKED, f"{tests.shapes.__name__}.checked")
