"""What the encoder is told about a layer, and what it tells of it."""

from typing import Any

from amaranth.hdl import Cat, Value
from amaranth.lib import data

from .lane import FACTOR_BITS, POINT_BITS
from .positions import BIN_BITS

__all__ = ["LayerCommand", "LayerHeader", "Measured", "PreparedLayer", "SentLayer", "sent_layer"]


class LayerCommand(data.Struct):
    """One pass over a layer.

    `measure`: only the mean of the maxima is wanted, the first of two passes; residues are read but
    not written and nothing is sent. Else `scale`, FP32, is what is sent: the mean that was
    measured, or in one pass that of the step before. `choose`: what is sent only says which
    elements would be, the residue keeps all; the scale must be zero. `dlfloat16`: gradients are
    codes of DLFloat16, each in the lower half of its lane, not FP32. `factor` counts quarters;
    `last_element` is the number of elements less one; the other fields are those of
    `ulpsim.compression`.
    """

    learner: 10
    layer: 12
    step: 10
    last_element: 32
    bin_size: BIN_BITS
    factor: FACTOR_BITS
    point: POINT_BITS
    scale: 32
    measure: 1
    dlfloat16: 1
    choose: 1


class PreparedLayer(data.Struct):
    """A command that has been checked, its scale in units as well."""

    command: LayerCommand
    units: 32


class LayerHeader(data.Struct):
    """What a layer's packets say of it."""

    learner: 10
    layer: 12
    step: 10
    bin_size: BIN_BITS
    scale: 32


class SentLayer(data.Struct):
    """What is needed of a layer once its rows have been taken."""

    header: LayerHeader
    last_element: 32
    units: 32
    choose: 1


def sent_layer(layer: Any) -> Value:
    """A PreparedLayer as a SentLayer. -0 and scales below the normal numbers of FP32 are sent as 0.
    """
    command = layer.command
    return Cat(command.learner, command.layer, command.step, command.bin_size,
               command.scale & layer.units.any().replicate(32),
               command.last_element, layer.units, command.choose)


class Measured(data.Struct):
    """Of a layer that was passed over: the sum of its bins' maxima, in units, and their number."""

    layer: 12
    point: POINT_BITS
    total: 64
    bins: 32
