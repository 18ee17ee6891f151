"""The two character models in PyTorch: what is trained, and what is exported."""

import numpy as np
import torch
from dataset import SYMBOLS
from torch import Tensor, nn
from torch.nn import functional

STEPS = 32
EPSILON = 1e-5


class LstmModel(nn.Module):
    """One-hot characters, one LSTM layer, logits.

    The gates have no bias: the weights of the one-hot character serve as one.
    """

    name = "kjv-lstm"
    hidden = 64

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(len(SYMBOLS), self.hidden, bias=False, batch_first=True)
        self.output = nn.Linear(self.hidden, len(SYMBOLS))

    def forward(self, characters: Tensor) -> Tensor:
        """Logits [sequences, steps, symbols] of each next character."""
        hidden, _ = self.lstm(functional.one_hot(characters, len(SYMBOLS)).float())
        return self.output(hidden)

    def describe(self) -> tuple[list[dict], dict[str, np.ndarray]]:
        """The layers in the form of docs/sequences.md, and their arrays."""
        layers = [
            {"name": "memory", "op": "lstm", "input": "characters",
             "input_weights": "memory.input_weights",
             "recurrent_weights": "memory.recurrent_weights"},
            {"name": "logits", "op": "linear", "input": "memory",
             "weights": "logits.weights", "bias": "logits.bias"},
        ]
        arrays = {
            "memory.input_weights": self.lstm.weight_ih_l0,
            "memory.recurrent_weights": self.lstm.weight_hh_l0,
            "logits.weights": self.output.weight, "logits.bias": self.output.bias,
        }
        return layers, as_numpy(arrays)


class AttentionModel(nn.Module):
    """One block of causal self-attention and a feed-forward part, each behind a layer norm."""

    name = "kjv-attention"
    channels, heads, inner = 48, 2, 128

    def __init__(self) -> None:
        super().__init__()
        symbols = len(SYMBOLS)
        self.embedding = nn.Linear(symbols, self.channels, bias=False)
        self.positions = nn.Parameter(torch.randn(STEPS, self.channels) * 0.02)
        self.query, self.key, self.value = (
            nn.Linear(self.channels, self.channels, bias=False) for _ in range(3))
        self.mixed = nn.Linear(self.channels, self.channels)
        self.widen = nn.Linear(self.channels, self.inner)
        self.narrow = nn.Linear(self.inner, self.channels)
        self.output = nn.Linear(self.channels, symbols)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits [sequences, steps, symbols] of each next character; at most `STEPS` steps."""
        steps = characters.shape[1]
        x = self.embedding.weight.T[characters] + self.positions[:steps]
        y = self._norm(x)
        query, key, value = (
            projection(y).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value))
        heads = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mixed(heads.transpose(1, 2).flatten(2))
        x = x + self.narrow(functional.relu(self.widen(self._norm(x))))
        return self.output(x)

    def _norm(self, x: Tensor) -> Tensor:
        # Scale and shift are left to the weights that follow.
        return functional.layer_norm(x, (self.channels,), eps=EPSILON)

    def describe(self) -> tuple[list[dict], dict[str, np.ndarray]]:
        """The layers in the form of docs/sequences.md, and their arrays."""
        layers = [
            {"name": "positions", "op": "constant", "values": "positions.values"},
            {"name": "embedding", "op": "linear", "input": "characters", "add": "positions",
             "weights": "embedding.weights"},
            {"name": "first_norm", "op": "layer_norm", "input": "embedding", "epsilon": EPSILON},
            {"name": "heads", "op": "attention", "input": "first_norm", "heads": self.heads,
             "causal": True, "query_weights": "heads.query_weights",
             "key_weights": "heads.key_weights", "value_weights": "heads.value_weights"},
            {"name": "mixed", "op": "linear", "input": "heads", "add": "embedding",
             "weights": "mixed.weights", "bias": "mixed.bias"},
            {"name": "second_norm", "op": "layer_norm", "input": "mixed", "epsilon": EPSILON},
            {"name": "widen", "op": "linear", "input": "second_norm", "function": "relu",
             "weights": "widen.weights", "bias": "widen.bias"},
            {"name": "narrow", "op": "linear", "input": "widen", "add": "mixed",
             "weights": "narrow.weights", "bias": "narrow.bias"},
            {"name": "logits", "op": "linear", "input": "narrow",
             "weights": "logits.weights", "bias": "logits.bias"},
        ]
        arrays: dict[str, Tensor] = {
            "positions.values": self.positions, "embedding.weights": self.embedding.weight,
            "heads.query_weights": self.query.weight, "heads.key_weights": self.key.weight,
            "heads.value_weights": self.value.weight}
        for name, layer in (("mixed", self.mixed), ("widen", self.widen),
                            ("narrow", self.narrow), ("logits", self.output)):
            arrays |= {f"{name}.weights": layer.weight, f"{name}.bias": layer.bias}
        return layers, as_numpy(arrays)


def as_numpy(arrays: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Arrays of float32."""
    return {name: tensor.detach().numpy().astype(np.float32) for name, tensor in arrays.items()}


MODELS = {"lstm": LstmModel, "attention": AttentionModel}
