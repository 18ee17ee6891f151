"""The scale of a layer from what a pass has measured: twin of `scale_of_mean`, `units_to_scale`."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .layer import Measured

__all__ = ["LayerScale", "Scale"]


class LayerScale(data.Struct):
    """A layer, and its mean as FP32."""

    layer: 12
    scale: 32


class Scale(wiring.Component):
    """The mean of a layer's maxima, rounded to a multiple of the unit and to FP32, nearest even.

    A bit a cycle: 37 to 69 cycles a layer, less than a layer of 70 rows takes. What comes from an
    encoder fits; `bins` must not be 0, nor the mean above 2^31.

    Members
    -------
    measured : In(stream(Measured)), scales : Out(stream(LayerScale))
    """

    measured: Any
    scales: Any

    def __init__(self) -> None:
        super().__init__({"measured": In(stream.Signature(Measured)),
                          "scales": Out(stream.Signature(LayerScale))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        source = self.measured.payload
        remainder, low, bins = Signal(32), Signal(33), Signal(32)
        step = Signal(6)
        # Twice the mean: below its lowest bit is only whether anything is left.
        doubled, sticky = Signal(33), Signal()
        exponent = Signal(10)
        some = Signal()
        significand = Signal(25)
        m.d.comb += self.scales.payload.scale[:23].eq(
            significand[1:24] & significand[24].replicate(23))
        m.d.comb += self.scales.payload.scale[23:31].eq(
            exponent[:8] & significand[24].replicate(8))

        with m.FSM(name="scale"):
            with m.State("TAKE"):
                m.d.comb += self.measured.ready.eq(1)
                m.d.sync += [
                    remainder.eq(source.total[32:]), low.eq(source.total[:32] << 1),
                    bins.eq(source.bins), doubled.eq(0), step.eq(0), some.eq(source.total.any()),
                    exponent.eq(127 + 24 - source.point.as_signed()),
                    self.scales.payload.layer.eq(source.layer)]
                with m.If(self.measured.valid):
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                more = Signal(33)
                m.d.comb += more.eq(Cat(low[-1], remainder))
                fits = more >= bins
                m.d.sync += [
                    remainder.eq(Mux(fits, more - bins, more)), low.eq(low << 1),
                    doubled.eq(Cat(fits, doubled)), step.eq(step + 1)]
                with m.If(step == 32):
                    m.next = "SHORTEN"
                    m.d.sync += sticky.eq(Mux(fits, more != bins, more.any()))
            with m.State("SHORTEN"):
                with m.If(doubled[25:].any()):
                    m.d.sync += [doubled.eq(doubled >> 1), sticky.eq(sticky | doubled[0]),
                                 exponent.eq(exponent + 1)]
                with m.Else():
                    up = doubled[0] & (sticky | doubled[1])
                    m.d.sync += significand.eq(
                        Mux(some & ~doubled[1:25].any() & ~up, 1, doubled[1:25] + up))
                    m.next = "NORMALISE"
            with m.State("NORMALISE"):
                with m.If(significand[24] | ~significand.any()):
                    m.d.comb += self.scales.valid.eq(1)
                    with m.If(self.scales.ready):
                        m.next = "TAKE"
                with m.Else():
                    m.d.sync += [significand.eq(significand << 1), exponent.eq(exponent - 1)]
        return m
