"""Converts a GGUF file, with transformers' own reader, to a cached folder that transformers and vLLM can open."""

from __future__ import annotations

import math
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

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

    from preftilt.engines.gguf.cache import Conversion, find_conversion, make_conversion

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
