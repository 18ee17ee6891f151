"""Beats to rows to beats, for rows and beats of all proportions."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from ulpcore.compression.positions import LANES
from ulpcore.compression.rows import BeatsFromRows, RowsFromBeats
from ulpcore.compression.writer import written_beat
from ulpcore.streams import StreamModel


class RowsBench(wiring.Component):
    """For each pair of lanes and bytes of a beat: layers (elements, whether of 16 bits) and their
    beats in, beats of 32 bits an element out. What follows a layer waits until it is out."""

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        self.pairs = pairs
        super().__init__({name: member for lanes, size in pairs for name, member in {
            f"layers_{lanes}_{size}": In(stream.Signature(data.StructLayout({
                "elements": 31, "half": 1}))),
            f"in_{lanes}_{size}": In(stream.Signature(data.StructLayout({
                "data": 8 * size, "last": 1}))),
            f"out_{lanes}_{size}": Out(stream.Signature(written_beat(size)))}.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for lanes, size in self.pairs:
            name = f"{lanes}_{size}"
            layers, source, sink = (getattr(self, f"{kind}_{name}")
                                    for kind in ("layers", "in", "out"))
            begin, active = Signal(name=f"begin_{name}"), Signal(name=f"active_{name}")
            feeding, half = Signal(name=f"feeding_{name}"), Signal(name=f"half_{name}")
            rows = RowsFromBeats(lanes=lanes, bus_bytes=size)
            beats = BeatsFromRows(lanes=lanes, bus_bytes=size)
            m.submodules[f"rows_{name}"] = ResetInserter(begin)(rows)
            m.submodules[f"beats_{name}"] = beats
            wiring.connect(m, rows.rows, beats.rows)
            wiring.connect(m, wiring.flipped(sink), beats.beats)
            m.d.comb += [
                layers.ready.eq(beats.done & ~active), begin.eq(layers.valid & layers.ready),
                beats.begin.eq(begin), beats.elements.eq(layers.payload.elements),
                rows.half.eq(half), rows.beats.payload.eq(source.payload),
                rows.beats.valid.eq(source.valid & feeding),
                source.ready.eq(rows.beats.ready & feeding)]
            m.d.sync += active.eq(begin | (active & ~beats.done))
            with m.If(begin):
                m.d.sync += [half.eq(layers.payload.half), feeding.eq(1)]
            with m.Elif(source.valid & source.ready & source.payload.last):
                m.d.sync += feeding.eq(0)
        return m


#: Rows of 16 beats, 4, 2, 1, and beats of 2, 4 and 16 rows.
PAIRS = [(16, 4), (4, 4), (8, 16), (1, 4), (4, 32), (1, 16), (1, 64)]


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("pairs", [PAIRS, pytest.param(
    list(itertools.product(LANES, (4, 8, 16, 32, 64))), marks=pytest.mark.nightly)],
    ids=["some", "all"])
def test_layers_go_through(pairs: list[tuple[int, int]], stall: float, rng: np.random.Generator
                           ) -> None:
    """All elements of layers of all lengths, in order, and no byte behind them; without stalls as
    many a cycle as the narrower of rows and beats holds."""
    model = StreamModel(RowsBench(pairs))
    counts = [*range(1, 50), *rng.integers(50, 400, 8).tolist(), 2048]
    layers = [(count, bool(rng.random() < 0.4) and count != 2048) for count in counts]
    values = [rng.integers(0, 1 << (16 if half else 32), count, np.uint32)
              for count, half in layers]
    inputs = {}
    for lanes, size in pairs:
        rows = []
        for (_, half), elements in zip(layers, values, strict=True):
            content = elements.astype("<u2" if half else "<u4").tobytes()
            content += rng.bytes(-len(content) % size)
            words = np.frombuffer(content, "<u4").reshape(-1, size // 4)
            last = np.arange(len(words)) == len(words) - 1
            rows.append(np.concatenate([words, last[:, None]], axis=1))
        inputs[f"in_{lanes}_{size}"] = np.concatenate(rows)
        inputs[f"layers_{lanes}_{size}"] = np.array(
            [count | half << 31 for count, half in layers], np.uint32)[:, None]
    stalls = {name: stall for name in model.streams}
    run = model.run(inputs, stalls=stalls, seed=int(rng.integers(1, 1000)))
    for lanes, size in pairs:
        got = run.outputs[f"out_{lanes}_{size}"]
        words = size // 4
        strobe = (got[:, words:].astype("<u4").view(np.uint8)[:, :-(-size // 8)])
        written = np.unpackbits(strobe, axis=1, bitorder="little")[:, :size].reshape(-1, words, 4)
        assert ((written == written[:, :, :1]).all())
        np.testing.assert_array_equal(got[:, :words][written[:, :, 0] == 1],
                                      np.concatenate(values), err_msg=f"{lanes} lanes, {size}")
        assert len(got) == sum(-(-4 * count // size) for count in counts)
        if not stall:
            times = run.times[f"out_{lanes}_{size}"][-(4 * 2048 // size):]
            assert times[-1] - times[0] <= 2048 / min(lanes, words) + 2
