"""The AdaComp encoder: gradients and residues in, packets and new residues out."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from ulpsim.compression.adacomp import LARGEST_BIN, POINTS, EncoderCause

from ..float32 import delay, from_dlfloat
from ..verilog import once
from .bins import MAXIMA, Bins
from .framing import LAYERS_WAITING, ROWS_WAITING, Framing, beat_numbers, packet_stream
from .lane import Accumulate, Quantise
from .layer import LayerCommand, Measured, PreparedLayer, SentLayer, sent_layer
from .positions import Positions, require_lanes
from .words import Words

__all__ = ["Encoder", "EncoderCause"]

_RESIDUES, _MEASURED, _PREPARED = 16, 16, 16


class Encoder(wiring.Component):
    """AdaComp (`ulpsim.compression.adacomp`), `lanes` elements a cycle, layer after layer.

    A command starts a pass over a layer; its rows follow in `gradients` and `residues`. There is no
    pause between rows, bins or layers: a row is taken in every cycle in which both have one, as
    long as what comes out is taken. A pass that measures puts out the sum of the bins' maxima
    alone; the others put it out as well, beside the layer's new residue and its packets.

    Packets hold 4096 words and are sent when they are complete. If the receiver stalls, so do in
    the end the inputs; nothing is lost. A command that cannot be carried out stops the encoder
    with `cause` until it is reset; layers before it are finished, none is begun.

    Parameters
    ----------
    lanes
        1, 4, 8 or 16.
    largest_bin
        The largest bin that its buffer is made for, 1 to 16384.

    Members
    -------
    layers : In(stream(LayerCommand))
    gradients : In(stream(lanes FP32 numbers)), residues : In(stream(lanes integers))
        Both in rows; the last row of a layer may hold fewer elements, in its lowest lanes.
    updated : Out(stream(lanes integers))
        The new residues, in the rows in which the old ones came; 0 in lanes without an element.
    packets : Out(packet_stream)
        `lanes` times 16 bits a beat (at least 32).
    measured : Out(stream(Measured))
        Of every pass. It has to be taken: sixteen of them can wait.
    cause : Out(EncoderCause)
    """

    layers: Any
    gradients: Any
    residues: Any
    updated: Any
    packets: Any
    measured: Any
    cause: Any

    def __init__(self, *, lanes: int, largest_bin: int = LARGEST_BIN) -> None:
        self.lanes = require_lanes(lanes)
        self.bins = Bins(lanes=lanes, largest_bin=largest_bin)
        row = stream.Signature(data.ArrayLayout(32, lanes))
        super().__init__({
            "layers": In(stream.Signature(LayerCommand)), "gradients": In(row),
            "residues": In(row), "updated": Out(row),
            "packets": Out(packet_stream(beat_numbers(lanes))),
            "measured": Out(stream.Signature(Measured)), "cause": Out(EncoderCause)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        bins = m.submodules.bins = self.bins
        m.submodules.words = words = Words(lanes=lanes)
        m.submodules.framing = framing = Framing(lanes=lanes)
        prepared, prepared_layer = self._prepare(m)

        # Take rows.
        m.submodules.positions = positions = Positions(lanes=lanes, layer=PreparedLayer)
        m.submodules.begun = begun = SyncFIFO(width=SentLayer.as_shape().size, depth=LAYERS_WAITING)
        layer = positions.layer
        command = layer.command
        take, store = Signal(name="take"), Signal(name="store")
        m.d.comb += [
            positions.layers.valid.eq(prepared.r_rdy), prepared.r_en.eq(positions.layers.ready),
            positions.layers.payload.eq(prepared_layer), positions.take.eq(take),
            positions.bin_size.eq(prepared_layer.command.bin_size),
            positions.last_element.eq(prepared_layer.command.last_element),
            store.eq(~command.measure)]
        # A cycle old, and so with room for one more.
        rows_out = Signal(range(bins.rows + 1), name="rows_out")
        maxima_out = Signal(range(MAXIMA + 1), name="maxima_out")
        measured_out = Signal(range(_MEASURED + 1), name="measured_out")
        space = Signal(name="space")
        m.d.sync += space.eq(
            (rows_out < bins.rows - 1) & (maxima_out < MAXIMA - 1) & (measured_out < _MEASURED - 1)
            & (begun.level < LAYERS_WAITING - 1))
        can_take = Signal(name="can_take")
        m.d.comb += [
            can_take.eq(positions.active & space),
            take.eq(can_take & self.gradients.valid & self.residues.valid),
            self.gradients.ready.eq(can_take & self.residues.valid),
            self.residues.ready.eq(can_take & self.gradients.valid),
            begun.w_en.eq(take & positions.first & store),
            begun.w_data.eq(sent_layer(layer)),
        ]

        # To G, |G| and |H|.
        latency = 1 + Accumulate.latency
        point = delay(m, command.point, 1, name="point")
        factor = delay(m, command.factor, 1, name="factor")
        refused = []
        for j in range(lanes):
            lane = Accumulate()
            m.submodules[f"lane_{j}"] = once(platform, lane, "adacomp_lane")
            valid, gradient = positions.valid[j], self.gradients.payload[j]
            gradient = Mux(command.dlfloat16, from_dlfloat(gradient[:16]), gradient)
            m.d.comb += [
                lane.gradient.eq(delay(m, Mux(valid, gradient, 0), 1, name=f"gradient_{j}")),
                lane.residue.eq(delay(m, Mux(valid, self.residues.payload[j], 0), 1,
                                      name=f"residue_{j}")),
                lane.point.eq(point), lane.factor.eq(factor),
                bins.total[j].eq(lane.total), bins.total_magnitude[j].eq(lane.total_magnitude),
                bins.threshold_magnitude[j].eq(lane.threshold_magnitude),
            ]
            refused.append(lane.refused)
        m.d.comb += [
            bins.row_valid.eq(delay(m, take, latency, name="taken", reset=True)),
            bins.refused.eq(Cat(refused).any())]
        for name, value in (("end", positions.end), ("continues", positions.continues),
                            ("last", positions.last), ("store", store)):
            m.d.comb += getattr(bins, name).eq(delay(m, value, latency, name=f"taken_{name}"))

        self._measure(m, layer, take & positions.last, measured_out)
        m.d.sync += [rows_out.eq(rows_out + (take & store) - bins.released),
                     maxima_out.eq(maxima_out + (take & store & positions.closes) - bins.closed)]
        self._read(m, words, framing, begun)
        return m

    def _prepare(self, m: Module) -> tuple[SyncFIFO, Any]:
        """Checked commands with their scale in units, ready before the layer before has ended."""
        m.submodules.quantise = quantise = Quantise()
        m.submodules.prepared = fifo = SyncFIFO(width=PreparedLayer.as_shape().size,
                                                depth=_PREPARED)
        coming = Signal(range(_PREPARED + 1), name="commands_coming")
        stopped = Signal(name="stopped")
        command = self.layers.payload
        take = Signal(name="take_command")
        m.d.comb += [
            self.layers.ready.eq((coming < _PREPARED) & ~stopped),
            take.eq(self.layers.valid & self.layers.ready),
            quantise.value.eq(command.scale), quantise.point.eq(command.point)]
        latency = Quantise.latency
        valid = delay(m, take, latency, name="quantised", reset=True)
        late = LayerCommand(delay(m, command.as_value(), latency, name="command_quantised"))
        magnitude = quantise.magnitude
        point = late.point.as_signed()
        wrong: Any = EncoderCause.NONE.value
        for bad, cause in reversed((
                (~late.bin_size.any() | (late.bin_size > self.bins.largest_bin),
                 EncoderCause.BIN_SIZE),
                (~late.factor.any(), EncoderCause.FACTOR),
                ((point < POINTS[0]) | (point > POINTS[-1]), EncoderCause.POINT),
                (~late.measure & (quantise.beyond | quantise.inexact | quantise.negative
                                  | (magnitude[31] & magnitude[:31].any())
                                  | (late.choose & magnitude.any())),
                 EncoderCause.SCALE))):
            wrong = Mux(bad, cause.value, wrong)
        wrong = delay(m, wrong[:3], 1, name="wrong")
        checked = delay(m, Cat(late.as_value(), magnitude), 1, name="command_checked")
        valid = delay(m, valid, 1, name="checked", reset=True)
        with m.If(valid & ~stopped):
            m.d.sync += [stopped.eq(wrong.any()), self.cause.eq(wrong)]
        m.d.comb += [fifo.w_en.eq(valid & ~wrong.any() & ~stopped), fifo.w_data.eq(checked)]
        m.d.sync += coming.eq(coming + take - (fifo.r_en & fifo.r_rdy))
        return fifo, PreparedLayer(fifo.r_data)

    def _measure(self, m: Module, layer: Any, ends: Any, out: Signal) -> None:
        m.submodules.of_measured = fields = SyncFIFO(width=20, depth=_MEASURED)
        m.submodules.measured = fifo = SyncFIFO(width=Measured.as_shape().size, depth=_MEASURED)
        m.d.comb += [
            fields.w_en.eq(ends), fields.w_data.eq(Cat(layer.command.layer, layer.command.point)),
            fields.r_en.eq(self.bins.sum_valid),
            fifo.w_en.eq(self.bins.sum_valid),
            fifo.w_data.eq(Cat(fields.r_data, self.bins.sum, self.bins.bins)),
            self.measured.valid.eq(fifo.r_rdy), self.measured.payload.eq(fifo.r_data),
            fifo.r_en.eq(self.measured.ready),
        ]
        m.d.sync += out.eq(out + ends - (self.measured.valid & self.measured.ready))

    def _read(self, m: Module, words: Any, framing: Any, begun: SyncFIFO) -> None:
        lanes, bins = self.lanes, self.bins
        layer = bins.reading
        residues_out = Signal(range(_RESIDUES + 1), name="residues_out")
        words_out = Signal(range(ROWS_WAITING + 1), name="words_out")
        room, go = Signal(name="room_to_read"), Signal(name="go")
        m.d.sync += room.eq((residues_out < _RESIDUES - 1) & (words_out < ROWS_WAITING - 1))
        m.d.comb += [
            bins.layers.valid.eq(begun.r_rdy), bins.layers.payload.eq(begun.r_data),
            begun.r_en.eq(bins.layers.ready),
            go.eq(bins.ready & room & (framing.layers.ready | ~bins.reading_first)),
            bins.read.eq(go),
            framing.layers.valid.eq(go & bins.reading_first),
            framing.layers.payload.eq(layer.header),
        ]

        # Subtract what is sent; with a scale of zero nothing is.
        latency = bins.read_latency
        units = delay(m, layer.units, latency, name="units")
        bin_size = delay(m, layer.header.bin_size, latency, name="bin_size")
        sends = delay(m, layer.units.any() | layer.choose, latency, name="sends")
        m.submodules.updated = fifo = SyncFIFO(width=32 * lanes, depth=_RESIDUES)
        new = []
        for j in range(lanes):
            total = bins.read_total[j]
            sent = bins.read_sent[j] & sends
            positive = ~total[-1]
            change = (units ^ positive.replicate(32)) & sent.replicate(32)
            new.append(delay(m, (Cat(Const(1, 1), total) + Cat(positive & sent, change))[1:33], 1,
                             name=f"new_{j}"))
        m.d.comb += [
            fifo.w_en.eq(delay(m, bins.read_valid, 1, name="new_valid", reset=True)),
            fifo.w_data.eq(Cat(new)), fifo.r_en.eq(self.updated.ready),
            self.updated.valid.eq(fifo.r_rdy), self.updated.payload.eq(fifo.r_data)]

        m.d.comb += [
            words.row_valid.eq(bins.read_valid),
            words.sent.eq(bins.read_sent & sends.replicate(lanes)),
            words.negative.eq(Cat(bins.read_total[j][31] for j in range(lanes))),
            words.index.eq(bins.read_index), words.end.eq(bins.read_end),
            words.last.eq(bins.read_last), words.refused.eq(bins.read_refused),
            words.bin_size.eq(bin_size),
            framing.row_valid.eq(words.out_valid), framing.used.eq(words.used),
            framing.slots.eq(words.slots), framing.base.eq(words.base),
            framing.last.eq(words.out_last), framing.refused.eq(words.out_refused),
        ]
        wiring.connect(m, wiring.flipped(self.packets), framing.packets)
        m.d.sync += [
            residues_out.eq(residues_out + go - (self.updated.valid & self.updated.ready)),
            words_out.eq(words_out + go - framing.row_done),
        ]
