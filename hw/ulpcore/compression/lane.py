"""A lane of the encoder: from a gradient and a residue to G and the magnitudes that are compared.

Twin of `ulpsim.compression.adacomp.quantise` and of what `compress` does to one element.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpsim.compression.adacomp import FACTOR_UNITS

from ..float32 import delay

__all__ = ["Accumulate", "Quantise"]

FACTOR_BITS = 5
POINT_BITS = 8


class Quantise(wiring.Component):
    """An FP32 number in units of 2^-point, rounded to nearest even; 4 cycles, one number a cycle.

    Members
    -------
    point : In(signed 8)
    magnitude : Out(32), negative : Out(1)
        Sign and magnitude.
    beyond : Out(1)
        NaN-Inf or a magnitude of 2^32 and more; `magnitude` has no meaning then.
    inexact : Out(1)
        The number was not a multiple of the unit.
    """

    value: In(32)
    point: In(POINT_BITS)
    magnitude: Out(32)
    negative: Out(1)
    beyond: Out(1)
    inexact: Out(1)

    latency = 4

    def elaborate(self, platform: object) -> Module:
        m = Module()
        exponent, sign = self.value[23:31], self.value[31]
        # The number is its 24 bits of significand at the top of 32, shifted right by `distance`.
        distance = Signal(range(-256, 512), name="distance")
        m.d.comb += distance.eq(158 - exponent - self.point.as_signed())
        zero = ~exponent.any()
        small = zero | (distance > 32)
        significand = delay(m, Cat(self.value[:23], Const(1, 1)) & ~small.replicate(24), 1,
                            name="significand")
        shift = delay(m, distance[:6] & ~small.replicate(6), 1, name="shift")
        beyond = delay(m, exponent.all() | (distance < 0) & ~zero, 3, name="beyond")
        lost = delay(m, small & ~zero, 3, name="lost")
        negative = delay(m, sign & ~small, 4, name="negative")

        # By bits, so that seven more of them are kept, and then by bytes.
        fine = Cat(Const(0, 7), significand) >> shift[:3]
        fine = delay(m, fine, 1, name="fine")
        coarse_shift = delay(m, shift[3:], 1, name="coarse_shift")
        whole, guard, rest = Signal(32, name="whole"), Signal(name="guard"), Signal(name="rest")
        for step in range(5):
            with m.If(coarse_shift == step):
                shifted = Cat(Const(0, 8), Const(0, 1), fine)[8 * step:]
                dropped = Cat(Const(0, 9), fine)[:8 * step]
                m.d.sync += [whole.eq(shifted[8:]), guard.eq(shifted[7]),
                             rest.eq(shifted[:7].any() | dropped.any())]
        m.d.sync += [
            self.magnitude.eq(whole + (guard & (rest | whole[0]))),
            self.inexact.eq(guard | rest | lost),
            self.beyond.eq(beyond),
        ]
        m.d.comb += self.negative.eq(negative)
        return m


class Accumulate(wiring.Component):
    """G = residue + dW, |G| and |H| = |residue + factor dW|; 7 cycles, an element a cycle.

    A gradient that is NaN-Inf, or whose sum with the residue has no 32 bits, is `refused`: it
    counts as zero.

    Members
    -------
    gradient : In(32), residue : In(32), point : In(signed 8)
    factor : In(5)
        In quarters. All four of the same cycle.
    total : Out(32)
        G.
    total_magnitude : Out(32)
    threshold_magnitude : Out(32)
        |H| rounded down, which reaches the same maxima; from 2^31 on any number of at least 2^31,
        which is the largest maximum.
    refused : Out(1)
    """

    gradient: In(32)
    residue: In(32)
    point: In(POINT_BITS)
    factor: In(FACTOR_BITS)
    total: Out(32)
    total_magnitude: Out(32)
    threshold_magnitude: Out(32)
    refused: Out(1)

    latency = Quantise.latency + 3

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.quantise = quantise = Quantise()
        m.d.comb += [quantise.value.eq(self.gradient), quantise.point.eq(self.point)]
        magnitude, negative = quantise.magnitude, quantise.negative
        residue = delay(m, self.residue, Quantise.latency, name="residue")
        factor = delay(m, self.factor, Quantise.latency, name="factor")

        signed = Cat(magnitude, Const(0, 1)) ^ negative.replicate(33)
        wide = Cat(residue, residue[-1])
        total = delay(m, (Cat(Const(1, 1), wide) + Cat(negative, signed))[1:34], 1, name="sum")
        product = delay(m, magnitude * factor, 1, name="product")
        # Of magnitudes of 2^31 and more only -2^31 itself has 32 bits.
        none = delay(m, quantise.beyond | (magnitude[31] & ~(negative & ~magnitude[:31].any())), 1,
                     name="none")
        negative = delay(m, negative, 1, name="negative")
        residue = delay(m, residue, 1, name="residue_sum")

        refused = Signal(name="refuses")
        m.d.comb += refused.eq(none | (total[32] ^ total[31]))
        sum_ = delay(m, Mux(refused, residue, total[:32]), 1, name="total")
        quarters = Cat(Const(0, 2), residue)
        assert FACTOR_UNITS == 4
        minus = negative & ~refused
        step = (Cat(product, Const(0, 1)) ^ negative.replicate(38)) & ~refused.replicate(38)
        threshold = Signal(39, name="threshold")
        m.d.sync += threshold.eq((Cat(Const(1, 1), quarters, *5 * [residue[-1]])
                                  + Cat(minus, step, minus))[1:])

        m.d.sync += [
            self.total.eq(sum_),
            self.total_magnitude.eq((sum_ ^ sum_[-1].replicate(32)) + sum_[-1]),
            self.refused.eq(delay(m, refused, 1, name="refused")),
        ]
        # Rounded down, -H is ~H unless H is whole.
        below = threshold[-1]
        absolute = ((threshold[2:] ^ below.replicate(37)) + (below & ~threshold[:2].any()))[:36]
        m.d.sync += self.threshold_magnitude.eq(Cat(absolute[:31], absolute[31:].any()))
        return m
