"""``python -m bench [--quick] [--device cuda]``: measure, print the table, save it.

About ten minutes on two cores. On a GPU under five, with random weights of 0.5 and 7 billion parameters made there:
``--device cuda --dry-run`` takes the same way with tiny models on the CPU, and saves nothing.
``--models smollm2 --out docs/bench/smollm2`` measures a real model; ``smollm2-bf16`` is the same in bfloat16.
"""

from __future__ import annotations

import argparse
import gc
import math
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from bench.figures import NEW_TOKENS, Bench, Effort
from bench.models import REAL, SIZES, subject
from bench.report import AIMS, REAL_AIMS, MeasuredModel, circumstances, markdown, save

GPU_SECONDS = 240.0
"""On a GPU no figure is begun after so long, so that the whole takes less than five minutes."""

GPU_FIGURE_SECONDS = 10.0
"""And no further value of a figure after so long."""

DRY_RUN_TOKENS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; exit code 2 if the device is not there, before anything is loaded or made."""
    options = _options(arguments)
    on_gpu = options.device == "cuda" and not options.dry_run
    if on_gpu and not torch.cuda.is_available():
        print(
            "python -m bench --device cuda: torch finds no CUDA device here, so nothing is measured"
            " (--dry-run takes the same way on the CPU)",
            file=sys.stderr,
        )
        raise SystemExit(2)
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    where = "cuda" if on_gpu else "cpu"
    flags = sys.argv[1:] if arguments is None else arguments
    facts = circumstances(where, options.seed, shlex.join(["python", "-m", "bench", *flags]))
    began = time.perf_counter()

    def say(words: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {words}", file=sys.stderr, flush=True)

    until = began + GPU_SECONDS if options.device == "cuda" else math.inf
    measured: list[MeasuredModel] = []
    for name in options.models or _usual(options.device, options.quick):
        measured.append(_measure(name, where, options, until, say))
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
        if not options.dry_run:
            save(options.out, options.device, facts, measured)
    if not options.dry_run:
        say(f"done; {options.out}/{options.device}.md is written")
    print(markdown(options.device, facts, measured))


def _measure(
    name: str, where: str, options: argparse.Namespace, until: float, say: Callable[[str], None]
) -> MeasuredModel:
    """All figures of a model, which is gone then."""
    say(f"{name}: loading")
    loaded = subject(name, where, dry_run=options.dry_run)
    seconds = options.seconds
    if seconds is None:
        seconds = GPU_FIGURE_SECONDS if options.device == "cuda" else 45.0
    once = options.quick or options.dry_run
    bench = Bench(
        loaded,
        options.seed,
        say,
        new_tokens=DRY_RUN_TOKENS if options.dry_run else NEW_TOKENS,
        until=until,
    )
    figures = bench.figures(
        Effort(1, 0) if once else Effort(options.repeats, seconds),
        REAL_AIMS.get(name, AIMS[options.device]),
    )
    loaded.engine.close()
    bench.subject.engine.close()
    return MeasuredModel(
        name,
        loaded.parameters,
        loaded.engine.kernels,
        figures,
        loaded.engine.versions.get("attention_kernel", ""),
    )


def _usual(device: str, quick: bool) -> list[str]:
    if device == "cuda":
        return ["qwen2-0.5b"] if quick else ["qwen2-0.5b", "qwen2-7b"]
    return ["bundled", "qwen2-20m"] if quick else ["bundled", "qwen2-20m", "qwen2-100m"]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the smaller models only (on a GPU the smallest), one value a figure",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="what --device cuda does, with tiny models on the CPU; nothing is saved",
    )
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
        "--seconds",
        type=float,
        help="no further value of a figure after so long (45; on a GPU 10)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/bench"))
    options = parser.parse_args(arguments)
    if options.dry_run and options.device != "cuda":
        parser.error("--dry-run tries out --device cuda; name both")
    return options


if __name__ == "__main__":
    main()
