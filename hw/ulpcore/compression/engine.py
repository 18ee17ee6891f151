"""The compression engine: encoder and decoder with their way to memory.

Twin of `ulpsim.compression.engine.Engine`, byte for byte.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.compression.adacomp import LARGEST_BIN, EncoderCause
from ulpsim.compression.engine import LARGEST_ROUND, EngineCause, Operation, Place
from ulpsim.compression.packets import PacketCause
from ulpsim.compression.words import BYTE_BIN

from ..bus import AXI4Read, AXI4Write, Response
from ..extent import Extent
from .decoder import Decoder
from .elements import Elements
from .encoder import Encoder
from .engine_command import EngineCommand, EngineCompletion
from .framing import beat_numbers
from .packet_reader import PacketReader
from .packet_writer import PacketWriter
from .positions import require_lanes
from .reader import BeatReader, ReadPort
from .rows import BeatsFromRows, RowsFromBeats
from .scale import Scale
from .writer import BeatWriter, WritePort

__all__ = ["BUS_BYTES", "CompressionEngine"]

BUS_BYTES = (4, 8, 16, 32, 64)
#: Bytes of a packet besides its words and their padding, at most, and what padding can add.
_FRAMING = 20


class Pass(enum.Enum, shape=3):
    """What goes over a layer: a command is one to three passes."""

    MEASURE = 0     #: gradients and residues to their mean
    COUNT = 1       #: as SEND, but nothing is written: how long will the packets be?
    SEND = 2        #: new residues and packets to memory
    CLEAR = 3       #: zeros to the dense gradient
    ADD = 4         #: packets to the dense gradient


class CompressionEngine(wiring.Component):
    """Compresses gradients in memory to packets in memory, and adds packets to a dense gradient.

    One command at a time, as `ulpsim.compression.engine` has it. COMPRESS passes over the layer
    once with a given scale and twice for the exact mean; once more, without writing, if its packets
    might not fit the buffer (up to 1 byte an element in bins of up to 64, else 2, and 20 a packet):
    so an overflow is known before anything is changed. All regions are checked before the first
    access; nothing is written outside of them. What failed needs no reset: the next command finds
    an engine that is new but for the places in the packet buffers.

    A pass is bound by the bus (an element is 4 or 2 bytes of gradient and 4 of residue to read, 4
    to write) or by the encoder (`lanes` elements a cycle), and takes some 100 cycles and a few
    latencies of memory besides. Packets are written at up to 4 bytes a cycle. The decoder's words
    are a beat to read and one to write, one a cycle at best; a packet takes some 40 cycles and a
    latency besides, of more than 64 bytes some 80 and two.

    The bus may take as long as it likes, but must answer.

    Parameters
    ----------
    lanes, largest_bin
        Of the encoder.
    bus_bytes
        4, 8, 16, 32 or 64.
    burst_beats, outstanding
        The longest burst (2 to 64, up to 4 KB), and how many reads of each kind are under way.

    Members
    -------
    commands : In(stream(EngineCommand)), completions : Out(stream(EngineCompletion))
        One for each command.
    stop : In(1)
        End the command under way, as if the bus had failed, with the cause STOPPED, if it does not
        end by itself first.
    read : Out(AXI4Read), write : Out(AXI4Write)
    """

    commands: Any
    completions: Any
    stop: Signal
    read: Any
    write: Any

    def __init__(self, *, lanes: int, largest_bin: int = LARGEST_BIN, bus_bytes: int = 4,
                 burst_beats: int = 16, outstanding: int = 4) -> None:
        if bus_bytes not in BUS_BYTES:
            raise ValueError(f"bus_bytes must be one of {', '.join(map(str, BUS_BYTES))}, not "
                             f"{bus_bytes!r}")
        if burst_beats not in (2, 4, 8, 16, 32, 64):
            raise ValueError("burst_beats must be a power of two from 2 to 64, not "
                             f"{burst_beats!r}")
        self.lanes, self.bus_bytes = require_lanes(lanes), bus_bytes
        self.encoder = Encoder(lanes=lanes, largest_bin=largest_bin)
        self.decoder = Decoder()
        options = {"bus_bytes": bus_bytes, "burst_beats": burst_beats}
        # The first one reads gradients or packets, the second one residues.
        self.readers = [BeatReader(**options, outstanding=outstanding) for _ in range(2)]
        # The first one writes residues or zeros, the second one packets.
        self.writers = [BeatWriter(**options) for _ in range(2)]
        self.rows_in = [RowsFromBeats(lanes=lanes, bus_bytes=bus_bytes) for _ in range(2)]
        self.rows_out = BeatsFromRows(lanes=lanes, bus_bytes=bus_bytes)
        self.packet_writer = PacketWriter(numbers=beat_numbers(lanes), bus_bytes=bus_bytes)
        self.packet_reader = PacketReader(bus_bytes=bus_bytes)
        self.elements = Elements(bus_bytes=bus_bytes, outstanding=self.decoder.outstanding)
        self.scale = Scale()
        super().__init__({
            "commands": In(stream.Signature(EngineCommand)),
            "completions": Out(stream.Signature(EngineCompletion)),
            "stop": In(1),
            "read": Out(AXI4Read(data_bytes=bus_bytes)),
            "write": Out(AXI4Write(data_bytes=bus_bytes))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command: Any = Signal(EngineCommand, name="command", reset_less=True)
        pass_ = Signal(Pass, name="pass")
        reset, begin = Signal(name="reset_parts"), Signal(name="begin")
        running = Signal(name="running")

        # All parts but the ports are as new before every pass.
        parts = {"encoder": self.encoder, "decoder": self.decoder, "scale": self.scale,
                 "rows_out": self.rows_out, "packet_writer": self.packet_writer,
                 "packet_reader": self.packet_reader, "elements": self.elements}
        for kind in ("readers", "writers", "rows_in"):
            parts |= {f"{kind}_{i}": part for i, part in enumerate(getattr(self, kind))}
        for name, part in parts.items():
            m.submodules[name] = ResetInserter(reset)(part)
        m.submodules.read_port = reads = ReadPort(clients=3, bus_bytes=self.bus_bytes)
        m.submodules.write_port = writes = WritePort(clients=3, bus_bytes=self.bus_bytes)
        for i, (reader, writer) in enumerate(
                zip([*(part.client for part in self.readers), self.elements.read_client],
                    [*(part.client for part in self.writers), self.elements.write_client],
                    strict=True)):
            wiring.connect(m, reader, getattr(reads, f"client_{i}"))
            wiring.connect(m, writer, getattr(writes, f"client_{i}"))
        wiring.connect(m, wiring.flipped(self.read), reads.bus)
        wiring.connect(m, wiring.flipped(self.write), writes.bus)
        m.d.comb += [reads.stop.eq(~running), writes.stop.eq(~running)]
        quiet = Signal(name="quiet")
        m.d.comb += quiet.eq(reads.quiet & writes.quiet)

        used, scale = Signal(32, name="used"), Signal(32, name="scale")
        self._compress(m, command, pass_, begin, used, scale)
        self._decode(m, command, pass_, begin)
        self._control(m, command, pass_, begin, reset, running, quiet, used, scale, reads, writes)
        return m

    def _compress(self, m: Module, command: Any, pass_: Signal, begin: Signal, used: Signal,
                  scale: Signal) -> None:
        """Gradients and residues to the encoder, new residues and packets from it."""
        encoder, low = self.encoder, exact_log2(self.bus_bytes)
        adds = pass_ == Pass.ADD
        compresses = (pass_ == Pass.MEASURE) | (pass_ == Pass.COUNT) | (pass_ == Pass.SEND)
        gradients, residues = self.readers
        size = Signal(33, name="gradient_bytes")
        m.d.comb += [
            size.eq(command.elements << Mux(command.dlfloat16, 1, 2)),
            residues.begin.eq(begin & compresses), residues.address.eq(command.residue),
            residues.beats.eq(((command.elements << 2) + (self.bus_bytes - 1)) >> low)]
        with m.If(adds):
            reader = self.packet_reader
            m.d.comb += [
                gradients.begin.eq(reader.reading), gradients.address.eq(reader.address),
                gradients.beats.eq(reader.count), gradients.discard.eq(reader.discard),
                reader.beats.payload.eq(gradients.out.payload),
                reader.beats.valid.eq(gradients.out.valid),
                gradients.out.ready.eq(reader.beats.ready)]
        with m.Else():
            rows = self.rows_in[0]
            m.d.comb += [
                gradients.begin.eq(begin & compresses), gradients.address.eq(command.gradient),
                gradients.beats.eq((size + (self.bus_bytes - 1)) >> low),
                rows.beats.payload.eq(gradients.out.payload),
                rows.beats.valid.eq(gradients.out.valid),
                gradients.out.ready.eq(rows.beats.ready)]
        m.d.comb += self.rows_in[0].half.eq(command.dlfloat16)
        wiring.connect(m, residues.out, self.rows_in[1].beats)
        wiring.connect(m, self.rows_in[0].rows, encoder.gradients)
        wiring.connect(m, self.rows_in[1].rows, encoder.residues)

        told = Signal(name="encoder_told")
        with m.If(begin):
            m.d.sync += told.eq(~compresses)
        with m.Elif(encoder.layers.ready):
            m.d.sync += told.eq(1)
        layer = encoder.layers.payload
        m.d.comb += [
            encoder.layers.valid.eq(~told),
            layer.last_element.eq(command.elements - 1), layer.measure.eq(pass_ == Pass.MEASURE),
            layer.scale.eq(scale),
            *(getattr(layer, name).eq(getattr(command, name)) for name in
              ("learner", "layer", "step", "bin_size", "factor", "point", "dlfloat16", "choose"))]
        wiring.connect(m, encoder.measured, self.scale.measured)

        out, packets = self.rows_out, self.packet_writer
        m.d.comb += [
            out.begin.eq(begin), out.elements.eq(command.elements),
            out.rows.valid.eq(encoder.updated.valid & (pass_ == Pass.SEND) | (pass_ == Pass.CLEAR)),
            encoder.updated.ready.eq(out.rows.ready | (pass_ == Pass.COUNT))]
        with m.If(pass_ == Pass.SEND):
            m.d.comb += out.rows.payload.eq(encoder.updated.payload)
        wiring.connect(m, encoder.packets, packets.packets)
        m.d.comb += [
            packets.begin.eq(begin), packets.used.eq(Mux(command.append, used, 0)),
            packets.capacity.eq(command.capacity), packets.count.eq(pass_ == Pass.COUNT)]
        start = Signal(32, name="packets_start")
        m.d.comb += start.eq(command.buffer + packets.used)
        for writer, source, done, address in (
                (self.writers[0], out, out.done,
                 Mux(pass_ == Pass.CLEAR, command.gradient, command.residue)),
                (self.writers[1], packets, packets.done, Cat(Const(0, low), start[low:]))):
            wiring.connect(m, source.beats, writer.beats)
            m.d.comb += [writer.begin.eq(begin), writer.address.eq(address),
                         writer.ending.eq(done)]

    def _decode(self, m: Module, command: Any, pass_: Signal, begin: Signal) -> None:
        """Packets to the decoder, elements of the dense gradient to it and back."""
        decoder, reader, elements = self.decoder, self.packet_reader, self.elements
        adds = pass_ == Pass.ADD
        m.d.comb += [
            reader.begin.eq(begin & adds), reader.idle.eq(self.readers[0].idle),
            reader.last_index.eq(command.last_learner - command.learner),
            *(getattr(reader, name).eq(getattr(command, name)) for name in
              ("append", "buffer", "pitch", "capacity"))]
        wiring.connect(m, reader.packets, decoder.packets)
        wiring.connect(m, decoder.reports, reader.reports)
        for name in ("reads", "values", "writes"):
            ours, theirs = getattr(decoder, name), getattr(elements, name)
            wiring.connect(m, ours, theirs)
        told = Signal(name="decoder_told")
        with m.If(begin):
            m.d.sync += told.eq(~adds)
        with m.Elif(decoder.rounds.ready):
            m.d.sync += told.eq(1)
        round_ = decoder.rounds.payload
        m.d.comb += [
            decoder.rounds.valid.eq(~told), round_.layer.eq(command.layer),
            round_.step.eq(command.step), round_.first_learner.eq(command.learner),
            round_.last_learner.eq(command.last_learner),
            round_.last_element.eq(command.elements - 1), round_.base.eq(command.gradient >> 2),
            round_.gather.eq(0), decoder.gathered.ready.eq(1), decoder.finished.ready.eq(1),
            decoder.written.eq(elements.written)]

    def _control(self, m: Module, command: Any, pass_: Signal, begin: Signal, reset: Signal,
                 running: Signal, quiet: Signal, used: Signal, scale: Signal, reads: Any,
                 writes: Any) -> None:
        """Check a command, make its passes, report it."""
        packets, reader = self.packet_writer, self.packet_reader
        cause, place = Signal(EngineCause, name="cause"), Signal(Place, name="place")
        detail, bytes_ = Signal(4, name="detail"), Signal(32, name="bytes")
        mean, measured = Signal(32, name="mean"), Signal(name="measured")
        finished = Signal(name="finished")
        decoded = Signal(range(LARGEST_ROUND + 1), name="learners_decoded")
        learners = Signal(11, name="learners")
        compresses = command.operation == Operation.COMPRESS
        completion = self.completions.payload
        good = cause == EngineCause.NONE
        m.d.comb += [
            learners.eq(command.last_learner - command.learner + 1),
            completion.cause.eq(cause), completion.detail.eq(detail), completion.place.eq(place),
            completion.layer.eq(command.layer), completion.bytes.eq(bytes_),
            completion.learner.eq(command.learner
                                  + Mux(cause == EngineCause.PACKET, reader.index, 0))]
        with m.If(good):
            m.d.comb += [
                completion.packets.eq(Mux(compresses, packets.packets_done, reader.packets_done)),
                completion.incomplete.eq(Mux(compresses, packets.incomplete, reader.incomplete))]
            with m.If(compresses):
                m.d.comb += [completion.scale.eq(packets.scale), completion.mean.eq(mean)]

        m.submodules.extent = extent = Extent(width=32)
        m.d.comb += [
            extent.rows.eq(Mux(compresses, 1, learners)), extent.first.eq(command.buffer),
            extent.length.eq(command.capacity), extent.pitch.eq(command.pitch)]
        wrong, where = self._check(m, command, compresses, learners, decoded, extent.end)
        fits = self._fits(m, command, used)
        m.d.comb += self.scale.scales.ready.eq(1)

        def fail(why: Any, at: Any, more: Any = 0) -> None:
            m.d.sync += [cause.eq(why), place.eq(at), detail.eq(more)]
            m.next = "ABORT"

        with m.FSM(name="control"):
            with m.State("IDLE"):
                m.d.comb += self.commands.ready.eq(1)
                m.d.sync += [command.eq(self.commands.payload), cause.eq(0), place.eq(0),
                             detail.eq(0), bytes_.eq(0), scale.eq(self.commands.payload.scale)]
                with m.If(self.commands.valid):
                    m.next = "REGIONS"
            with m.State("REGIONS"):
                m.d.comb += extent.start.eq(1)
                m.next = "CHECK"
            with m.State("CHECK"), m.If(extent.done):
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.sync += [cause.eq(wrong), place.eq(where)]
                m.next = "RESET"
                with m.If(wrong != EngineCause.NONE):
                    m.next = "REPORT"
                with m.Elif(compresses):
                    m.d.sync += pass_.eq(Mux(
                        command.exact & ~command.choose, Pass.MEASURE,
                        Mux(fits, Pass.SEND, Pass.COUNT)))
                with m.Else():
                    m.d.sync += pass_.eq(Mux(command.clear, Pass.CLEAR, Pass.ADD))
            with m.State("RESET"):
                m.d.comb += reset.eq(1)
                m.d.sync += [measured.eq(0), finished.eq(0)]
                m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += begin.eq(1)
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                with m.If(self.scale.scales.valid):
                    m.d.sync += [measured.eq(1), mean.eq(self.scale.scales.payload.scale)]
                with m.If(self.decoder.finished.valid):
                    m.d.sync += finished.eq(1)
                with m.Switch(pass_):
                    with m.Case(Pass.MEASURE), m.If(measured):
                        m.next = "SETTLE"
                    with m.Case(Pass.COUNT), m.If(measured & packets.done):
                        m.next = "SETTLE"
                    with m.Case(Pass.SEND), m.If(measured & packets.done & self.rows_out.done):
                        m.next = "SETTLE"
                    with m.Case(Pass.CLEAR), m.If(self.rows_out.done):
                        m.next = "SETTLE"
                    with m.Case(Pass.ADD), m.If(finished & reader.done):
                        m.next = "SETTLE"
                self._fail(m, fail, pass_, reads, writes)
            with m.State("SETTLE"):
                m.d.comb += running.eq(1)
                with m.If(quiet & Cat(writer.idle for writer in self.writers).all()):
                    m.next = "REPORT"
                    with m.Switch(pass_):
                        with m.Case(Pass.MEASURE):
                            m.d.sync += [scale.eq(mean),
                                         pass_.eq(Mux(fits, Pass.SEND, Pass.COUNT))]
                            m.next = "RESET"
                        with m.Case(Pass.COUNT):
                            m.d.sync += pass_.eq(Pass.SEND)
                            m.next = "RESET"
                            with m.If(packets.bytes > command.capacity):
                                m.d.sync += bytes_.eq(packets.bytes)
                                fail(EngineCause.OVERFLOW, Place.PACKETS)
                        with m.Case(Pass.SEND):
                            m.d.sync += [used.eq(packets.bytes), bytes_.eq(packets.bytes)]
                        with m.Case(Pass.CLEAR):
                            m.d.sync += pass_.eq(Pass.ADD)
                            m.next = "RESET"
                        with m.Case(Pass.ADD):
                            m.d.comb += reader.commit.eq(1)
                            m.d.sync += [decoded.eq(learners), bytes_.eq(reader.bytes)]
                self._fail(m, fail, pass_, reads, writes)
            with m.State("ABORT"), m.If(quiet):
                m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += self.completions.valid.eq(1)
                with m.If(self.completions.ready):
                    m.next = "IDLE"

    def _check(self, m: Module, command: Any, compresses: Value, learners: Value, decoded: Value,
               end: Value) -> tuple[Signal, Signal]:
        """The first rule that the command breaks, and of which region."""
        wrong, where = Signal(EngineCause, name="wrong"), Signal(Place, name="where")
        elements, low = command.elements, exact_log2(self.bus_bytes)
        half = compresses & command.dlfloat16
        gradient_end, residue_end = Signal(35), Signal(35)
        too_many, no_order = Signal(name="wrong_learners"), Signal(name="other_learners")
        m.d.sync += [
            gradient_end.eq(command.gradient + (elements << Mux(half, 1, 2))),
            residue_end.eq(command.residue + (elements << 2)),
            too_many.eq((command.last_learner < command.learner) | (learners > LARGEST_ROUND)),
            no_order.eq(command.append & (learners != decoded))]
        limit = 1 << 32
        pitch = command.pitch & (~compresses).replicate(32)
        rules = (
            (~elements.any(), EngineCause.ELEMENTS, Place.NONE),
            (~compresses & (too_many | no_order), EngineCause.LEARNERS, Place.NONE),
            (command.gradient[:low].any(), EngineCause.MISALIGNED, Place.GRADIENT),
            (compresses & command.residue[:low].any(), EngineCause.MISALIGNED, Place.RESIDUE),
            (Cat(command.buffer[:low], command.capacity[:low], pitch[:low]).any(),
             EngineCause.MISALIGNED, Place.PACKETS),
            (gradient_end > limit, EngineCause.RANGE, Place.GRADIENT),
            (compresses & (residue_end > limit), EngineCause.RANGE, Place.RESIDUE),
            (end > limit, EngineCause.RANGE, Place.PACKETS))
        for broken, cause, place in reversed(rules):
            with m.If(broken):
                m.d.comb += [wrong.eq(cause), where.eq(place)]
        return wrong, where

    def _fits(self, m: Module, command: Any, used: Signal) -> Signal:
        """The layer's packets fit the buffer whatever they are: no more words than elements."""
        words, packets = Signal(33, name="most_bytes"), Signal(25, name="most_packets")
        need, fits = Signal(35, name="most_needed"), Signal(name="fits")
        m.d.sync += [
            words.eq(command.elements << Mux(command.bin_size <= BYTE_BIN, 0, 1)),
            packets.eq((command.elements[12:] + 1) * _FRAMING),
            need.eq(words + packets + Mux(command.append, used, 0)),
            fits.eq(need <= command.capacity)]
        return fits

    def _fail(self, m: Module, fail: Any, pass_: Signal, reads: Any, writes: Any) -> None:
        """Whatever stops a pass; of several causes at once the last one here counts."""
        encoder, reader, elements = self.encoder, self.packet_reader, self.elements
        with m.If(encoder.cause != EncoderCause.NONE):
            fail(EngineCause.ENCODER, Place.NONE, encoder.cause)
        with m.If(self.packet_writer.overflow):
            fail(EngineCause.OVERFLOW, Place.PACKETS)
        with m.If((reader.cause != PacketCause.NONE) & self.decoder.quiet):
            fail(EngineCause.PACKET, Place.NONE, reader.cause)

        def bus_error(response: Value, place: Any) -> None:
            with m.If(response[1]):
                fail(Mux(response == Response.SLAVE_ERROR, EngineCause.SLAVE_ERROR,
                         EngineCause.DECODE_ERROR), place)

        adds, clears = pass_ == Pass.ADD, pass_ == Pass.CLEAR
        element = elements.read_client
        bus_error(element.response & element.valid.replicate(2), Place.GRADIENT)
        bus_error(self.readers[1].error, Place.RESIDUE)
        bus_error(self.readers[0].error, Mux(adds, Place.PACKETS, Place.GRADIENT))
        bus_error(writes.error, Mux(adds | clears, Place.GRADIENT,
                                    Mux(writes.error_client == 0, Place.RESIDUE, Place.PACKETS)))
        with m.If(self.stop):
            fail(EngineCause.STOPPED, Place.NONE)
