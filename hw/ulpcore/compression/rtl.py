"""Layers through the encoder's RTL, packets through the decoder's."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray
from ulpsim.compression.adacomp import (
    LARGEST_BIN,
    Gradient,
    Settings,
    scale_of_mean,
    units_to_scale,
)
from ulpsim.compression.packets import PacketCause

from ..float32 import delay
from ..simulation import SimulationError
from ..streams import StreamModel
from .decoder import Decoder, GradientWrite, RoundCommand
from .encoder import Encoder, EncoderCause
from .engine import CompressionEngine
from .framing import beat_numbers
from .layer import LayerCommand, Measured
from .positions import LANES
from .scale import Scale

__all__ = ["DecodeRun", "DecoderBench", "EncodeRun", "EncodedLayer", "LayerJob", "RoundJob",
           "blocks", "command_row", "decode", "encode", "encoder_model", "rows_of"]


@dataclasses.dataclass(frozen=True)
class LayerJob:
    """One step of one layer, as `ulpsim.compression.adacomp.compress_array` and `packets_of` take
    it; with `choose` there must be no scale."""

    residue: NDArray[np.int32]
    gradient: Gradient
    settings: Settings
    scale: int | None = None
    layer: int = 0
    learner: int = 0
    step: int = 0
    choose: bool = False


@dataclasses.dataclass(frozen=True)
class EncodedLayer:
    """What came out for a layer: packets, new residue, FP32 bits of the mean."""

    packets: list[bytes]
    residue: NDArray[np.int32]
    mean: int


@dataclasses.dataclass(frozen=True)
class EncodeRun:
    """Results; the cycle in which each row was taken; cycles from the first row to the last."""

    layers: list[EncodedLayer]
    taken: NDArray[np.uint64]
    cycles: int


def blocks() -> Iterator[tuple[str, wiring.Component]]:
    """The blocks that stand by themselves, by the names of their modules."""
    for lanes in LANES:
        yield f"encoder_{lanes}", Encoder(lanes=lanes)
    yield "decoder", Decoder()
    yield "scale", Scale()
    for lanes, bus_bytes in ((1, 4), (8, 64)):
        yield f"engine_{lanes}", CompressionEngine(lanes=lanes, bus_bytes=bus_bytes)


def command_row(job: LayerJob, scale: int, *, measure: bool) -> NDArray[np.uint32]:
    """A command as a payload of the stream `layers`."""
    shape = LayerCommand.as_shape()
    value = Const({
        "learner": job.learner, "layer": job.layer, "step": job.step,
        "last_element": len(job.residue) - 1, "bin_size": job.settings.bin_size,
        "factor": job.settings.factor_steps, "point": job.settings.point & 0xFF,
        "scale": scale, "measure": measure,
        "dlfloat16": job.gradient.dtype == np.uint16, "choose": job.choose}, shape)
    bits = value.as_value().value
    return np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(-(-shape.size // 32))], np.uint32)


def rows_of(values: NDArray, lanes: int) -> NDArray[np.uint32]:
    """A layer's elements as rows."""
    padded = np.zeros(-(-len(values) // lanes) * lanes, np.uint32)
    padded[:len(values)] = values if values.dtype == np.uint16 else values.view(np.uint32)
    return padded.reshape(-1, lanes)


def encode(lanes: int, jobs: Sequence[LayerJob], *, largest_bin: int = LARGEST_BIN,
           stalls: Mapping[str, float] | None = None, seed: int = 1) -> EncodeRun:
    """Run layers through the encoder's RTL in Verilator, one after another.

    Those without a scale are measured first, all in one run, and then sent. Raises ValueError for
    an unknown number of lanes, SimulationError when the simulation fails or the encoder refuses a
    command.
    """
    exact = [i for i, job in enumerate(jobs) if job.scale is None and not job.choose]
    scales = {i: job.scale for i, job in enumerate(jobs) if job.scale is not None}
    if exact:
        means, *_ = _pass(lanes, [jobs[i] for i in exact], None, largest_bin, stalls, seed)
        scales |= dict(zip(exact, means, strict=True))
    means, run, updated, packets = _pass(lanes, jobs, [scales.get(i, 0) for i in range(len(jobs))],
                                         largest_bin, stalls, seed)
    taken = run.times["gradients"]
    layers = []
    row = 0
    for i, job in enumerate(jobs):
        rows = -(-len(job.residue) // lanes)
        residue = updated[row:row + rows].ravel()[:len(job.residue)].view(np.int32)
        layers.append(EncodedLayer(packets[i], residue.copy(), means[i]))
        row += rows
    return EncodeRun(layers, taken, int(taken[-1] - taken[0]) + 1)


@functools.cache
def encoder_model(lanes: int, largest_bin: int = LARGEST_BIN) -> StreamModel:
    """An encoder, built for simulation once."""
    return StreamModel(Encoder(lanes=lanes, largest_bin=largest_bin))


@functools.cache
def _decoder_model(elements: int, latency: int) -> StreamModel:
    return StreamModel(DecoderBench(elements=elements, latency=latency))


def _pass(lanes, jobs, scales, largest_bin, stalls, seed):
    measure = scales is None
    inputs = {
        "layers": np.stack([command_row(job, 0 if measure else scales[i], measure=measure)
                            for i, job in enumerate(jobs)]),
        "gradients": np.concatenate([rows_of(job.gradient, lanes) for job in jobs]),
        "residues": np.concatenate([rows_of(job.residue, lanes) for job in jobs])}
    run = encoder_model(lanes, largest_bin).run(inputs, stalls=stalls, seed=seed)
    if run.status["cause"]:
        raise SimulationError(f"the encoder refused a layer: its "
                              f"{EncoderCause(run.status['cause']).name} is wrong")
    rows = len(inputs["gradients"])
    found = {name: len(run.times[name]) for name in ("gradients", "updated", "measured")}
    expected = {"gradients": rows, "updated": 0 if measure else rows, "measured": len(jobs)}
    if found != expected:
        raise SimulationError(f"the encoder stands still: transfers are {found}, not {expected}")
    means = []
    for job, row in zip(jobs, run.outputs["measured"], strict=True):
        bits = sum(int(word) << 32 * i for i, word in enumerate(row))
        result = Measured.from_bits(bits)
        means.append(units_to_scale(scale_of_mean(result.total, result.bins), job.settings.point))
    return means, run, run.outputs["updated"], [] if measure else _packets(run, lanes, len(jobs))


def _packets(run, lanes: int, layers: int) -> list[list[bytes]]:
    """The packets of each layer, from beats: numbers, count, last."""
    numbers = beat_numbers(lanes)
    beats = run.outputs["packets"]
    marks = beats[:, numbers]
    count_bits = numbers.bit_length()
    counts, last = marks & ((1 << count_bits) - 1), marks >> count_bits & 1
    found: list[list[bytes]] = [[]]
    packet = bytearray()
    for row, count, end in zip(beats, counts, last, strict=True):
        packet += row[:int(count)].tobytes()
        if end:
            found[-1].append(bytes(packet))
            if packet[7] >> 3 & 1:
                found.append([])
            packet = bytearray()
    if packet or len(found) != layers + 1:
        raise SimulationError(f"the encoder has sent {len(found) - 1} layers, not {layers}")
    return found[:-1]


class DecoderBench(wiring.Component):
    """A decoder beside a memory, whose answers take `latency` cycles.

    First `load` fills the memory, up to an address that is all ones; then rounds and packets are
    let through. Every write goes out in `wrote` as well.
    """

    def __init__(self, *, elements: int, latency: int = 8) -> None:
        self.elements, self.latency = elements, latency
        decoder = self.decoder = Decoder()
        members = decoder.signature.members
        super().__init__({
            **{name: members[name] for name in ("rounds", "packets", "reports", "finished",
                                                    "gathered")},
            "load": In(stream.Signature(GradientWrite)),
            "wrote": Out(stream.Signature(GradientWrite))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.decoder = decoder = self.decoder
        m.submodules.memory = memory = Memory(shape=32, depth=self.elements, init=[])
        write, read = memory.write_port(), memory.read_port()
        loaded = Signal()
        for name in ("rounds", "packets"):
            ours, theirs = getattr(self, name), getattr(decoder, name)
            m.d.comb += [theirs.payload.eq(ours.payload), theirs.valid.eq(ours.valid & loaded),
                         ours.ready.eq(theirs.ready & loaded)]
        for name in ("reports", "finished", "gathered"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(decoder, name))
        m.d.comb += [
            self.load.ready.eq(~loaded), self.wrote.payload.eq(decoder.writes.payload),
            self.wrote.valid.eq(decoder.writes.valid), decoder.writes.ready.eq(self.wrote.ready),
            decoder.written.eq(decoder.writes.valid & self.wrote.ready)]
        source = Signal(GradientWrite)
        m.d.comb += [source.eq(Mux(loaded, decoder.writes.payload, self.load.payload)),
                     write.addr.eq(source.address), write.data.eq(source.value)]
        with m.If(loaded):
            m.d.comb += write.en.eq(decoder.writes.valid & self.wrote.ready)
        with m.Else():
            m.d.comb += write.en.eq(self.load.valid & ~source.address.all())
            with m.If(self.load.valid & source.address.all()):
                m.d.sync += loaded.eq(1)

        # Reads: at once, then as late as memory is. As many as the decoder allows can be waiting.
        m.submodules.answers = answers = SyncFIFO(width=32, depth=decoder.outstanding)
        m.d.comb += [decoder.reads.ready.eq(1), read.en.eq(1),
                     read.addr.eq(decoder.reads.payload),
                     decoder.values.valid.eq(answers.r_rdy),
                     decoder.values.payload.eq(answers.r_data),
                     answers.r_en.eq(decoder.values.ready)]
        value = delay(m, read.data, self.latency - 2, name="answer")
        valid = delay(m, decoder.reads.valid, self.latency - 1, name="answered", reset=True)
        m.d.comb += [answers.w_en.eq(valid), answers.w_data.eq(value)]
        return m


@dataclasses.dataclass(frozen=True)
class RoundJob:
    """One round: layer, step, learners, elements, the element address at which the layer begins;
    the first learner; whether elements are gathered, not added to."""

    layer: int
    step: int
    learners: int
    elements: int
    base: int = 0
    first: int = 0
    gather: bool = False


@dataclasses.dataclass(frozen=True)
class DecodeRun:
    """Causes of all packets; the layers of finished rounds; the gradient at the end; the cycle in
    which each element was written; what was gathered."""

    causes: list[PacketCause]
    finished: list[int]
    gradient: NDArray[np.uint32]
    written: NDArray[np.uint64]
    gathered: NDArray[np.uint32]


def decode(gradient: NDArray[np.uint32], rounds: Sequence[RoundJob], packets: Sequence[bytes], *,
           latency: int = 8, stalls: Mapping[str, float] | None = None,
           seed: int = 1) -> DecodeRun:
    """Run packets through the decoder's RTL in Verilator, onto a gradient (FP32 bits).

    Raises ValueError for a packet that is empty or no whole number of 32-bit numbers,
    SimulationError when the simulation fails or packets are left.
    """
    for packet in packets:
        if not packet or len(packet) % 4:
            raise ValueError(f"packet must have a multiple of 4 bytes, at least 4, not "
                             f"{len(packet)}")
    # Few sizes, so that few models are built.
    elements = next(size for size in (1 << 14, 1 << 16, 1 << 20, 1 << 24, 1 << 32)
                    if size >= len(gradient))
    load = np.stack([np.arange(len(gradient), dtype=np.uint32), gradient.view(np.uint32)], axis=1)
    load = np.concatenate([load, np.array([[0xFFFFFFFF, 0]], np.uint32)])
    numbers = [np.stack([np.frombuffer(p, "<u4"), np.arange(len(p) // 4) == len(p) // 4 - 1],
                        axis=1).astype(np.uint32) for p in packets]
    commands = []
    for job in rounds:
        shape = RoundCommand.as_shape()
        bits = Const({"layer": job.layer, "step": job.step, "last_learner": job.learners - 1,
                      "last_element": job.elements - 1, "base": job.base,
                      "first_learner": job.first, "gather": job.gather}, shape).as_value().value
        commands.append([bits >> 32 * i & 0xFFFFFFFF for i in range(-(-shape.size // 32))])
    run = _decoder_model(elements, latency).run(
        {"load": load, "packets": np.concatenate(numbers), "rounds": np.array(commands, np.uint32)},
        stalls=stalls, seed=seed)
    if len(run.times["packets"]) != sum(map(len, numbers)):
        raise SimulationError(f"the decoder stands still: it has taken {len(run.times['packets'])} "
                              f"numbers of {sum(map(len, numbers))}")
    final = gradient.view(np.uint32).copy()
    wrote = run.outputs["wrote"]
    for address, value in wrote:
        final[address] = value
    return DecodeRun([PacketCause(int(row[0]) & 0xF) for row in run.outputs["reports"]],
                     [int(row[0]) for row in run.outputs["finished"]], final, run.times["wrote"],
                     run.outputs["gathered"][:, 0])
