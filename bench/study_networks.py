"""Networks of the AdaComp study, with the gradient of every learner's share of a batch.

A batch is `learners` minibatches one behind the other. Forward and backward pass go over it as a
whole; only the last product of each weight's gradient is taken minibatch by minibatch. So n
simulated learners cost little more than one, and without compression their number makes no
difference.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ConvolutionalNetwork", "LearnerNetwork", "LstmNetwork", "learner_gradients"]

#: Puts away the gradient of a weight, (learners, elements), in order of the layer's parameters.
Sink = Callable[[Tensor], None]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, learners: int, sink: Sink, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.learners, ctx.sink, ctx.stride = learners, sink, stride
        return functional.conv2d(x, weight, padding=1, stride=stride)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        columns = functional.unfold(x, 3, padding=1, stride=ctx.stride)
        each = torch.bmm(gradient.flatten(2), columns.transpose(1, 2))
        ctx.sink(each.reshape(ctx.learners, -1, weight.numel()).sum(1))
        back = None
        if ctx.needs_input_grad[0]:
            back = torch.nn.grad.conv2d_input(x.shape, weight, gradient, padding=1,
                                              stride=ctx.stride)
        return back, None, None, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, learners: int, sink: Sink) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.learners, ctx.sink = learners, sink
        return x @ weight.T

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        ctx.sink(_weight_gradients(gradient, x, ctx.learners))
        return gradient @ weight, None, None, None


class _Bias(torch.autograd.Function):
    """Adds a bias of each of the channels, which are the second dimension or the last one."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor, learners: int, sink: Sink) -> Tensor:
        ctx.learners, ctx.sink, ctx.image = learners, sink, x.dim() == 4
        return x + (bias[:, None, None] if ctx.image else bias)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        each = gradient.sum((2, 3)) if ctx.image else gradient.flatten(0, -2)
        ctx.sink(each.reshape(ctx.learners, -1, each.shape[-1]).sum(1))
        return gradient, None, None, None


class _Lstm(torch.autograd.Function):
    """An LSTM over one-hot characters (sequences, steps), gates in PyTorch's order, no biases."""

    @staticmethod
    def forward(ctx, characters: Tensor, of_input: Tensor, of_state: Tensor, learners: int,
                sink: Sink) -> Tensor:
        sequences, steps = characters.shape
        width = of_state.shape[1]
        entering = of_input.T[characters.T]                       # steps, sequences, gates
        h = entering.new_zeros(steps + 1, sequences, width)
        c = torch.zeros_like(h)
        gates = torch.empty_like(entering)
        recurrent = of_state.T.contiguous()
        for t in range(steps):
            torch.addmm(entering[t], h[t], recurrent, out=gates[t])
            gates[t, :, :2 * width].sigmoid_()
            gates[t, :, 2 * width:3 * width].tanh_()
            gates[t, :, 3 * width:].sigmoid_()
            i, f, g, o = gates[t].chunk(4, 1)
            torch.addcmul(f * c[t], i, g, out=c[t + 1])
            torch.mul(o, c[t + 1].tanh(), out=h[t + 1])
        ctx.save_for_backward(characters, of_input, of_state, h, c, gates)
        ctx.learners, ctx.sink = learners, sink
        return h[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        characters, of_input, of_state, h, c, gates = ctx.saved_tensors
        steps, sequences, width = h.shape[0] - 1, h.shape[1], h.shape[2]
        outer = gradient.transpose(0, 1)
        i, f, g, o = gates.chunk(4, 2)
        squashed = c[1:].tanh()
        # What does not depend on what comes back in time.
        to_c = o * (1 - squashed * squashed)
        slope = torch.cat([g * i * (1 - i), c[:-1] * f * (1 - f), i * (1 - g * g)], 2)
        slope_o = squashed * o * (1 - o)
        back = torch.empty_like(gates)
        dh = torch.zeros_like(h[0])
        dc = torch.zeros_like(h[0])
        for t in reversed(range(steps)):
            dh = dh + outer[t]
            dc = torch.addcmul(dc, dh, to_c[t])
            torch.mul(slope[t].view(sequences, 3, width), dc[:, None, :],
                      out=back[t, :, :3 * width].view(sequences, 3, width))
            torch.mul(dh, slope_o[t], out=back[t, :, 3 * width:])
            dh = back[t] @ of_state
            dc = dc * f[t]
        by_sequence = back.transpose(0, 1)
        symbols = functional.one_hot(characters, of_input.shape[1]).to(back.dtype)
        ctx.sink(_weight_gradients(by_sequence, symbols, ctx.learners))
        ctx.sink(_weight_gradients(by_sequence, h[:-1].transpose(0, 1), ctx.learners))
        return (None,) * 5


def _weight_gradients(gradient: Tensor, x: Tensor, learners: int) -> Tensor:
    """Of y = x W^T: (learners, elements of W), for x and y with batches first."""
    y = gradient.reshape(learners, -1, gradient.shape[-1])
    return torch.bmm(y.transpose(1, 2), x.reshape(learners, -1, x.shape[-1])).flatten(1)


class LearnerNetwork(nn.Module):
    """What the networks have in common.

    `learner_loss` is the sum of the mean losses of all learners; its backward pass puts the
    gradients of a layer, (learners, elements), into `found`, weights first and biases behind.
    """

    #: Layers that are convolutions; the others are fully connected or LSTMs.
    convolutions: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[Tensor]] = {}

    def _sink(self, layer: str) -> Sink:
        return self.found.setdefault(layer, []).append

    def learner_loss(self, x: Tensor, target: Tensor, learners: int) -> Tensor:
        # Each network has its own.
        raise NotImplementedError

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a batch, as PyTorch differentiates it."""
        return _loss(self(x), target)


def _loss(logits: Tensor, target: Tensor, learners: int = 1) -> Tensor:
    return learners * functional.cross_entropy(logits.flatten(0, -2), target.flatten())


class ConvolutionalNetwork(LearnerNetwork):
    """Images (count, 1, 28, 28) to logits.

    | layer | map | elements with biases |
    |---|---|---|
    | conv1 1 -> 16, stride 2, ReLU | 28x28 -> 14x14 | 160 |
    | conv2 16 -> 32, stride 2, ReLU | 14x14 -> 7x7 | 4 640 |
    | conv3 32 -> 32, ReLU, max pool 2 | 7x7 -> 3x3 | 9 248 |
    | fc1 288 -> 128, ReLU | | 36 992 |
    | fc2 128 -> 10 | | 1 290 |
    """

    convolutions = ("conv1", "conv2", "conv3")

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, stride=2)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1)
        self.fc1 = nn.Linear(288, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x).relu()).relu()
        x = functional.max_pool2d(self.conv3(x), 2).relu()
        return self.fc2(self.fc1(x.flatten(1)).relu())

    def learner_loss(self, x: Tensor, target: Tensor, learners: int) -> Tensor:
        def layer(name: str, x: Tensor) -> Tensor:
            module, sink = getattr(self, name), self._sink(name)
            if isinstance(module, nn.Conv2d):
                x = _Convolution.apply(x, module.weight, learners, sink, module.stride[0])
            else:
                x = _Product.apply(x, module.weight, learners, sink)
            return _Bias.apply(x, module.bias, learners, sink)

        x = layer("conv2", layer("conv1", x).relu()).relu()
        x = functional.max_pool2d(layer("conv3", x), 2).relu()
        return _loss(layer("fc2", layer("fc1", x.flatten(1)).relu()), target, learners)


class LstmNetwork(LearnerNetwork):
    """`LstmModel` of examples/kjv: one-hot characters, an LSTM without biases, logits."""

    def __init__(self, symbols: int, width: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(symbols, width, bias=False, batch_first=True)
        self.output = nn.Linear(width, symbols)

    def forward(self, characters: Tensor) -> Tensor:
        symbols = functional.one_hot(characters, self.lstm.input_size).to(self.output.weight.dtype)
        return self.output(self.lstm(symbols)[0])

    def learner_loss(self, x: Tensor, target: Tensor, learners: int) -> Tensor:
        hidden = _Lstm.apply(x, self.lstm.weight_ih_l0, self.lstm.weight_hh_l0, learners,
                             self._sink("lstm"))
        hidden = _Product.apply(hidden, self.output.weight, learners, self._sink("output"))
        logits = _Bias.apply(hidden, self.output.bias, learners, self._sink("output"))
        return _loss(logits, target, learners)


def learner_gradients(network: LearnerNetwork, x: Tensor, target: Tensor, learners: int
                      ) -> tuple[float, dict[str, NDArray[np.float32]]]:
    """The mean loss of a batch, and of each layer the gradients of the learners' mean losses,
    (learners, elements): parameters in their order in the module.

    Raises ValueError if the batch cannot be shared out evenly.
    """
    if len(x) % learners:
        raise ValueError(f"batch must be a multiple of the {learners} learners, not {len(x)}")
    network.found.clear()
    loss = network.learner_loss(x, target, learners)
    loss.backward()
    gradients = {}
    for name, parts in network.found.items():
        # Backward comes to the bias before its weights, but to an LSTM's weights in order.
        order = parts if name == "lstm" else parts[::-1]
        gradients[name] = torch.cat([part.flatten(1) for part in order], 1).numpy()
    return loss.item() / learners, dict(sorted(gradients.items()))
