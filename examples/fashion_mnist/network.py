"""The network, and the fake quantisation that makes its training see what the core computes.

Every stored tensor is quantised once, at the end of its chain of fused operations: after ReLU and
after pooling. The residual operand is the stored, hence quantised, tensor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE_SIZE = 28
CLASS_COUNT = 10

# SAWB: clip = c1 * sqrt(E[w^2]) + c2 * E|w|, by the coding of the weights.
SAWB = {"INT4": (12.035, -12.03), "ODD2": (3.12, -2.064), "TERNARY": (2.6, -1.71)}


@dataclass(frozen=True)
class Precision:
    """Formats of one variant's weights and activations.

    The first convolution and the fully connected layer take those of the edge. Weights are in a
    format of the core, or TERNARY: INT2 without the code -2.
    """

    name: str
    weights: str
    activations: str
    edge_weights: str
    edge_activations: str


FLOAT32 = Precision("float32", "FP32", "FP32", "FP32", "FP32")
FP16 = Precision("fp16", "FP16", "FP16", "FP16", "FP16")
FP8 = Precision("fp8", "E4M3", "E4M3", "FP16", "FP16")
INT8 = Precision("int8", "INT8", "UINT8", "INT8", "UINT8")
INT4 = Precision("int4", "INT4", "UINT4", "INT8", "UINT8")
INT2 = Precision("int2", "INT2", "UINT2", "INT8", "UINT8")
ODD2 = Precision("odd2", "ODD2", "UINT2", "INT8", "UINT8")
TERNARY = Precision("ternary", "TERNARY", "UINT2", "INT8", "UINT8")
BINARY = Precision("binary", "BINARY", "UINT8", "INT8", "UINT8")
PRECISIONS = {p.name: p for p in (FLOAT32, FP16, FP8, INT8, INT4, INT2, ODD2, TERNARY, BINARY)}
FLOAT_FORMATS = ("FP32", "FP16", "E4M3")


def bits_of(activations: str) -> int | None:
    """Bits of an unsigned integer format; None for floating point."""
    return None if activations in FLOAT_FORMATS else int(activations.removeprefix("UINT"))


def weight_codes(weight: Tensor, coding: str) -> tuple[Tensor, Tensor]:
    """Quantise a weight tensor per output channel.

    INT8 scales to the largest magnitude (-127..127); INT4 (-7..7), TERNARY (-1..1) and ODD2 (the
    odd numbers -3..3, by the codes -2..1) clip where SAWB puts the clip of the channel. INT2 uses
    all of -2..1 with the root mean square as step, which is within a percent of the least squared
    error of a normal distribution: 0.15 of its variance, against 0.19 with the three levels of
    SAWB. BINARY is the sign (code 1 for +1, 0 for -1) with the mean magnitude as step.

    Returns the codes, in the shape of `weight`, and the step of each output channel.
    """
    weight = weight.detach()
    flat = weight.flatten(1)
    largest = flat.abs().amax(1)
    root, mean = flat.square().mean(1).sqrt(), flat.abs().mean(1)
    if coding == "BINARY":
        return (weight >= 0).to(weight.dtype), mean.clamp_min(1e-12)
    limit = {"INT8": 127, "INT4": 7, "ODD2": 3, "TERNARY": 1, "INT2": 1}[coding]
    lowest = -limit
    if coding == "INT2":
        lowest, step = -2, root
    elif coding in SAWB:
        c1, c2 = SAWB[coding]
        clip = c1 * root + c2 * mean
        step = torch.where(clip > 0, clip, largest) / limit
    else:
        step = largest / limit
    step = step.clamp_min(1e-12)
    scaled = weight / step.view((-1,) + (1,) * (weight.dim() - 1))
    if coding == "ODD2":
        return ((scaled - 1) / 2).round().clamp(-2, 1), step
    return scaled.round().clamp(lowest, limit), step


def code_values(codes: Tensor, coding: str) -> Tensor:
    """What codes stand for, in steps."""
    return 2 * codes + 1 if coding == "ODD2" else 2 * codes - 1 if coding == "BINARY" else codes


def fake_quantised(weight: Tensor, coding: str) -> Tensor:
    """The weights as the core sees them, with a straight-through gradient."""
    if coding in FLOAT_FORMATS:
        return weight
    codes, step = weight_codes(weight, coding)
    real = code_values(codes, coding) * step.view((-1,) + (1,) * (weight.dim() - 1))
    return weight + (real - weight).detach()


class Convolution(nn.Conv2d):
    """A 3x3 convolution without bias whose weights are fake-quantised to `coding`."""

    def __init__(self, inputs: int, outputs: int, coding: str, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.coding = coding

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, fake_quantised(self.weight, self.coding), None)


class FullyConnected(nn.Linear):
    """A fully connected layer whose weights are fake-quantised to `coding`."""

    def __init__(self, inputs: int, outputs: int, coding: str) -> None:
        super().__init__(inputs, outputs)
        self.coding = coding

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, fake_quantised(self.weight, self.coding), self.bias)


class Pact(nn.Module):
    """PACT: clip to [0, alpha], then round to 2^bits levels. Without bits it passes through.

    The gradient of the input is cut outside [0, alpha]; that of alpha is the sum of the gradients
    above alpha and, if `rounding_gradient`, its share in the rounding error below. `largest` is the
    largest value that was observed.
    """

    def __init__(self, bits: int | None, rounding_gradient: bool = False) -> None:
        super().__init__()
        self.bits = bits
        self.rounding_gradient = rounding_gradient
        self.observed: Tensor | None = None
        self.observing = False
        self.largest = 0.0
        self.alpha = nn.Parameter(torch.tensor(8.0))

    @property
    def levels(self) -> int:
        """Number of steps between code 0 and the largest code."""
        if self.bits is None:
            raise ValueError("a floating-point activation has no levels")
        return 2**self.bits - 1

    @property
    def step(self) -> float:
        """Real value of code 1."""
        return float(self.alpha.detach()) / self.levels

    def forward(self, input: Tensor) -> Tensor:
        if self.observing:
            self.observed = input.detach()
            self.largest = max(self.largest, float(self.observed.max()))
        if self.bits is None:
            return input
        clipped = self.alpha - functional.relu(self.alpha - functional.relu(input))
        if self.rounding_gradient:
            step = self.alpha / self.levels
            codes = clipped / step
            return (codes + (codes.round() - codes).detach()) * step
        step = self.alpha.detach() / self.levels
        rounded = (clipped.detach() / step).round() * step
        return clipped + (rounded - clipped).detach()

    def fit(self, values: Tensor) -> None:
        """Set alpha to the clip with the least squared error on `values`."""
        values = values.flatten()
        best_error, best_alpha = float("inf"), float(values.max())
        for fraction in torch.linspace(0.1, 1.0, 46).tolist():
            alpha = fraction * float(values.max())
            step = alpha / self.levels
            error = float(
                ((values / step).round().clamp(0, self.levels) * step - values).square().sum()
            )
            if error < best_error:
                best_error, best_alpha = error, alpha
        self.alpha.data.fill_(best_alpha)


class FashionNetwork(nn.Module):
    """Five 3x3 convolutions, one of them with a residual, and a fully connected layer.

    | layer | map | multiply-adds |
    |---|---|---|
    | conv1 1 -> 16, ReLU, max pool | 28x28 -> 14x14 | 112 896 |
    | conv2 16 -> 32, ReLU, max pool | 14x14 -> 7x7 | 903 168 |
    | conv3 32 -> 32, ReLU | 7x7 | 451 584 |
    | conv4 32 -> 32, + pool2, ReLU | 7x7 | 451 584 |
    | conv5 32 -> 64 stride 2, ReLU, average pool | 7x7 -> 4x4 -> 1 | 294 912 |
    | fc 64 -> 10 | | 640 |
    """

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        weights = precision.weights
        self.conv1 = Convolution(1, 16, precision.edge_weights)
        self.conv2 = Convolution(16, 32, weights)
        self.conv3 = Convolution(32, 32, weights)
        self.conv4 = Convolution(32, 32, weights)
        self.conv5 = Convolution(32, 64, weights, stride=2)
        self.fc = FullyConnected(64, CLASS_COUNT, precision.edge_weights)
        self.norm1 = nn.BatchNorm2d(16)
        self.norm2 = nn.BatchNorm2d(32)
        self.norm3 = nn.BatchNorm2d(32)
        self.norm4 = nn.BatchNorm2d(32)
        self.norm5 = nn.BatchNorm2d(64)
        bits = bits_of(precision.activations)
        coarse = bits == 2
        self.pact1 = Pact(bits, coarse)
        self.pact2 = Pact(bits, coarse)
        self.pact3 = Pact(bits, coarse)
        self.pact4 = Pact(bits, coarse)
        self.pact5 = Pact(bits_of(precision.edge_activations), coarse)

    @property
    def activations(self) -> list[Pact]:
        """The quantisers of the stored activations, in order."""
        return [self.pact1, self.pact2, self.pact3, self.pact4, self.pact5]

    def forward(self, image: Tensor) -> Tensor:
        """Logits of images (count, 1, 28, 28) with real values 0..1."""
        x = functional.max_pool2d(functional.relu(self.norm1(self.conv1(image))), 2)
        x = self.pact1(x)
        x = functional.max_pool2d(functional.relu(self.norm2(self.conv2(x))), 2)
        residual = self.pact2(x)
        x = self.pact3(functional.relu(self.norm3(self.conv3(residual))))
        x = self.pact4(functional.relu(self.norm4(self.conv4(x)) + residual))
        x = functional.avg_pool2d(functional.relu(self.norm5(self.conv5(x))), 4)
        x = self.pact5(x)
        return self.fc(x.flatten(1))


@torch.no_grad()
def fit_activations(network: FashionNetwork, image: Tensor) -> None:
    """Fit each alpha in turn, so that a layer sees the quantised output of the one before it."""
    network.eval()
    for activation in network.activations:
        activation.observing = True
        network(image)
        if activation.observed is not None:
            activation.fit(activation.observed)
        activation.observing, activation.observed = False, None


@torch.no_grad()
def measure_largest(network: FashionNetwork, image: Tensor) -> None:
    """Find the largest value of each stored activation."""
    network.eval()
    for activation in network.activations:
        activation.observing = True
    network(image)
    for activation in network.activations:
        activation.observing, activation.observed = False, None
