"""Gradients of a small convolutional network that learns the embedded sample of Fashion-MNIST."""

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

__all__ = ["train"]

IMAGES = Path(__file__).parents[1] / "examples" / "fashion_mnist" / "images.npz"


def _windows(x: np.ndarray) -> np.ndarray:
    """3 x 3 windows of x (images, height, width, channels), padded with zeros: rows of a matrix."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(*x.shape[:3], -1)


def _spread(windows: np.ndarray, channels: int) -> np.ndarray:
    """What `_windows` takes apart, added together again."""
    images, height, width, _ = windows.shape
    parts = windows.reshape(images, height, width, 3, 3, channels)
    padded = np.zeros((images, height + 2, width + 2, channels), windows.dtype)
    for i in range(3):
        for j in range(3):
            padded[:, i:i + height, j:j + width] += parts[:, :, :, i, j]
    return padded[:, 1:-1, 1:-1]


def _pool(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean(axis=(2, 4))


def _unpool(x: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(x, 2, axis=1), 2, axis=2) / 4


def train(rng: np.random.Generator, steps: int, batch: int = 32
          ) -> tuple[list[dict[str, np.ndarray]], list[float]]:
    """The gradients of every step, a float32 vector a layer (weights and bias), and the losses."""
    with np.load(IMAGES) as data:
        images = data["images"].reshape(-1, 28, 28, 1).astype(np.float32) / 255
        labels = data["labels"].astype(int)
    shapes = {"conv1": (9, 8), "conv2": (72, 16), "fc1": (784, 64), "fc2": (64, 10)}
    weights = {name: (rng.standard_normal(shape) * np.sqrt(2 / shape[0])).astype(np.float32)
               for name, shape in shapes.items()}
    biases = {name: np.zeros(shape[1], np.float32) for name, shape in shapes.items()}
    gradients, losses = [], []
    for _ in range(steps):
        chosen = rng.integers(0, len(images), batch)
        x, y = images[chosen], labels[chosen]
        w1 = _windows(x)
        a1 = w1 @ weights["conv1"] + biases["conv1"]
        w2 = _windows(_pool(np.maximum(a1, 0)))
        a2 = w2 @ weights["conv2"] + biases["conv2"]
        flat = _pool(np.maximum(a2, 0)).reshape(batch, -1)
        a3 = flat @ weights["fc1"] + biases["fc1"]
        hidden = np.maximum(a3, 0)
        logits = hidden @ weights["fc2"] + biases["fc2"]
        logits -= logits.max(axis=1, keepdims=True)
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses.append(float(-np.log(share[np.arange(batch), y]).mean()))

        d4 = (share - np.eye(10, dtype=np.float32)[y]) / batch
        d3 = (d4 @ weights["fc2"].T) * (a3 > 0)
        d2 = _unpool((d3 @ weights["fc1"].T).reshape(batch, 7, 7, 16)) * (a2 > 0)
        d1 = _unpool(_spread(d2 @ weights["conv2"].T, 8)) * (a1 > 0)
        step = {}
        for name, inputs, outer in (("conv1", w1, d1), ("conv2", w2, d2), ("fc1", flat, d3),
                                    ("fc2", hidden, d4)):
            inputs, outer = (v.reshape(-1, v.shape[-1]) for v in (inputs, outer))
            dw, db = inputs.T @ outer, outer.sum(axis=0)
            step[name] = np.concatenate([dw.ravel(), db]).astype(np.float32)
            weights[name] -= (0.3 * dw).astype(np.float32)
            biases[name] -= (0.3 * db).astype(np.float32)
        gradients.append(step)
    return gradients, losses
