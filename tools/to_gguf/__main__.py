"""Writes a model of transformers (Llama or Qwen2, weights in safetensors) as a GGUF file.

    python -m tools.to_gguf demo out/demo.gguf                the bundled model, float32
    python -m tools.to_gguf FOLDER out/model.gguf --type q8_0

Needs the package's ``transformers`` extra. Everything is held in memory: for
large models, and for other architectures and tokenizers, use llama.cpp's own ``convert_hf_to_gguf.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from preftilt.engines.models import model_folder
from tools.to_gguf.export import TYPES, export_gguf
from tools.to_gguf.vocabulary import CannotExport


def main() -> int:
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="python -m tools.to_gguf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="demo, or a folder with a model of transformers")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--type", choices=TYPES, default="f32", help="of the weight matrices")
    options = parser.parse_args()
    try:
        export_gguf(Path(model_folder(options.model)), options.out, options.type)
    except CannotExport as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
