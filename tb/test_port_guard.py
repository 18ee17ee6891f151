"""The guard of a memory port: a node that is reset at any time holds up and spoils nothing."""

import functools

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from ulpcore.interconnect.port_guard import PortGuard
from ulpcore.memory import MEMORY_SOURCE, simulated_memory
from ulpcore.streams import StreamModel

BYTES, WORDS = 8, 1 << 12
HALF = 4 * WORDS // 2
BURST = data.StructLayout({"address": 32, "length": 8, "life": 8})
BEAT = data.StructLayout({"data": 64, "strobe": 8, "life": 8})
PLAN = data.StructLayout({"after": 16, "cycles": 16})


class Bench(wiring.Component):
    """A node that forgets, when it is reset, all of its bursts of its life until then."""

    finish: Signal

    def __init__(self) -> None:
        super().__init__({
            "reads": In(stream.Signature(BURST)), "words": Out(stream.Signature(64)),
            "writes": In(stream.Signature(BURST)), "beats": In(stream.Signature(BEAT)),
            "answers": Out(stream.Signature(2)), "resets": In(stream.Signature(PLAN)),
            "finish": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.guard = guard = PortGuard(data_bytes=BYTES)
        life, time, held = Signal(8), Signal(16), Signal()
        plan = self.resets
        m.d.comb += [guard.node_reset.eq(held),
                     plan.ready.eq(held & (time == plan.payload.after + plan.payload.cycles))]
        m.d.sync += time.eq(time + 1)
        with m.If(plan.valid & ~held & (time == plan.payload.after)):
            m.d.sync += [held.eq(1), life.eq(life + 1)]
        with m.If(plan.ready):
            m.d.sync += [held.eq(0), time.eq(0)]
        node_read, node_write = guard.node_read, guard.node_write
        for source, valid, ready in (
                (self.reads, node_read.arvalid, node_read.arready),
                (self.writes, node_write.awvalid, node_write.awready),
                (self.beats, node_write.wvalid, node_write.wready)):
            m.d.comb += [valid.eq(source.valid & ~held & (source.payload.life == life)),
                         source.ready.eq((valid & ready) | (source.payload.life < life))]
        m.d.comb += [
            node_read.araddr.eq(self.reads.payload.address),
            node_read.arlen.eq(self.reads.payload.length),
            self.words.valid.eq(node_read.rvalid), self.words.payload.eq(node_read.rdata),
            node_read.rready.eq(self.words.ready),
            node_write.awaddr.eq(self.writes.payload.address),
            node_write.awlen.eq(self.writes.payload.length),
            node_write.wdata.eq(self.beats.payload.data),
            node_write.wstrb.eq(self.beats.payload.strobe),
            self.answers.valid.eq(node_write.bvalid), self.answers.payload.eq(node_write.bresp),
            node_write.bready.eq(self.answers.ready)]
        m.submodules.memory = simulated_memory(guard.read, guard.write, dump=self.finish,
                                               WORDS=WORDS, BUS_BYTES=BYTES)
        return m


@functools.cache
def model() -> StreamModel:
    return StreamModel(Bench(), sources=MEMORY_SOURCE)


def row(layout: data.Layout, **fields: int) -> list[int]:
    bits = layout.const(fields).as_value().value
    return [bits >> 32 * i & 0xFFFFFFFF for i in range(-(-layout.size // 32))]


@pytest.mark.parametrize("stall_seed", [0, 3])
def test_resets_at_any_time(stall_seed: int, rng: np.random.Generator) -> None:
    """Twelve lives of a node on one memory: of the last bursts of each life a beginning has been
    done, in order, and nothing else; those of the last life are all there."""
    lives, bursts = 12, 12
    memory = rng.integers(0, 1 << 32, WORDS, np.uint32)
    lower, words = memory.view("<u8")[:HALF // BYTES], []
    reads, writes, beats, written = [], [], [], []
    at = HALF
    for life in range(lives):
        words.append([])
        written.append([])
        for _ in range(bursts):
            length = int(rng.integers(1, 17))
            first = int(rng.integers(0, len(lower) // 512)) * 512 + int(rng.integers(0, 496))
            reads.append(row(BURST, address=first * BYTES, length=length - 1, life=life))
            words[-1] += lower[first:first + length].tolist()
            # A page is not crossed; each burst has a place of its own.
            length = int(rng.integers(1, 9))
            if at % 4096 + length * BYTES > 4096:
                at += -at % 4096
            writes.append(row(BURST, address=at, length=length - 1, life=life))
            for _ in range(length):
                value = int(rng.integers(0, 1 << 63))
                beats.append(row(BEAT, data=value, strobe=0xFF, life=life))
                written[-1].append((at // BYTES, value))
                at += BYTES
    assert at <= 4 * WORDS
    resets = [row(PLAN, after=int(rng.integers(10, 250)), cycles=int(rng.integers(1, 60)))
              for _ in range(lives - 1)]
    run = model().run(
        {name: np.array(rows, np.uint32) for name, rows in (
            ("reads", reads), ("writes", writes), ("beats", beats), ("resets", resets))},
        stalls={"words": 0.3, "answers": 0.3, "beats": 0.3}, seed=int(rng.integers(1 << 20)),
        plusargs=[f"+words={WORDS}", "+latency=16", f"+stall_seed={stall_seed}"],
        files={"memory.hex": "\n".join(f"{word:x}" for word in memory.tolist()).encode()},
        keep=["final.hex"])
    final = np.array([int(word, 16) for word in run.files["final.hex"].decode().split()
                      if not word.startswith(("//", "@"))], "<u4").view("<u8")
    assert len(run.times["resets"]) == lives - 1
    found = [int(low) | int(high) << 32 for low, high in run.outputs["words"]]
    cut = 0
    for life in range(lives):
        # What has come of a life before its end is the beginning of what was asked for.
        end = (int(run.times["resets"][life]) if life < lives - 1 else 1 << 62)
        count = int((run.times["words"] < end).sum()) - (len(run.outputs["words"]) - len(found))
        assert found[:count] == words[life][:count], life
        cut += count < len(words[life])
        found = found[count:]
        done = [int(final[place]) == value for place, value in written[life]]
        assert done == sorted(done, reverse=True), life
        kept = memory.view("<u8")
        assert all(final[place] == kept[place]
                   for (place, _), new in zip(written[life], done, strict=True) if not new)
        cut += not all(done)
    assert all(done) and count == len(words[-1])
    assert cut > lives // 2
    assert np.array_equal(final[:HALF // BYTES], lower)
