"""``python -m bench [--quick] [--device cuda]``: measure, print the table, save it; about ten minutes on two cores.

``--models smollm2 --out docs/bench/smollm2`` measures a real model; ``smollm2-bf16`` is the same in bfloat16.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
import time
import warnings
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from bench.figures import Bench, Effort
from bench.models import REAL, SIZES, subject
from bench.report import AIMS, REAL_AIMS, MeasuredModel, circumstances, markdown, save


def main() -> None:
    options = _options()
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    facts = circumstances(options.device, options.seed, command)
    effort = Effort(1, 0) if options.quick else Effort(options.repeats, options.seconds)
    began = time.perf_counter()

    def say(words: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {words}", file=sys.stderr, flush=True)

    measured: list[MeasuredModel] = []
    for name in options.models or _usual(options.device, options.quick):
        say(f"{name}: loading")
        loaded = subject(name, options.device)
        aims = REAL_AIMS.get(name, AIMS[options.device])
        figures = Bench(loaded, options.seed, say).figures(effort, aims)
        loaded.engine.close()
        kernels = loaded.engine.kernels
        measured.append(MeasuredModel(name, loaded.parameters, kernels, figures))
        save(options.out, options.device, facts, measured)
        del loaded
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
    say(f"done; {options.out}/{options.device}.md is written")
    print(markdown(options.device, facts, measured))


def _usual(device: str, quick: bool) -> list[str]:
    if device == "cuda":
        return ["qwen2-7b"]
    return ["bundled", "qwen2-20m"] if quick else ["bundled", "qwen2-20m", "qwen2-100m"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the bundled and the 20 M model only, one value a figure",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--models",
        nargs="*",
        choices=("bundled", *SIZES, *REAL),
        help="these instead of the usual ones",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="most values a figure; the median counts"
    )
    parser.add_argument(
        "--seconds", type=float, default=45.0, help="no further value of a figure after so long"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/bench"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
