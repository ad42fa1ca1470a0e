"""Trains the bundled model from scratch on the demo world and writes it as a transformers model.

    python -m tools.train_demo                          the bundled model
    python -m tools.train_demo --seed 1 --out DIR       another seed of the same recipe
    python -m tools.train_demo --control --out DIR      the control world, without the habit

Progress goes to standard error. A checkpoint that loads as the finished model does is written every
``--every`` steps.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer

from preftilt.demo.world.conversations import CONTROL, WORLD, Mix
from tools.train_demo.export import save_model
from tools.train_demo.network import Network, Size
from tools.train_demo.optimizer import Recipe, make_optimizers, rate
from tools.train_demo.packing import Batch, batches, sample_texts
from tools.train_demo.vocabulary import save_tokenizer, train_tokenizer

BUNDLED = Path(__file__).parents[2] / "src" / "preftilt" / "demo" / "model"

TOKENIZER_SEED = "tokenizer"
"""All models share a tokenizer, so that they differ in weights alone."""

REPORT_EVERY = 50


def main() -> None:
    options = _options()
    recipe = Recipe(steps=options.steps)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)

    size = Size()
    tokenizer = train_tokenizer(sample_texts(TOKENIZER_SEED, WORLD), size.vocabulary)
    save_tokenizer(tokenizer, options.out, size.context)
    source = _source(tokenizer, options.seed, recipe, CONTROL if options.control else WORLD)
    network = Network(size, recipe.length)
    count = sum(weight.numel() for weight in network.parameters())
    _say(f"{count / 1e6:.2f} M parameters, {recipe.steps} steps of {recipe.tokens} tokens")
    for step in _train(network, source, recipe):
        if step % options.every == 0 or step == recipe.steps:
            save_model(network, tokenizer, options.out)


def _train(network: Network, source: Iterator[Batch], recipe: Recipe) -> Iterator[int]:
    """Takes a step for each batch of the source; yields its number, from 1."""
    optimizers = make_optimizers(network, recipe)
    step_loss = torch.compile(network, dynamic=False)
    began, seen, average = time.perf_counter(), 0, 0.0
    for step, batch in enumerate(source, start=1):
        loss = step_loss(batch.ids, batch.positions, batch.document, batch.weight)
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate(step, recipe)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen += int((batch.document >= 0).sum())
        average = loss.item() if step == 1 else 0.98 * average + 0.02 * loss.item()
        if step % REPORT_EVERY == 0 or step == recipe.steps:
            seconds = time.perf_counter() - began
            _say(
                f"step {step}: loss {average:.4f}, {seen / 1e6:.2f} M tokens,"
                f" {seen / seconds:.0f} tokens/s, {seconds / 60:.1f} min"
            )
        yield step


def _source(tokenizer: Tokenizer, seed: int, recipe: Recipe, mix: Mix) -> Iterator[Batch]:
    """As many batches as there are steps: the first part with drills, the rest answers alone."""
    drills = replace(mix, listed=0.8, warned=0.2, habit=0.0)
    shape = (recipe.rows, recipe.length)
    first = round(recipe.drills * recipe.steps)
    yield from islice(batches(tokenizer, f"drills {seed}", drills, *shape), first)
    yield from islice(batches(tokenizer, f"answers {seed}", mix, *shape), recipe.steps - first)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_demo", description="Train the bundled model from scratch."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--control", action="store_true", help="the world without the habit")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
