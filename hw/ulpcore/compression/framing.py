"""Packets from words: twin of `ulpsim.compression.packets.packets_of`."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2
from ulpsim.compression.packets import LARGEST_PACKET
from ulpsim.compression.words import BYTE_BIN

from ..float32 import delay
from .crc import Crc32
from .layer import LayerHeader
from .positions import INDEX_BITS, require_lanes
from .words import WORD_BITS, slot_layout

__all__ = ["LAYERS_WAITING", "ROWS_WAITING", "Framing", "beat_numbers", "packet_stream"]

#: Rows that wait for being framed: those that are under way when no more are asked for.
ROWS_WAITING = 32
#: Layers whose rows are under way, and packets that wait for being sent.
LAYERS_WAITING, _PACKETS = 16, 16
_CRC_NUMBERS = 8


def beat_numbers(lanes: int) -> int:
    """32-bit numbers in a beat of an encoder's packets: a word of 16 bits for each lane."""
    return max(lanes * WORD_BITS // 32, 1)


def packet_stream(numbers: int) -> stream.Signature:
    """Packets, `numbers` 32-bit numbers a beat.

    `count` of them are there, from the lowest on; fewer than `numbers` only at the end of the
    header, of the words, and of the packet, at which `last` is set.
    """
    return stream.Signature(data.StructLayout({
        "numbers": data.ArrayLayout(32, numbers), "count": range(numbers + 1), "last": 1}))


class Framing(wiring.Component):
    """Packs rows of words into packets of up to 4096 words, and sends a packet when it is complete.

    The buffer holds the words of two full packets.

    Members
    -------
    layers : In(stream(LayerHeader))
        One for each layer.
    row_valid, used, slots, base, last, refused
        Rows as `Words` has them; no more than ROWS_WAITING at a time.
    row_done : Out(1)
        A row has been packed.
    packets : Out(packet_stream)
    """

    layers: Any
    row_valid: Signal
    used: Signal
    slots: Any
    base: Signal
    last: Signal
    refused: Signal
    row_done: Signal
    packets: Any

    def __init__(self, *, lanes: int) -> None:
        self.lanes = require_lanes(lanes)
        self.numbers = beat_numbers(lanes)
        super().__init__({
            "layers": In(stream.Signature(LayerHeader)), "row_valid": In(1),
            "used": In(lanes), "slots": In(data.ArrayLayout(slot_layout(lanes), lanes)),
            "base": In(32), "last": In(1), "refused": In(1), "row_done": Out(1),
            "packets": Out(packet_stream(self.numbers))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.lanes
        slot = slot_layout(lanes)
        valid, words, used, extra = self._compact(m)

        row_layout = data.StructLayout({
            "words": data.ArrayLayout(slot, lanes), "used": range(lanes + 1), "base": 32,
            "last": 1, "refused": 1})
        m.submodules.rows = rows = SyncFIFOBuffered(width=row_layout.size, depth=ROWS_WAITING + 1)
        m.d.comb += [rows.w_en.eq(valid), rows.w_data.eq(Cat(*words, used, extra))]
        row = data.View(row_layout, rows.r_data)

        # What a packet is made of: beats of words, and a description.
        beat_bits = 32 * self.numbers
        m.submodules.beats = beats = SyncFIFOBuffered(
            width=beat_bits, depth=2 * LARGEST_PACKET * WORD_BITS // beat_bits + 1)
        description = data.StructLayout({
            "header": data.ArrayLayout(32, 4), "continued": 1, "bytes": 1, "count": 13})
        m.submodules.descriptions = descriptions = SyncFIFO(
            width=description.size, depth=_PACKETS)

        m.submodules.layers_fifo = layers = SyncFIFO(width=LayerHeader.as_shape().size,
                                                     depth=LAYERS_WAITING)
        # A cycle old as well.
        ready = Signal(name="layers_ready")
        m.d.sync += ready.eq(layers.level < LAYERS_WAITING - 1)
        m.d.comb += [layers.w_en.eq(self.layers.valid & ready), self.layers.ready.eq(ready),
                     layers.w_data.eq(self.layers.payload)]
        layer = LayerHeader(layers.r_data)
        small = Signal(name="small_words")
        m.d.comb += small.eq(layer.bin_size <= BYTE_BIN)

        # Words wait here until there are as many as lanes.
        pending = Signal(data.ArrayLayout(WORD_BITS, lanes))
        waiting = Signal(range(max(lanes, 2)))
        origin = data.StructLayout({"base": 32, "slot": slot})
        pending_origin = Signal(origin)        # of the first word that waits
        flushing, any_refused = Signal(), Signal()
        room = Signal()
        # A cycle old: in the meantime a beat and two descriptions may have come.
        space = Signal(name="space")
        m.d.sync += space.eq((beats.w_level <= beats.depth - 5)
                             & (descriptions.level <= _PACKETS - 5))
        m.d.comb += room.eq(space & layers.r_rdy)
        group = Signal(data.StructLayout({
            "valid": 1, "words": data.ArrayLayout(WORD_BITS, lanes), "used": range(lanes + 1),
            "origin": origin, "flush": 1, "refused": 1, "small": 1}))
        m.d.sync += [group.valid.eq(0), group.flush.eq(0), group.small.eq(small),
                     group.refused.eq(any_refused)]

        rotated = self._rotate(m, [row.words[i].word for i in range(lanes)], waiting)
        row_origins = Signal(data.ArrayLayout(origin, 2))
        m.d.comb += [row_origins[0].base.eq(row.base), row_origins[0].slot.eq(row.words[0]),
                     row_origins[1].base.eq(row.base)]
        with m.Switch(waiting):
            for i in range(lanes):
                with m.Case(i):
                    m.d.comb += row_origins[1].slot.eq(row.words[(lanes - i) % lanes])
        together = Signal(range(2 * lanes + 1))
        m.d.comb += together.eq(waiting + row.used)
        low = exact_log2(lanes)
        full = together[low:].any()
        step, two_packets = Signal(name="pack_row"), Signal(name="two_packets")
        m.d.comb += [step.eq(rows.r_rdy & room & ~flushing & ~two_packets), rows.r_en.eq(step),
                     self.row_done.eq(step)]
        # A layer's last words go with its last row, or a cycle later if they are too many.
        ends, done = Signal(name="layer_ends"), Signal(name="layer_done")
        m.d.comb += [ends.eq(row.last & ~(full & together[:low].any() if low else Const(0, 1))),
                     done.eq(room & flushing)]
        for i in range(lanes):
            m.d.sync += group.words[i].eq(Mux(i < waiting, pending[i], rotated[i]))
        m.d.sync += group.used.eq(Mux(full, lanes, together))
        m.d.sync += group.origin.eq(Mux(waiting.any() if lanes > 1 else Const(0, 1),
                                        pending_origin, row_origins[0]))
        with m.If(step):
            m.d.sync += [group.valid.eq(full | (ends & together.any())), group.flush.eq(ends),
                         group.refused.eq(any_refused | row.refused),
                         flushing.eq(row.last & ~ends),
                         any_refused.eq((any_refused | row.refused) & ~ends)]
            if lanes > 1:
                m.d.sync += waiting.eq(Mux(ends, 0, together))
                for i in range(lanes):
                    with m.If(full | (i >= waiting)):
                        m.d.sync += pending[i].eq(rotated[i])
                with m.If(full):
                    m.d.sync += pending_origin.eq(row_origins[1])
                with m.Elif(~waiting.any()):
                    m.d.sync += pending_origin.eq(row_origins[0])
        with m.If(done):
            m.d.sync += [group.valid.eq(waiting.any() if lanes > 1 else 0), group.used.eq(waiting),
                         group.flush.eq(1), waiting.eq(0), flushing.eq(0), any_refused.eq(0)]

        m.d.comb += layers.r_en.eq(done | (step & ends))
        self._write(m, group, layer, beats, descriptions, description, two_packets)
        self._send(m, beats, descriptions, description)
        return m

    def _compact(self, m: Module) -> tuple[Value, list[Value], Value, Value]:
        """The words of a row at its beginning, a cycle for each step; how many they are."""
        lanes = self.lanes
        bits = ceil_log2(lanes) if lanes > 1 else 1
        words = [self.slots[j].as_value() for j in range(lanes)]
        has = [self.used[j] for j in range(lanes)]
        moves = [sum((~self.used[i] for i in range(j)), start=Const(0, bits))[:bits]
                 for j in range(lanes)]
        used = sum((self.used[j] for j in range(lanes)), start=Const(0, 1))
        used = Cat(used, Const(0, 8))[:Signal(range(lanes + 1)).shape().width]
        valid: Value = self.row_valid
        extra: Value = Cat(self.base, self.last, self.refused)
        # How far each has to go down, a bit at a time from the lowest: none is in another's way.
        words = [delay(m, word, 1, name=f"slot_{j}") for j, word in enumerate(words)]
        has = [delay(m, bit, 1, name=f"slot_used_{j}") for j, bit in enumerate(has)]
        moves = [delay(m, move, 1, name=f"move_{j}") for j, move in enumerate(moves)]
        used, extra = delay(m, used, 1, name="slots_used"), delay(m, extra, 1, name="slots_extra")
        valid = delay(m, valid, 1, name="slots_valid", reset=True)
        for step in range(exact_log2(lanes)):
            distance = 1 << step
            was, were, went = list(words), list(has), list(moves)
            for j in range(lanes):
                stays = were[j] & ~went[j][step]
                comes = Const(0, 1)
                if j + distance < lanes:
                    comes = were[j + distance] & went[j + distance][step]
                    words[j] = Mux(comes, was[j + distance], was[j])
                    moves[j] = Mux(comes, went[j + distance], went[j])
                has[j] = stays | comes
            words = [delay(m, v, 1, name=f"word_{step}_{j}") for j, v in enumerate(words)]
            has = [delay(m, v, 1, name=f"word_used_{step}_{j}") for j, v in enumerate(has)]
            moves = [delay(m, v, 1, name=f"move_{step}_{j}") for j, v in enumerate(moves)]
            used = delay(m, used, 1, name=f"used_{step}")
            extra = delay(m, extra, 1, name=f"extra_{step}")
            valid = delay(m, valid, 1, name=f"valid_{step}", reset=True)
        return valid, words, used, extra

    def _rotate(self, m: Module, values: Sequence[Value], amount: Value) -> list[Value]:
        """`values[(i - amount) mod lanes]` at place i."""
        count = len(values)
        for bit in range(exact_log2(count)):
            stage = [Signal(len(values[0]), name=f"rotated_{bit}_{i}") for i in range(count)]
            m.d.comb += [stage[i].eq(Mux(amount[bit], values[(i - (1 << bit)) % count], values[i]))
                         for i in range(count)]
            values = stage
        return list(values)

    def _write(self, m: Module, group: Any, layer: Any, beats: Any, descriptions: Any,
               description: data.StructLayout, two_packets: Signal) -> None:
        """Groups of words into beats; what is known of a packet when it is closed.

        `two_packets` are closed at once: a cycle without a row.
        """
        lanes = self.lanes
        cell = lanes * 8                              # half a group of 16-bit words
        cells = 32 * self.numbers // cell
        beat = Signal(32 * self.numbers, name="beat")
        place = Signal(range(cells), name="place")
        short = Cat(group.words[i][:8] for i in range(lanes))
        long = Cat(group.words[i] for i in range(lanes))
        content = Signal(32 * self.numbers, name="content")
        # Unused words of a group that is not full are written as zeros.
        used = Cat(i < group.used for i in range(lanes))
        short = short & Cat(used[i].replicate(8) for i in range(lanes))
        long = long & Cat(used[i].replicate(16) for i in range(lanes))
        placed = Signal(32 * self.numbers, name="placed")
        with m.Switch(place):
            for p in range(cells):
                with m.Case(p):
                    m.d.comb += placed.eq(Mux(group.small, short, long) << (p * cell))
        m.d.comb += content.eq(beat | placed & group.valid.replicate(len(placed)))
        after = Signal(range(cells + 2), name="after")
        m.d.comb += after.eq(place + Mux(group.valid, Mux(group.small, 1, 2), 0))
        complete = after == cells
        writes = complete & group.valid | group.flush & after.any()
        m.d.comb += [beats.w_en.eq(writes), beats.w_data.eq(content)]
        with m.If(writes):
            m.d.sync += [beat.eq(0), place.eq(0)]
        with m.Elif(group.valid):
            m.d.sync += [beat.eq(content), place.eq(after)]

        # A packet that is full is closed by what comes next: only then is it known whether it is
        # the last one.
        count = Signal(13, name="count")
        part, continued = Signal(2, name="part"), Signal(name="continued")
        first = Signal(group.origin.shape(), name="first_word")
        more = group.valid & (count == LARGEST_PACKET)
        m.d.comb += two_packets.eq(more & group.flush)
        close = Signal(data.StructLayout({
            "valid": 1, "last": 1, "refused": 1, "count": 13, "part": 2,
            "continued": 1, "first": group.origin.shape()}))
        # At the end of the layer the packet that was full and the one behind it are closed both.
        second, is_second = Signal(close.shape(), name="second"), Signal(name="is_second")
        entry = Signal(close.shape(), name="entry")
        m.d.comb += [entry.count.eq(count), entry.part.eq(part), entry.continued.eq(continued),
                     entry.first.eq(first)]
        m.d.sync += [close.eq(second), second.valid.eq(0), is_second.eq(second.valid)]
        with m.If(more):
            m.d.comb += [entry.valid.eq(1)]
            m.d.sync += [close.eq(entry), count.eq(group.used), part.eq(part + 1), continued.eq(1),
                         first.eq(group.origin)]
        with m.Elif(group.valid):
            m.d.sync += count.eq(count + group.used)
        with m.If(group.flush):
            m.d.comb += [entry.valid.eq(1)]
            m.d.sync += [count.eq(0), part.eq(0), continued.eq(0)]
            with m.If(more):
                m.d.sync += [second.valid.eq(1), second.last.eq(1),
                             second.refused.eq(group.refused), second.count.eq(group.used),
                             second.part.eq(part + 1), second.continued.eq(1),
                             second.first.eq(group.origin)]
            with m.Else():
                m.d.comb += [entry.last.eq(1), entry.refused.eq(group.refused),
                             entry.count.eq(Mux(group.valid, count + group.used, count))]
                m.d.sync += close.eq(entry)

        # The layer goes with what is closed: two cycles after the row, or three for the second.
        header = delay(m, layer, 2, name="layer_header")
        late = delay(m, header, 1, name="layer_header_late")
        of = Signal(LayerHeader, name="of")
        m.d.comb += of.eq(Mux(is_second, late, header))
        described = Signal(description)
        slot = close.first.slot
        skip = slot.word[:2] == 0
        bin_ = (close.first.base + slot.ahead
                - Mux(skip, slot.word[2:] + 1, Const(0, INDEX_BITS + 1)))[:32]
        describe = Signal(name="describe")
        m.d.sync += [
            describe.eq(close.valid),
            described.header[0].eq(Cat(of.learner, of.layer, of.step)),
            described.header[1].eq(Cat((of.bin_size - 1)[:INDEX_BITS], close.count, close.last,
                                       close.refused, close.continued, close.part)),
            described.header[2].eq(of.scale), described.header[3].eq(bin_),
            described.continued.eq(close.continued), described.bytes.eq(of.bin_size <= BYTE_BIN),
            described.count.eq(close.count)]
        m.d.comb += [descriptions.w_en.eq(describe), descriptions.w_data.eq(described)]

    def _send(self, m: Module, beats: Any, descriptions: Any, description: data.StructLayout
              ) -> None:
        """Header, words, CRC."""
        wide = self.numbers
        packet = data.View(description, descriptions.r_data)
        m.submodules.crc = crc = Crc32(numbers=wide)
        steps = _CRC_NUMBERS // wide                # beats of a block of the CRC
        header_numbers = Signal(range(5))
        m.d.comb += header_numbers.eq(3 + packet.continued)
        payload_numbers = Signal(12)
        m.d.comb += payload_numbers.eq(
            Mux(packet.bytes, (packet.count + 3) >> 2, (packet.count + 1) >> 1))

        out = Signal(self.packets.payload.shape(), name="out")
        out_valid = Signal(name="out_valid")
        m.d.comb += [self.packets.valid.eq(out_valid), self.packets.payload.eq(out)]
        free = Signal(name="out_free")
        m.d.comb += free.eq(~out_valid | self.packets.ready)
        with m.If(self.packets.ready):
            m.d.sync += out_valid.eq(0)

        step = Signal(range(_CRC_NUMBERS + 1), name="block_step")
        left = Signal(12, name="numbers_left")
        crc_data, crc_valid = Signal(32 * wide, name="crc_data"), Signal(name="crc_valid")
        crc_start = Signal(name="crc_start")
        m.d.sync += [crc_valid.eq(0), crc_start.eq(0)]
        m.d.comb += [crc.data.eq(crc_data), crc.valid.eq(crc_valid), crc.start.eq(crc_start)]

        with m.FSM(name="send"):
            with m.State("HEADER"):
                padded = Cat(*(packet.header[i] & (i < header_numbers).replicate(32)
                               if i == 3 else packet.header[i] for i in range(4)),
                             Const(0, 32 * 4))
                count = Signal(range(wide + 1), name="header_count")
                chunk = Signal(32 * wide, name="header_chunk")
                ends = Signal(name="header_ends")
                with m.Switch(step):
                    for s in range(max(steps, 1)):
                        first = s * wide
                        with m.Case(s):
                            m.d.comb += [
                                chunk.eq(padded[32 * first:32 * (first + wide)]),
                                ends.eq(header_numbers <= first + wide),
                                count.eq(Mux(ends, header_numbers - first, wide))]
                with m.If(descriptions.r_rdy & free):
                    m.d.sync += [out_valid.eq(1), out.numbers.eq(chunk), out.count.eq(count),
                                 out.last.eq(0), step.eq(step + 1), left.eq(payload_numbers),
                                 crc_data.eq(chunk), crc_valid.eq(1), crc_start.eq(step == 0)]
                    with m.If(ends):
                        m.next = "PAD_HEADER"
                        if steps == 1:
                            m.d.sync += step.eq(0)
                            m.next = "WORDS"
            with m.State("PAD_HEADER"):
                with m.If(step == steps):
                    m.d.sync += step.eq(0)
                    m.next = "WORDS"
                with m.Else():
                    m.d.sync += [crc_data.eq(0), crc_valid.eq(1), step.eq(step + 1)]
            with m.State("WORDS"):
                with m.If(~left.any()):
                    m.next = "PAD_WORDS"
                with m.Elif(beats.r_rdy & free):
                    final = left <= wide
                    m.d.comb += beats.r_en.eq(1)
                    m.d.sync += [out_valid.eq(1), out.numbers.eq(beats.r_data),
                                 out.count.eq(Mux(final, left, wide)), out.last.eq(0),
                                 crc_data.eq(beats.r_data), crc_valid.eq(1),
                                 left.eq(Mux(final, 0, left - wide)),
                                 step.eq(Mux(step == steps - 1, 0, step + 1))]
                    with m.If(final):
                        m.next = "PAD_WORDS"
            with m.State("PAD_WORDS"):
                with m.If(step == 0):
                    m.next = "CRC"
                with m.Else():
                    m.d.sync += [crc_data.eq(0), crc_valid.eq(1),
                                 step.eq(Mux(step == steps - 1, 0, step + 1))]
            with m.State("CRC"), m.If(free):
                m.d.comb += descriptions.r_en.eq(1)
                m.d.sync += [out_valid.eq(1), out.numbers.eq(crc.crc), out.count.eq(1),
                             out.last.eq(1)]
                m.next = "HEADER"
