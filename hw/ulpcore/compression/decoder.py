"""The AdaComp decoder: packets of all learners, added to a dense gradient in memory.

Twin of `ulpsim.compression.packets.Round`, and of `ulpsim.compression.cyclic.Gather`.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from ulpsim.compression.packets import LARGEST_PACKET, PacketCause
from ulpsim.compression.words import BYTE_BIN, MINUS, SKIP

from ..float32 import Add, delay
from .crc import Crc32
from .positions import BIN_BITS, INDEX_BITS

__all__ = ["Decoder", "GradientWrite", "PacketNumber", "PacketReport", "RoundCommand"]

_CAUSE_BITS = 4
_HALF = LARGEST_PACKET // 2           # 32-bit numbers of a packet of 16-bit words
_CRC_NUMBERS = 8
_ADD_STAGES = 4
#: Cycles from a packet's last number to its cause.
_SETTLED = 6


class RoundCommand(data.Struct):
    """One step of one layer: which packets are expected, and where the dense gradient stands.

    Learners are `first_learner` to `last_learner`; the layer has `last_element` + 1 elements, from
    the element address `base` on. `gather`: the elements that the packets name are not added to but
    put out, and zero stays in their place.
    """

    layer: 12
    step: 10
    last_learner: 10
    last_element: 32
    base: 32
    first_learner: 10
    gather: 1


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

    Receiving takes a cycle a number, and 19 to 27 cycles a packet besides; adding a cycle a word.
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
    gathered : Out(stream(element))
        Of rounds that gather, in the order of the packets.
    reads : Out(stream(address)), values : In(stream(FP32))
        Reads of the gradient, answered in order; one taken after `written` sees what was written.
    writes : Out(stream(GradientWrite))
    written : In(1)
        Of the writes that were taken the next one has reached memory, at the earliest in the cycle
        in which it was taken.
    quiet : Out(1)
        Of every packet whose report has been taken all elements are written.
    """

    rounds: Any
    packets: Any
    reports: Any
    finished: Any
    gathered: Any
    reads: Any
    values: Any
    writes: Any
    written: Signal
    quiet: Signal

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
            "finished": Out(stream.Signature(12)), "gathered": Out(stream.Signature(32)),
            "reads": Out(stream.Signature(32)), "values": In(stream.Signature(32)),
            "writes": Out(stream.Signature(GradientWrite)), "written": In(1), "quiet": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.buffer = buffer = Memory(shape=32, depth=2 * _HALF, init=[])
        checked = data.StructLayout({
            "count": 13, "small": 1, "bin_size": BIN_BITS, "scale": 32, "start": 32, "base": 32,
            "final": 1, "layer": 12, "gather": 1})
        m.submodules.checked = fifo = SyncFIFO(width=checked.size, depth=2)
        released = Signal(name="released")
        halves = self._receive(m, buffer, fifo, checked, released)
        idle = self._add(m, buffer, fifo, checked, released)
        m.d.comb += self.quiet.eq(idle & ~halves.any())
        return m

    def _receive(self, m: Module, buffer: Memory, fifo: SyncFIFO, checked: data.StructLayout,
                 released: Signal) -> Value:
        """Take a packet in, check it, report it, hand it on; how many have not been read again."""
        m.submodules.crc = crc = Crc32(numbers=1)
        write = buffer.write_port()
        half, halves = Signal(name="half"), Signal(range(3), name="halves")
        handed = Signal(name="handed")
        m.d.sync += halves.eq(halves + handed - released)

        round_, active = Signal(RoundCommand, name="round"), Signal(name="active")
        learner, part, started = Signal(10), Signal(2), Signal(name="started")
        m.d.comb += self.rounds.ready.eq(~active)
        with m.If(self.rounds.valid & ~active):
            m.d.sync += [round_.eq(self.rounds.payload), active.eq(1), part.eq(0), started.eq(0),
                         learner.eq(self.rounds.payload.first_learner)]

        number, last = self.packets.payload.number, self.packets.payload.last
        taken = Signal(name="taken")
        m.d.comb += taken.eq(self.packets.valid & self.packets.ready)
        header = Signal(data.StructLayout({
            "learner": 10, "layer": 12, "step": 10, "size": INDEX_BITS, "count": 13, "last": 1,
            "incomplete": 1, "continued": 1, "part": 2, "scale": 32}), name="header")
        first_bin = Signal(32, name="first_bin")
        # Known some cycles before they are needed.
        bin_size = Signal(BIN_BITS, name="bin_size")
        small = Signal(name="small")
        numbers, final = Signal(12, name="payload_numbers"), Signal(12, name="final_number")
        m.d.sync += [bin_size.eq(header.size + 1), small.eq(header.size < BYTE_BIN),
                     numbers.eq(Mux(small, (header.count + 3) >> 2, (header.count + 1) >> 1)),
                     final.eq(numbers - 1)]
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
        factor_late = Signal(33, name="factor_late")
        m.d.sync += [factor_late.eq(factor), product.eq(factor_late * bin_size),
                     position.eq(product + tail_index), outside.eq(position > round_.last_element)]
        start = Signal(32, name="start")

        m.d.comb += [crc.data.eq(number), write.addr.eq(Cat(at[:11], half)),
                     write.data.eq(number), factor.eq(first_bin)]
        cause = Signal(_CAUSE_BITS, name="cause")
        m.d.sync += cause.eq(self._cause(m, header, round_, learner, part, started, bad_length,
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
            handing.layer.eq(round_.layer), handing.gather.eq(round_.gather),
            fifo.w_data.eq(handing)]

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
                    with m.If(at == final):
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
                # Until position, its comparison and the cause are there, and there is room for the
                # report.
                m.d.sync += settle.eq(Mux(settle == _SETTLED, _SETTLED, settle + 1))
                with m.If((settle == _SETTLED) & reports.w_rdy & fifo.w_rdy):
                    m.d.comb += reports.w_en.eq(1)
                    m.next = "LEARNER"
                    with m.If(cause == PacketCause.NONE):
                        m.d.comb += [fifo.w_en.eq(1), handed.eq(1)]
                        m.d.sync += [half.eq(~half), part.eq(part + 1), started.eq(1)]
                        with m.If(header.last):
                            m.d.sync += [learner.eq(learner + 1), part.eq(0), started.eq(0)]
                            with m.If(learner == round_.last_learner):
                                m.d.sync += active.eq(0)
        return halves

    def _cause(self, m: Module, header: Any, round_: Any, learner: Value, part: Value,
               started: Value, bad_length: Value, bad_crc: Value, reserved: Value, beyond: Value
               ) -> Value:
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
        for i, (wrong, cause) in enumerate(reversed((
                (bad_length, PacketCause.LENGTH), (bad_crc, PacketCause.CHECKSUM),
                (header.layer != round_.layer, PacketCause.LAYER),
                (replayed, PacketCause.REPLAYED), (later, PacketCause.ORDER),
                (header.scale[31] | header.scale[23:31].all(), PacketCause.SCALE),
                (reserved, PacketCause.WORD), (beyond, PacketCause.RANGE)))):
            chosen = Mux(delay(m, wrong, 1, name=f"wrong_{i}"), Const(cause, _CAUSE_BITS), chosen)
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
             released: Signal) -> Value:
        """Read a checked packet's words, and let each element go to memory and back; whether none
        is on its way."""
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
        # A cycle old, which does not see what was just fetched.
        idle, valid1 = Signal(name="idle"), Signal(name="valid_1")
        m.d.sync += idle.eq(~busy & ~under_way.any())
        ends = Signal(name="packet_ends")
        with m.If(fetch):
            m.d.sync += word.eq(word + 1)
        with m.If(last_fetched):
            with m.If(packet.final):
                # A round is finished when its last write is.
                m.d.comb += [ends.eq(idle & ~valid1 & done.w_rdy), done.w_en.eq(ends)]
            with m.Else():
                m.d.comb += ends.eq(1)
        m.d.comb += [fifo.r_en.eq(ends), released.eq(ends)]
        with m.If(ends):
            m.d.sync += [word.eq(0), half.eq(~half)]

        # Everything waits if a request has to. A value's number is the cycles since its fetch.
        def stage(name: str, value: Any, count: int = 1) -> Value:
            value = Value.cast(value)
            for i in range(count):
                register = Signal(value.shape(), name=f"{name}_{i}")
                with m.If(go):
                    m.d.sync += register.eq(value)
                value = register
            return value

        # Fields.
        with m.If(go):
            m.d.sync += valid1.eq(fetch)
        valid2 = stage("valid_2", valid1)
        small2, first2 = stage("small", packet.small, 2), stage("first", word == 0, 2)
        place2, size2 = stage("place", word[:2], 2), stage("size", packet.bin_size, 2)
        number2 = stage("number", read.data)
        text = Mux(small2, number2.word_select(place2, 8), number2.word_select(place2[0], 16))
        index2, kind = text[2:16], text[:2]
        skip2 = Signal(name="skip")
        m.d.comb += skip2.eq(kind == SKIP)
        previous, fresh = Signal(INDEX_BITS, name="previous"), Signal(name="fresh")
        with m.If(go & valid2):
            m.d.sync += [previous.eq(index2), fresh.eq(skip2)]

        # Where a bin begins: a size further on, or as often as a skip says and once more.
        steps3 = stage("steps", skip2 | (~first2 & ~fresh & (index2 <= previous)))
        skip3, jump3 = stage("skipped", skip2), stage("jump", index2 * size2)
        size3 = stage("size_3", size2)
        ahead4 = stage("ahead", Mux(skip3, jump3, 0) + Mux(steps3, size3, 0))
        at = Signal(32, name="bin_start")
        now4 = Signal(32, name="bin_start_now")
        m.d.comb += now4.eq(Mux(stage("first_4", first2, 2), stage("start", packet.start, 4), at)
                            + ahead4)
        valid3 = stage("valid_3", valid2)
        valid4 = stage("valid_4", valid3)
        with m.If(go & valid4):
            m.d.sync += at.eq(now4)
        valid5 = stage("valid_5", valid4 & ~stage("skipped_4", skip3))
        now5, index5 = stage("now", now4), stage("index", index2, 3)
        base5, scale5 = stage("base", packet.base, 5), stage("scale", packet.scale, 5)
        minus5 = stage("minus", kind == MINUS, 3)
        address6 = Signal(32, name="address_ahead")
        m.d.comb += address6.eq(stage("address_6", now5 + index5 + base5))
        valid6 = stage("valid_6", valid5)

        # The request, unless the element is on its way already: compared a cycle ahead.
        m.d.comb += out_valid.eq(stage("valid_7", valid6))
        value = stage("addend", Cat(scale5[:31], minus5 & scale5[:31].any()), 2)
        gather = stage("gather", packet.gather, 7)
        address = stage("address", address6)
        m.d.comb += go.eq(~out_valid | (self.reads.valid & self.reads.ready))
        m.d.comb += busy.eq(
            Cat(valid1, valid2, valid3, valid4, valid5, valid6, out_valid).any())
        count = self.outstanding
        addresses = [Signal(32, name=f"address_{i}") for i in range(count)]
        used = Signal(count, name="used")
        into, retire = Signal(range(count)), Signal(range(count))
        same = Signal(count, name="same")
        m.d.comb += [self.reads.valid.eq(out_valid & ~(same & used).any()
                                         & ~under_way[-1]),
                     self.reads.payload.eq(address)]
        request = self.reads.valid & self.reads.ready
        retired = self.written
        sent = self.writes.valid & self.writes.ready
        with m.If(request):
            m.d.sync += into.eq(into + 1)
        with m.If(retired):
            m.d.sync += retire.eq(retire + 1)
        again = Signal(name="again")
        m.d.comb += again.eq(address == address6)
        for i in range(count):
            here = request & (into == i)
            with m.If(go):
                m.d.sync += same[i].eq(Mux(here, again, addresses[i] == address6))
            with m.If(here):
                m.d.sync += [addresses[i].eq(address), used[i].eq(1)]
            with m.Elif(retired & (retire == i)):
                m.d.sync += used[i].eq(0)
        m.d.sync += under_way.eq(under_way + request - retired)

        # Their values come back in order.
        m.submodules.addends = addends = SyncFIFO(width=33, depth=count)
        m.submodules.add = add = Add(stages=_ADD_STAGES)
        m.submodules.results = results = SyncFIFO(width=32, depth=count)
        gathers, taken = addends.r_data[32], Signal(name="value_taken")
        m.submodules.order = order = SyncFIFO(width=32, depth=count)
        m.d.comb += [
            addends.w_en.eq(request), addends.w_data.eq(Cat(value, gather)),
            order.w_en.eq(request), order.w_data.eq(address), order.r_en.eq(sent),
            self.gathered.payload.eq(self.values.payload),
            self.gathered.valid.eq(self.values.valid & addends.r_rdy & gathers),
            self.values.ready.eq(addends.r_rdy & (self.gathered.ready | ~gathers)),
            taken.eq(self.values.valid & self.values.ready), addends.r_en.eq(taken),
            results.w_en.eq(delay(m, taken, 1 + _ADD_STAGES, name="added", reset=True)),
            results.w_data.eq(add.result),
            self.writes.valid.eq(results.r_rdy),
            self.writes.payload.eq(Cat(order.r_data, results.r_data)),
            results.r_en.eq(self.writes.ready),
        ]
        # Of what is gathered zero stays: the sum of two zeros.
        m.d.sync += [add.a.eq(Mux(gathers, 0, self.values.payload)),
                     add.b.eq(Mux(gathers, 0, addends.r_data[:32]))]
        return idle & ~busy
