"""Converts a GGUF file, with transformers' own reader, to a folder that transformers and vLLM can open.

llama.cpp reads such a file as it is. For the other engines it is converted once: weights in float32, config, tokenizer,
chat template and end-of-turn token, all from the file. Conversions are kept in a cache folder, which is bounded in size
and safe for several processes: one folder a conversion, named after the file, its path, its state (size and
modification time) and the versions that converted it. It is written under another name and renamed when complete.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from preftilt.engines.models import FOLDER_VARIABLE, cache_folder
from preftilt.errors import BadInput, MissingPackage, PreftiltError, first_line

NEEDED = ("torch", "transformers", "gguf", "accelerate", "filelock", "platformdirs")

DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "minerva-7b"})
"""Values of ``tokenizer.ggml.pre`` for which llama.cpp cuts before and after every digit, and then as GPT-2 does.

transformers 5.19 reads them as GPT-2's own, and makes other tokens of ½ or ²."""

FORMAT = 1
"""Version of the written format; a new number converts every file again."""


def converted(path: Path) -> Path:
    """The folder with the model of the GGUF file ``path``; converting takes a while the first time, and is logged.

    Weights are float32, which represents every quantised weight exactly, as 16 bits do not. Raises
    :class:`~preftilt.errors.BadInput` for a file that is damaged or that transformers cannot read, and where the cache
    cannot be written; :class:`~preftilt.errors.MissingPackage`.
    """
    for package in NEEDED:
        if find_spec(package) is None:
            raise MissingPackage(
                f'{path.name} is converted with {package}: pip install "preftilt[transformers]"'
            )
    import transformers

    version = f"transformers-{transformers.__version__}-{FORMAT}"
    conversion = Conversion(source=path, version=version)
    return find_conversion(conversion) or make_conversion(
        conversion, 4 * _parameters(path), lambda folder: _convert(path, folder)
    )


def _parameters(path: Path) -> int:
    """The number of parameters by the file's header, which is checked against the file's length."""
    from transformers.integrations.gguf.reader import GgufHeader

    try:
        header = GgufHeader.from_file(str(path))
        end = max(header.data_start + tensor.offset + tensor.nbytes for tensor in header.tensors)
    except Exception as error:  # The reader may raise anything for a damaged header.
        raise BadInput(
            f"{path} cannot be read as a GGUF file ({error}); it may have been cut off on its way: get it again"
        ) from error
    if end > path.stat().st_size:
        raise BadInput(
            f"{path} has {path.stat().st_size} bytes of {end}; it was cut off on its way: get it again"
        )
    return sum(math.prod(tensor.shape) for tensor in header.tensors)


def _convert(path: Path, folder: Path) -> None:
    from safetensors import SafetensorError

    from preftilt.engines.transformers.loading import quiet_transformers

    try:
        with (
            quiet_transformers(),
            redirect_stderr(StringIO()),
        ):  # This progress bar cannot be turned off otherwise.
            model, tokenizer = _loaded(path)
            _save(model, tokenizer, folder)
    except (PreftiltError, OSError):
        raise  # Disk errors: the cache adds a remedy.
    except SafetensorError as error:
        raise OSError(str(error)) from error
    except MemoryError as error:
        raise BadInput(
            f"{path} does not fit into memory in float32; open it by llama.cpp, which reads it as it is:"
            f" llamacpp:{path}"
        ) from error
    except Exception as error:  # transformers may raise anything for files that it cannot read.
        raise BadInput(
            f"transformers cannot read {path}: {first_line(error)}; llama.cpp may: llamacpp:{path}"
        ) from error


def _loaded(path: Path) -> tuple[Any, Any]:
    """The model in float32 and its tokenizer."""
    import torch
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers.integrations.gguf.reader import read_gguf_metadata

    metadata, _ = read_gguf_metadata(str(path))
    if "tokenizer.ggml.tokens" not in metadata:
        raise BadInput(f"{path} holds no tokenizer; name a file that was converted with one")
    where: Any = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    config = transformers.AutoConfig.from_pretrained(**where)
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    if metadata.get("tokenizer.ggml.pre") in DIGITS_APART:
        cut = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(cut)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **where,
        config=config,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    named = sorted({end for end in ends if end is not None})
    model.generation_config.eos_token_id = named or None
    return model, tokenizer


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the folder; the config is rebuilt, since transformers refuses to save one that says GGUF."""
    values = model.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        values.pop(name, None)
    model.config = type(model.config).from_dict(values)
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


LOG = logging.getLogger("preftilt.engines.gguf")

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


def conversions_folder() -> Path:
    """Where conversions are kept."""
    return cache_folder() / "gguf"


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
    place = conversions_folder() / conversion.key
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
    root = conversions_folder()
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
    from filelock import FileLock, Timeout

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
