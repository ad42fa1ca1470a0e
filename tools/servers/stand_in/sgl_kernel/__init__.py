"""A stand-in for SGLang's kernel package, which is built for GPUs only. A test vehicle, and nothing else.

SGLang imports dozens of kernels when it starts, and calls none of them with ``--device cpu``, ``torch_native``
attention and ``pytorch`` sampling. So every name exists here, and every call fails loudly. Scheduler, prefix cache,
log-probs and HTTP of the server that starts are SGLang's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.0.0+stand.in"

ABSENT = ("sgl_kernel.scalar_type",)
"""SGLang has a replacement of its own for these, which it takes when they cannot be imported."""


def missing(module: str, name: str) -> Callable[..., Any]:
    """A kernel that says what it is when it is called."""

    def kernel(*_: object, **__: object) -> Any:
        raise NotImplementedError(
            f"{module}.{name} was called, which only the real sglang-kernel has; this is the stand-in for tests on a"
            " CPU: start the server as tools/servers does"
        )

    kernel.__name__ = name
    return kernel


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)
    return missing(__name__, name)


class _Everything(MetaPathFinder, Loader):
    """Finds every submodule, and fills it with kernels that fail."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{__name__}.") or fullname in ABSENT:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        def kernel_of(name: str) -> Callable[..., Any]:
            if name.startswith("__"):
                raise AttributeError(name)
            return missing(module.__name__, name)

        vars(module)["__getattr__"] = kernel_of


sys.meta_path.append(_Everything())
