"""Gradients of a small convolutional network that learns the embedded sample of Fashion-MNIST."""

from pathlib import Path

import numpy as np
from ulpsim.small_network import SmallNetwork

__all__ = ["train"]

IMAGES = Path(__file__).parents[1] / "examples" / "fashion_mnist" / "images.npz"


def train(rng: np.random.Generator, steps: int, batch: int = 32
          ) -> tuple[list[dict[str, np.ndarray]], list[float]]:
    """The gradients of every step, a float32 vector a layer (weights and bias), and the losses."""
    with np.load(IMAGES) as data:
        images, labels = data["images"], data["labels"].astype(int)
    network = SmallNetwork(rng)
    gradients, losses = [], []
    for _ in range(steps):
        chosen = rng.integers(0, len(images), batch)
        step, loss = network.gradients(images[chosen], labels[chosen])
        network.descend(step, 0.3)
        gradients.append(step)
        losses.append(loss)
    return gradients, losses
