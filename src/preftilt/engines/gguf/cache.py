"""The cache folder of converted models: keyed by the source file, bounded in size, safe for several processes.

One folder per conversion, named after the file, its path, its state (size and modification time) and the versions that
converted it. It is written under another name and renamed when complete, so that a folder with the name is complete.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from preftilt.errors import BadInput

LOG = logging.getLogger("preftilt.engines.gguf")

FOLDER_VARIABLE = "PREFTILT_CACHE"
"""Environment variable: the cache folder, in place of the platform's own."""

BOUND_VARIABLE = "PREFTILT_CACHE_GIB"
"""Environment variable: the maximum size of the cache, in GiB."""

BOUND_GIB = 20.0

IN_USE_SECONDS = 600.0
"""A conversion used within so many seconds may be loading just now, and is not evicted."""

PARTIAL = ".partial"
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The cache key of a conversion. source: the file. version: of the converter."""

    source: Path
    version: str

    @property
    def file_key(self) -> str:
        """The same for every state of the file."""
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", self.source.stem)[:60]
        return f"{stem}-{_digest(str(self.source.resolve()))}"

    @property
    def state_key(self) -> str:
        """The same for every version that converts this state of the file."""
        stat = self.source.stat()
        return f"{self.file_key}-{_digest(f'{stat.st_size} {stat.st_mtime_ns}')}"

    @property
    def key(self) -> str:
        """The name of the folder."""
        return f"{self.state_key}-{self.version}"

    def replaces(self, place: Path) -> bool:
        """Whether a folder is the conversion of an earlier state of the file."""
        of_file = place.name.startswith(f"{self.file_key}-")
        return of_file and not place.name.startswith(f"{self.state_key}-")


def cache_folder() -> Path:
    """Where conversions are kept: ``$PREFTILT_CACHE``, or ``preftilt`` in the platform's folder for caches."""
    named = os.environ.get(FOLDER_VARIABLE)
    return (Path(named).expanduser() if named else user_cache_path("preftilt")) / "gguf"


def cache_bound() -> int:
    """Maximum size of the cache in bytes. Raises :class:`~preftilt.errors.BadInput` if the variable holds no number."""
    named = os.environ.get(BOUND_VARIABLE)
    try:
        gib = float(named) if named else BOUND_GIB
    except ValueError:
        gib = -1.0
    if not 0 < gib < float("inf"):
        raise BadInput(f"{BOUND_VARIABLE} is {named!r}; give a size in GiB above 0")
    return int(gib * GIB)


def find_conversion(conversion: Conversion) -> Path | None:
    """The folder of an existing conversion, whose time of last use is updated if possible; None if there is none."""
    place = cache_folder() / conversion.key
    if not place.is_dir():
        return None
    with suppress(OSError):
        os.utime(place)
    return place


def make_conversion(conversion: Conversion, size: int, convert: Callable[[Path], None]) -> Path:
    """Make the folder of ``conversion``: ``convert`` writes about ``size`` bytes into the folder that it is given.

    Waits for another process that is making it. Raises :class:`~preftilt.errors.BadInput` if the cache cannot be
    written or is too small.
    """
    root = cache_folder()
    with _only_writer(root):
        place = find_conversion(conversion)
        if place is not None:  # Another process made it while this one waited.
            return place
        place = root / conversion.key
        partial = root / f"{place.name}{PARTIAL}"
        with _writable(root, size):
            _make_room(root, conversion, size)
            LOG.warning(
                "converting %s (once; %.1f GB, kept in %s)", conversion.source, size / 1e9, root
            )
            try:
                convert(partial)
                partial.rename(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return place


@contextmanager
def _only_writer(root: Path) -> Iterator[None]:
    """Lock the cache for writing; other processes wait, with a warning."""
    with _writable(root, 0):
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            LOG.warning("waiting for another process that converts a model into %s", root)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writable(root: Path, size: int) -> Iterator[None]:
    """Translate write errors into messages with a remedy."""
    try:
        yield
    except OSError as error:
        needed = f" with {size / 1e9:.1f} GB free" if size else ""
        raise BadInput(
            f"the cache folder {root} cannot be written ({error.strerror or error}); name another{needed} in the"
            f" environment variable {FOLDER_VARIABLE}"
        ) from error


def _make_room(root: Path, conversion: Conversion, size: int) -> None:
    """Evict partial conversions, those of earlier states of the file, then the least recently used."""
    bound = cache_bound()
    if size > bound:
        raise BadInput(
            f"{conversion.source.name} takes {size / 1e9:.1f} GB when converted, more than the cache may; give more GiB"
            f" in the environment variable {BOUND_VARIABLE} (now {bound / GIB:g}), or open the file by llama.cpp, which"
            f" reads it as it is: llamacpp:{conversion.source}"
        )
    others = [path for path in root.iterdir() if path.is_dir()]
    dead = [path for path in others if path.name.endswith(PARTIAL) or conversion.replaces(path)]
    for path in dead:
        shutil.rmtree(path, ignore_errors=True)
        others.remove(path)
    used = {path: path.stat().st_mtime for path in others}
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in others}
    total = size + sum(sizes.values())
    for path in sorted(others, key=used.__getitem__):
        if total <= bound or time.time() - used[path] < IN_USE_SECONDS:
            break
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]
    free = shutil.disk_usage(root).free
    if free < size:
        raise BadInput(
            f"the cache folder {root} has {free / 1e9:.1f} GB free, and {conversion.source.name} takes {size / 1e9:.1f}"
            f" GB when converted; make room, or name another folder in the environment variable {FOLDER_VARIABLE}"
        )


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:10]
