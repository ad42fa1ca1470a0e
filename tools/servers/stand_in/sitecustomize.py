"""Python runs this first in the SGLang server of the tests, since ``tools/servers`` puts its folder on the path.

The package index has torchvision only as built for CUDA; beside a CPU build of torch it fails at its first line, where
it adds fake versions of two operators that its compiled half would have defined. Declaring them is enough: nobody calls
them, as no test shows the server a picture. They are declared when torchvision is imported, not before, since this file
runs in every helper process too and torch is slow to import.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _Declares(MetaPathFinder):
    """Steps in front of the import of torchvision, declares the operators, and steps away."""

    library: Any = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            _Declares.library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                _Declares.library.define(name + SIGNATURE)
        return None


sys.meta_path.insert(0, _Declares())
