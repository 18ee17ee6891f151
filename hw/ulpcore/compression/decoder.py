"""The AdaComp decoder: packets of all learners, added to a dense gradient in memory.

Twin of `ulpsim.compression.packets.Round`.
"""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from ulpsim.compression.packets import LARGEST_PACKET, PacketCause
from ulpsim.compression.words import BYTE_BIN, MINUS, SKIP

from ..float32 import Add, delay
from .positions import BIN_BITS, INDEX_BITS

__all__ = ["Decoder", "GradientWrite", "PacketNumber", "PacketReport", "RoundCommand"]

_CAUSE_BITS = 4
_HALF = LARGEST_PACKET // 2           # 32-bit numbers of a packet of 16-bit words
_CRC_NUMBERS = 8
_ADD_STAGES = 4


class RoundCommand(data.Struct):
    """One step of one layer: which packets are expected, and where the dense gradient stands.

    Learners are 0 to `last_learner`; the layer has `last_element` + 1 elements, from the element
    address `base` on.
    """

    layer: 12
    step: 10
    last_learner: 10
    last_element: 32
    base: 32


class PacketNumber(data.Struct):
    """A 32-bit number of a packet, and whether it is the last one."""

    number: 32
    last: 1


class PacketReport(data.Struct):
    """Of each packet, in their order: why it was refused (`PacketCause`, NONE if it was not), and
    the first number of its header: learner, layer, step."""

    cause: _CAUSE_BITS
    learner: 10
    layer: 12
    step: 10


class GradientWrite(data.Struct):
    """An element of the dense gradient, FP32."""

    address: 32
    value: 32


class Decoder(wiring.Component):
    """Adds scale * sign of every packet's elements to the dense gradient, one word a cycle.

    A packet is received into one of two buffers and checked as a whole (in the order of
    `PacketCause`) while the one before it is being added. One that is refused changes nothing; it
    can be sent again. The next learner's packet is expected only after the last one of the learner
    before, so sums are always made in the order of the learners.

    Receiving takes a cycle a number, and 16 to 24 cycles a packet besides; adding a cycle a word.
    An element that is still on its way from an earlier packet is waited for.

    Parameters
    ----------
    outstanding
        Elements that are under way to memory and back: throughput is one a cycle if memory answers
        within `outstanding` - 8 cycles.

    Members
    -------
    rounds : In(stream(RoundCommand))
        Packets wait for one.
    packets : In(stream(PacketNumber))
    reports : Out(stream(PacketReport))
    finished : Out(stream(layer))
        All writes of a round have been taken.
    reads : Out(stream(address)), values : In(stream(FP32))
        Reads of the gradient, answered in order; one taken after a write sees what was written.
    writes : Out(stream(GradientWrite))
    """

    rounds: Any
    packets: Any
    reports: Any
    finished: Any
    reads: Any
    values: Any
    writes: Any

    def __init__(self, *, outstanding: int = 32) -> None:
        if not isinstance(outstanding, int) or not 4 <= outstanding <= 256 \
                or outstanding & (outstanding - 1):
            raise ValueError("outstanding must be a power of two from 4 to 256, not "
                             f"{outstanding!r}")
        self.outstanding = outstanding
        super().__init__({
            "rounds": In(stream.Signature(RoundCommand)),
            "packets": In(stream.Signature(PacketNumber)),
            "reports": Out(stream.Signature(PacketReport)),
            "finished": Out(stream.Signature(12)),
            "reads": Out(stream.Signature(32)), "values": In(stream.Signature(32)),
            "writes": Out(stream.Signature(GradientWrite))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.buffer = buffer = Memory(shape=32, depth=2 * _HALF, init=[])
        checked = data.StructLayout({
            "count": 13, "small": 1, "bin_size": BIN_BITS, "scale": 32, "start": 32, "base": 32,
            "final": 1, "layer": 12})
        m.submodules.checked = fifo = SyncFIFO(width=checked.size, depth=2)
        released = Signal(name="released")
        self._receive(m, buffer, fifo, checked, released)
        self._add(m, buffer, fifo, checked, released)
        return m

    def _receive(self, m: Module, buffer: Memory, fifo: SyncFIFO, checked: data.StructLayout,
                 released: Signal) -> None:
        """Take a packet in, check it, report it, hand it on."""
        m.submodules.crc = crc = CRC32_ISO_HDLC(data_width=32).create()
        write = buffer.write_port()
        half, halves = Signal(name="half"), Signal(range(3), name="halves")
        handed = Signal(name="handed")
        m.d.sync += halves.eq(halves + handed - released)

        round_, active = Signal(RoundCommand, name="round"), Signal(name="active")
        learner, part, started = Signal(10), Signal(2), Signal(name="started")
        m.d.comb += self.rounds.ready.eq(~active)
        with m.If(self.rounds.valid & ~active):
            m.d.sync += [round_.eq(self.rounds.payload), active.eq(1), learner.eq(0), part.eq(0),
                         started.eq(0)]

        number, last = self.packets.payload.number, self.packets.payload.last
        taken = Signal(name="taken")
        m.d.comb += taken.eq(self.packets.valid & self.packets.ready)
        header = Signal(data.StructLayout({
            "learner": 10, "layer": 12, "step": 10, "size": INDEX_BITS, "count": 13, "last": 1,
            "incomplete": 1, "continued": 1, "part": 2, "scale": 32}), name="header")
        first_bin = Signal(32, name="first_bin")
        bin_size = Signal(BIN_BITS, name="bin_size")
        small = Signal(name="small")
        m.d.comb += [bin_size.eq(header.size + 1), small.eq(bin_size <= BYTE_BIN)]
        numbers = Signal(12, name="payload_numbers")
        m.d.comb += numbers.eq(Mux(small, (header.count + 3) >> 2, (header.count + 1) >> 1))
        at, step = Signal(12, name="number"), Signal(3, name="block_step")
        bad_length, bad_crc = Signal(name="bad_length"), Signal(name="bad_crc")
        crc_number = Signal(32, name="crc_number")
        walk_clear, walk_valid = Signal(name="walk_clear"), Signal(name="walk_valid")
        reserved, beyond, bins, tail_index, some = self._walk(
            m, walk_clear, walk_valid, number, header.count, small, bin_size, first_bin)

        # bin * size + index, for the last word and for the first bin.
        factor = Signal(33, name="factor")
        product = Signal(33 + BIN_BITS, name="product")
        position = Signal(33 + BIN_BITS + 1, name="position")
        outside = Signal(name="outside")
        m.d.sync += [product.eq(factor * bin_size), position.eq(product + tail_index),
                     outside.eq(position > round_.last_element)]
        start = Signal(32, name="start")

        m.d.comb += [crc.data.eq(number), write.addr.eq(Cat(at[:11], half)),
                     write.data.eq(number), factor.eq(first_bin)]
        cause = Signal(_CAUSE_BITS, name="cause")
        m.d.comb += cause.eq(self._cause(header, round_, learner, part, started, bad_length,
                                         bad_crc, reserved, beyond | (outside & some)))
        settle = Signal(3, name="settle")
        m.submodules.reports_fifo = reports = SyncFIFO(width=PacketReport.as_shape().size, depth=16)
        m.d.comb += [
            reports.w_data.eq(Cat(cause, header.learner, header.layer, header.step)),
            self.reports.valid.eq(reports.r_rdy), self.reports.payload.eq(reports.r_data),
            reports.r_en.eq(self.reports.ready)]
        handing = Signal(checked, name="handing")
        m.d.comb += [
            handing.count.eq(header.count), handing.small.eq(small), handing.bin_size.eq(bin_size),
            handing.scale.eq(header.scale), handing.start.eq(start), handing.base.eq(round_.base),
            handing.final.eq(header.last & (learner == round_.last_learner)),
            handing.layer.eq(round_.layer), fifo.w_data.eq(handing)]

        def ended(early: Value) -> None:
            """The packet ends here, too early or not."""
            with m.If(last):
                m.d.sync += bad_length.eq(early)
                m.next = "DECIDE"

        with m.FSM(name="receive"):
            with m.State("LEARNER"):
                m.d.comb += self.packets.ready.eq(active & (halves != 2))
                m.d.comb += crc.start.eq(1)
                m.d.sync += [bad_length.eq(0), bad_crc.eq(0), at.eq(0), first_bin.eq(0),
                             settle.eq(0)]
                with m.If(taken):
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += header.as_value()[:32].eq(number)
                    m.next = "COUNT"
                    ended(Const(1, 1))
            with m.State("COUNT"):
                m.d.comb += self.packets.ready.eq(1)
                with m.If(taken):
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += header.as_value()[32:64].eq(number)
                    m.next = "SCALE"
                    ended(Const(1, 1))
            with m.State("SCALE"):
                m.d.comb += self.packets.ready.eq(1)
                m.d.sync += step.eq(3)
                with m.If(taken):
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += header.scale.eq(number)
                    m.next = "PAD_HEADER"
                    with m.If(header.continued):
                        m.next = "FIRST_BIN"
                    with m.Elif(header.count > LARGEST_PACKET):
                        m.d.sync += bad_length.eq(1)
                        m.next = "DROP"
                    ended(Const(1, 1))
            with m.State("FIRST_BIN"):
                m.d.comb += self.packets.ready.eq(1)
                m.d.sync += step.eq(4)
                with m.If(taken):
                    m.d.comb += crc.valid.eq(1)
                    m.d.sync += first_bin.eq(number)
                    m.next = "PAD_HEADER"
                    with m.If(header.count > LARGEST_PACKET):
                        m.d.sync += bad_length.eq(1)
                        m.next = "DROP"
                    ended(Const(1, 1))
            with m.State("PAD_HEADER"):
                m.d.comb += [crc.data.eq(0), crc.valid.eq(1), walk_clear.eq(1)]
                m.d.sync += [step.eq(step + 1), start.eq(product)]
                with m.If(step == _CRC_NUMBERS - 1):
                    m.next = "WORDS"
                    with m.If(~numbers.any()):
                        m.next = "CRC"
            with m.State("WORDS"):
                m.d.comb += self.packets.ready.eq(1)
                with m.If(taken):
                    m.d.comb += [crc.valid.eq(1), write.en.eq(1), walk_valid.eq(1)]
                    m.d.sync += [at.eq(at + 1), step.eq(step + 1)]
                    with m.If(at == numbers - 1):
                        m.next = "CRC"
                    ended(Const(1, 1))
            with m.State("CRC"):
                m.d.comb += self.packets.ready.eq(1)
                with m.If(taken):
                    m.d.sync += crc_number.eq(number)
                    m.next = "DROP"
                    m.d.sync += bad_length.eq(1)
                    with m.If(last):
                        m.d.sync += bad_length.eq(0)
                        m.next = "PAD_WORDS"
            with m.State("PAD_WORDS"):
                # Words begin with a block of their own: the step counts from 0 there.
                m.d.comb += [crc.data.eq(0), crc.valid.eq(step.any())]
                m.d.sync += step.eq(step + step.any())
                with m.If(~step.any()):
                    m.d.sync += bad_crc.eq(crc.crc != crc_number)
                    m.next = "DECIDE"
            with m.State("DROP"):
                m.d.comb += self.packets.ready.eq(1)
                with m.If(taken & last):
                    m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.comb += factor.eq(bins)
                # Until position and its comparison are there, and there is room for the report.
                m.d.sync += settle.eq(Mux(settle == 3, 3, settle + 1))
                with m.If((settle == 3) & reports.w_rdy & fifo.w_rdy):
                    m.d.comb += reports.w_en.eq(1)
                    m.next = "LEARNER"
                    with m.If(cause == PacketCause.NONE):
                        m.d.comb += [fifo.w_en.eq(1), handed.eq(1)]
                        m.d.sync += [half.eq(~half), part.eq(part + 1), started.eq(1)]
                        with m.If(header.last):
                            m.d.sync += [learner.eq(learner + 1), part.eq(0), started.eq(0)]
                            with m.If(learner == round_.last_learner):
                                m.d.sync += active.eq(0)

    def _cause(self, header: Any, round_: Any, learner: Value, part: Value, started: Value,
               bad_length: Value, bad_crc: Value, reserved: Value, beyond: Value) -> Value:
        behind = (round_.step - header.step)[:10]
        part_behind = (part - header.part)[:2]
        wrong_part = (header.continued != started) | (header.part != part)
        replayed = Mux(
            behind.any(), ~behind[9],
            Mux(header.learner != learner, header.learner < learner,
                wrong_part & (~header.continued
                              | (started & (part_behind != 0) & (part_behind != 3)))))
        later = behind.any() | (header.learner != learner) | wrong_part
        chosen: Value = Const(PacketCause.NONE, _CAUSE_BITS)
        for wrong, cause in reversed((
                (bad_length, PacketCause.LENGTH), (bad_crc, PacketCause.CHECKSUM),
                (header.layer != round_.layer, PacketCause.LAYER),
                (replayed, PacketCause.REPLAYED), (later, PacketCause.ORDER),
                (header.scale[31] | header.scale[23:31].all(), PacketCause.SCALE),
                (reserved, PacketCause.WORD), (beyond, PacketCause.RANGE))):
            chosen = Mux(wrong, Const(cause, _CAUSE_BITS), chosen)
        return chosen

    def _walk(self, m: Module, clear: Value, valid: Value, number: Value, count: Value,
              small: Value, bin_size: Value, first_bin: Value
              ) -> tuple[Value, Value, Value, Value, Value]:
        """Where a packet's words lead, a number a cycle.

        Whether a word is reserved, an index beyond the bin; the bin of the last word, its index (0
        for a skip), and whether there is any word.
        """
        left = Signal(13, name="words_left")
        reserved, beyond = Signal(name="reserved"), Signal(name="beyond")
        bins = Signal(33, name="bins")
        tail, tail_skip = Signal(INDEX_BITS, name="tail"), Signal(name="tail_skip")
        some = Signal(name="some")
        with m.If(clear):
            m.d.sync += left.eq(count)
        with m.Elif(valid):
            m.d.sync += left.eq(Mux(left <= Mux(small, 4, 2), 0, left - Mux(small, 4, 2)))

        here = delay(m, valid, 1, name="walk_valid", reset=True)
        words = delay(m, number, 1, name="walk_number")
        present = delay(m, Cat(left > k for k in range(4)) & Cat(Const(3, 2), small, small), 1,
                        name="walk_present")
        index, kinds = [], []
        for k in range(4):
            byte, long = words[8 * k:8 * k + 8], words[16 * (k & 1):16 * (k & 1) + 16]
            index.append(Mux(small, byte[2:], long[2:]))
            kinds.append(Mux(small, byte[:2], long[:2]))
        before, before_skip = tail, tail_skip
        steps, wrong, far = [], [], []
        for k in range(4):
            skip = kinds[k] == SKIP
            same = ~before_skip & (index[k] <= before)
            steps.append(delay(m, Mux(skip, index[k] + 1, same) & present[k].replicate(15), 1,
                               name=f"walk_step_{k}"))
            wrong.append(present[k] & (kinds[k] == 0b10))
            far.append(present[k] & ~skip & (index[k] >= bin_size))
            before, before_skip = index[k], skip
        with m.If(clear):
            m.d.sync += [tail_skip.eq(1), reserved.eq(0), beyond.eq(0), some.eq(0)]
        with m.Elif(here):
            m.d.sync += [reserved.eq(reserved | Cat(wrong).any()), some.eq(1),
                         beyond.eq(beyond | Cat(far).any())]
            for k in range(4):
                with m.If(present[k]):
                    m.d.sync += [tail.eq(index[k]), tail_skip.eq(kinds[k] == SKIP)]
        added = delay(m, here, 1, name="walk_added", reset=True)
        with m.If(clear):
            m.d.sync += bins.eq(first_bin)
        with m.Elif(added):
            m.d.sync += bins.eq(bins + sum(steps))
        return reserved, beyond, bins, tail & ~tail_skip.replicate(INDEX_BITS), some

    def _add(self, m: Module, buffer: Memory, fifo: SyncFIFO, checked: data.StructLayout,
             released: Signal) -> None:
        """Read a checked packet's words, and let each element go to memory and back."""
        packet = data.View(checked, fifo.r_data)
        read = buffer.read_port()
        half, word = Signal(name="add_half"), Signal(13, name="word")
        out_valid = Signal(name="read_valid")
        go = Signal(name="go")
        busy = Signal(name="adding")                  # words are on their way to `reads`
        under_way = Signal(range(self.outstanding + 1), name="under_way")

        # Fetch.
        fetch = Signal(name="fetch")
        m.d.comb += [
            fetch.eq(fifo.r_rdy & (word != packet.count) & go),
            read.en.eq(go), read.addr.eq(Cat(Mux(packet.small, word[2:], word[1:])[:11], half))]
        last_fetched = fifo.r_rdy & (word == packet.count)
        m.submodules.finished_fifo = done = SyncFIFO(width=12, depth=4)
        m.d.comb += [
            self.finished.valid.eq(done.r_rdy), self.finished.payload.eq(done.r_data),
            done.r_en.eq(self.finished.ready), done.w_data.eq(packet.layer)]
        ends = Signal(name="packet_ends")
        with m.If(fetch):
            m.d.sync += word.eq(word + 1)
        with m.If(last_fetched):
            with m.If(packet.final):
                # A round is finished when its last write is.
                m.d.comb += [ends.eq(~busy & ~under_way.any() & done.w_rdy), done.w_en.eq(ends)]
            with m.Else():
                m.d.comb += ends.eq(1)
        m.d.comb += [fifo.r_en.eq(ends), released.eq(ends)]
        with m.If(ends):
            m.d.sync += [word.eq(0), half.eq(~half)]

        # Fields; where a bin begins.
        def stage(name: str, value: Any) -> Signal:
            value = Value.cast(value)
            register = Signal(value.shape(), name=name)
            with m.If(go):
                m.d.sync += register.eq(value)
            return register

        valid = stage("fetched", fetch)
        small, first = stage("fetched_small", packet.small), stage("fetched_first", word == 0)
        place, size = stage("fetched_place", word[:2]), stage("fetched_size", packet.bin_size)
        scale = stage("fetched_scale", packet.scale)
        start = stage("fetched_start", packet.start)
        base = stage("fetched_base", packet.base)
        text = Mux(small, read.data.word_select(place, 8), read.data.word_select(place[0], 16))
        index, kind = text[2:16], text[:2]
        skip = Signal(name="skip")
        m.d.comb += skip.eq(kind == SKIP)
        previous, fresh = Signal(INDEX_BITS, name="previous"), Signal(name="fresh")
        with m.If(go & valid):
            m.d.sync += [previous.eq(index), fresh.eq(skip)]
        next_bin = ~skip & ~first & ~fresh & (index <= previous)
        index2, skip2 = stage("index", index), stage("skipped", skip)
        minus = stage("minus", kind == MINUS)
        jump = stage("jump", (index + 1) * size)
        step = stage("step", Mux(next_bin, size, 0))
        valid2, first2 = stage("valid", valid), stage("first", first)
        scale2, start2 = stage("scale", scale), stage("start_of", start)
        base2 = stage("base_of", base)

        at = Signal(32, name="bin_start")
        now = Signal(32, name="bin_start_now")
        m.d.comb += now.eq(Mux(first2, start2, at) + Mux(skip2, jump, step))
        with m.If(go & valid2):
            m.d.sync += at.eq(now)
        index3, minus3 = stage("index_3", index2), stage("minus_3", minus)
        now3, scale3 = stage("bin_start_3", now), stage("scale_3", scale2)
        base3, valid3 = stage("base_3", base2), stage("valid_3", valid2 & ~skip2)

        # The request, unless the element is on its way already.
        address = Signal(32, name="address")
        value = Signal(32, name="addend")
        m.d.comb += go.eq(~out_valid | (self.reads.valid & self.reads.ready))
        with m.If(go):
            m.d.sync += [out_valid.eq(valid3), address.eq(now3 + index3 + base3),
                         value.eq(Cat(scale3[:31], minus3 & scale3[:31].any()))]
        m.d.comb += busy.eq(valid | valid2 | valid3 | out_valid)
        count = self.outstanding
        addresses = [Signal(32, name=f"address_{i}") for i in range(count)]
        used = Signal(count, name="used")
        into, retire = Signal(range(count)), Signal(range(count))
        hit = Signal(name="hit")
        m.d.comb += hit.eq(Cat(used[i] & (addresses[i] == address) for i in range(count)).any())
        m.d.comb += [self.reads.valid.eq(out_valid & ~hit & (under_way != count)),
                     self.reads.payload.eq(address)]
        request = self.reads.valid & self.reads.ready
        retired = self.writes.valid & self.writes.ready
        with m.If(request):
            m.d.sync += into.eq(into + 1)
        with m.If(retired):
            m.d.sync += retire.eq(retire + 1)
        for i in range(count):
            with m.If(request & (into == i)):
                m.d.sync += [addresses[i].eq(address), used[i].eq(1)]
            with m.Elif(retired & (retire == i)):
                m.d.sync += used[i].eq(0)
        m.d.sync += under_way.eq(under_way + request - retired)

        # Their values come back in order.
        m.submodules.addends = addends = SyncFIFO(width=32, depth=count)
        m.submodules.add = add = Add(stages=_ADD_STAGES)
        m.submodules.results = results = SyncFIFO(width=32, depth=count)
        m.d.comb += [
            addends.w_en.eq(request), addends.w_data.eq(value),
            self.values.ready.eq(addends.r_rdy),
            addends.r_en.eq(self.values.valid & addends.r_rdy),
            results.w_en.eq(delay(m, self.values.valid & addends.r_rdy, 1 + _ADD_STAGES,
                                  name="added", reset=True)),
            results.w_data.eq(add.result),
            self.writes.valid.eq(results.r_rdy),
            self.writes.payload.eq(Cat(Array(addresses)[retire], results.r_data)),
            results.r_en.eq(self.writes.ready),
        ]
        m.d.sync += [add.a.eq(self.values.payload), add.b.eq(addends.r_data)]
