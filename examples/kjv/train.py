"""Train both character models on the King James Version and export them.

    python examples/kjv/train.py --output DIR

Both are trained in float32 on windows of the text that begin with an empty state, and exported as
they are: the core's DLFloat16 rounds the weights when a network is read. The text held out serves
to report bits a character, and for nothing else.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import dataset
import numpy as np

try:
    import torch
except ImportError as missing:
    sys.exit(f"{missing.name} is not installed: training needs `pip install ulpcore[train]`.")

from model import MODELS, STEPS
from torch import nn
from torch.nn import functional

BATCH = 64
#: Characters of a training window, optimiser steps, and the peak of the learning rate.
RECIPES = {"lstm": (64, 20000, 8e-3), "attention": (STEPS, 40000, 4e-3)}
WEIGHT_DECAY = 1e-2


def windows(text: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
    """A batch of windows [BATCH, length + 1] from anywhere in the text."""
    first = torch.randint(0, len(text) - length - 1, (BATCH, 1), generator=generator)
    return text[first + torch.arange(length + 1)]


def loss_of(model: nn.Module, characters: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each next character, in nats."""
    logits = model(characters[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), characters[:, 1:].flatten())


@torch.no_grad()
def bits_per_character(model: nn.Module, text: torch.Tensor) -> float:
    """Of windows of STEPS characters, one behind the other, each with an empty state."""
    count = (len(text) - 1) // STEPS
    cut = text[torch.arange(count)[:, None] * STEPS + torch.arange(STEPS + 1)]
    losses = [float(loss_of(model, part)) * len(part) for part in cut.split(512)]
    return sum(losses) / count / float(np.log(2))


def train(name: str, text: torch.Tensor, held_out: torch.Tensor, seed: int) -> nn.Module:
    """One-cycle AdamW training."""
    length, steps, rate = RECIPES[name]
    torch.manual_seed(seed)
    model = MODELS[name]()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, steps, pct_start=0.1, cycle_momentum=False)
    total, start = 0.0, time.monotonic()
    for step in range(1, steps + 1):
        loss = loss_of(model, windows(text, length, generator))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += loss.item()
        if step % 500 == 0:
            print(f"{name}  step {step}/{steps}  training {total / 500 / np.log(2):.3f}  held out "
                  f"{bits_per_character(model, held_out[:65536]):.3f} bits a character  "
                  f"{time.monotonic() - start:.0f} s", flush=True)
            total = 0.0
    return model


def export(model: nn.Module, folder: Path, notes: dict[str, object]) -> None:
    """Write NAME.json and NAME.npz."""
    layers, arrays = model.describe()
    description = {
        "name": model.name, **notes,
        "input": {"name": "characters", "steps": STEPS, "symbols": dataset.SYMBOLS},
        "layers": layers}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{model.name}.json").write_text(json.dumps(description, indent=1) + "\n")
    np.savez_compressed(folder / f"{model.name}.npz", allow_pickle=False, **arrays)


def main() -> int:
    """Train what the command line asks for."""
    parser = argparse.ArgumentParser(description="Train and export the character models.")
    parser.add_argument("--text", type=Path, help="file that `bible -f gen1:1-rev22:21` wrote "
                        "(default: run it)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent,
                        help="folder for the results")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        training, held_out = dataset.split(dataset.read_text(arguments.text))
    except dataset.TextMissingError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / dataset.SAMPLE_FILE.name).write_text(
        held_out[:dataset.SAMPLE_SIZE], encoding="ascii")
    text, rest = (torch.from_numpy(dataset.encode(part)).long() for part in (training, held_out))
    for name in arguments.models:
        model = train(name, text, rest, arguments.seed)
        bits = bits_per_character(model, rest)
        export(model, arguments.output / "parameters", {
            "seed": arguments.seed,
            "held_out_bits_per_character": round(bits, 4)})
        print(f"{name}: {bits:.4f} bits a character held out, windows of {STEPS} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
