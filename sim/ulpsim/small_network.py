"""A small convolutional network in numpy that learns Fashion-MNIST: real gradients to work with.

Two convolutions of 3 x 3, each with ReLU and a mean over 2 x 2, and two fully connected layers.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["SmallNetwork"]

#: Float32 vectors by the names of the layers: the weights, and behind them the biases.
Vectors = dict[str, NDArray[np.float32]]


def _windows(x: NDArray) -> NDArray:
    """3 x 3 windows of x (images, height, width, channels), padded with zeros: rows of a matrix."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(*x.shape[:3], -1)


def _spread(windows: NDArray, channels: int) -> NDArray:
    """What `_windows` takes apart, added together again."""
    images, height, width, _ = windows.shape
    parts = windows.reshape(images, height, width, 3, 3, channels)
    padded = np.zeros((images, height + 2, width + 2, channels), windows.dtype)
    for i in range(3):
        for j in range(3):
            padded[:, i:i + height, j:j + width] += parts[:, :, :, i, j]
    return padded[:, 1:-1, 1:-1]


def _pool(x: NDArray) -> NDArray:
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean(axis=(2, 4))


def _unpool(x: NDArray) -> NDArray:
    return np.repeat(np.repeat(x, 2, axis=1), 2, axis=2) / 4


class SmallNetwork:
    """The network, whose layers are conv1, conv2, fc1, fc2.

    Parameters
    ----------
    rng
        Of the first weights.
    hidden
        Outputs of fc1; 784 times as many weights.
    """

    def __init__(self, rng: np.random.Generator, hidden: int = 64) -> None:
        shapes = {"conv1": (9, 8), "conv2": (72, 16), "fc1": (784, hidden), "fc2": (hidden, 10)}
        self.weights = {
            name: (rng.standard_normal(shape) * np.sqrt(2 / shape[0])).astype(np.float32)
            for name, shape in shapes.items()}
        self.biases = {name: np.zeros(shape[1], np.float32) for name, shape in shapes.items()}

    def gradients(self, images: NDArray[np.uint8], labels: NDArray) -> tuple[Vectors, float]:
        """Of the mean loss over images (uint8, of 28 x 28 pixels each), and the loss."""
        weights, biases, batch = self.weights, self.biases, len(images)
        x = images.reshape(-1, 28, 28, 1).astype(np.float32) / 255
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
        loss = float(-np.log(share[np.arange(batch), labels]).mean())

        d4 = (share - np.eye(10, dtype=np.float32)[labels]) / batch
        d3 = (d4 @ weights["fc2"].T) * (a3 > 0)
        d2 = _unpool((d3 @ weights["fc1"].T).reshape(batch, 7, 7, 16)) * (a2 > 0)
        d1 = _unpool(_spread(d2 @ weights["conv2"].T, 8)) * (a1 > 0)
        step = {}
        for name, inputs, outer in (("conv1", w1, d1), ("conv2", w2, d2), ("fc1", flat, d3),
                                    ("fc2", hidden, d4)):
            inputs, outer = (v.reshape(-1, v.shape[-1]) for v in (inputs, outer))
            step[name] = np.concatenate([(inputs.T @ outer).ravel(), outer.sum(axis=0)]).astype(
                np.float32)
        return step, loss

    def descend(self, gradients: Vectors, rate: float) -> None:
        """Subtract `rate` times the gradients."""
        for name, gradient in gradients.items():
            count = self.weights[name].size
            step = (np.float32(rate) * gradient).astype(np.float32)
            self.weights[name] -= step[:count].reshape(self.weights[name].shape)
            self.biases[name] -= step[count:]
