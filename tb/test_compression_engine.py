"""The compression engine's RTL beside an AXI4 memory against the golden model: every byte of memory
and every report."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from real_gradients import train
from test_adacomp_model import KINDS, bad_packets, gradient_like, reframe, some_packets
from ulpcore.compression.engine import CompressionEngine
from ulpcore.compression.engine_rtl import EngineRun, run_engine
from ulpsim import dlfloat, float32
from ulpsim.compression.adacomp import EncoderCause, gradient_values, quantise
from ulpsim.compression.engine import (
    Command,
    Completion,
    Engine,
    EngineCause,
    Operation,
    Place,
)
from ulpsim.compression.learner import Learner
from ulpsim.compression.packets import PacketCause, Round, parse, split
from ulpsim.compression.words import decode_array

SIZES = (1, 7, 50, 64, 65, 500, 512, 4096, 16384)
DEFAULT = {"lanes": 4, "bus_bytes": 8}
NIGHTLY = [{"lanes": 1, "bus_bytes": 4}, {"lanes": 1, "bus_bytes": 16, "largest_bin": 64},
           {"lanes": 8, "bus_bytes": 64, "largest_bin": 4096},
           {"lanes": 16, "bus_bytes": 16, "burst_beats": 4, "outstanding": 1},
           {"lanes": 4, "bus_bytes": 32, "burst_beats": 64, "outstanding": 2}]
CONFIGS = [DEFAULT, *(pytest.param(c, marks=pytest.mark.nightly) for c in NIGHTLY)]
ALIGNMENT = 64


def name_of(config: object) -> str | None:
    return (f"{config['lanes']}-lanes-{config['bus_bytes']}-bytes" if isinstance(config, dict)
            else None)


configurations = pytest.mark.parametrize("config", CONFIGS, ids=name_of)


class Layout:
    """Memory full of random bytes, in which regions are laid out one behind another with gaps."""

    def __init__(self, rng: np.random.Generator, size: int = 1 << 19) -> None:
        self.rng = rng
        self.memory = rng.integers(0, 256, size, np.uint8)
        self.next = 0

    def region(self, size: int) -> int:
        at = self.next + ALIGNMENT * int(self.rng.integers(0, 3))
        self.next = -(-(at + size) // ALIGNMENT) * ALIGNMENT
        assert self.next <= len(self.memory)
        return at

    def put(self, values: np.ndarray, at: int | None = None) -> int:
        at = self.region(values.nbytes) if at is None else at
        self.memory[at:at + values.nbytes] = np.ascontiguousarray(values).view(np.uint8)
        return at


def golden(memory: np.ndarray, commands: list[Command], config: dict, **options
           ) -> tuple[list[Completion], np.ndarray]:
    final = memory.copy()
    options = {key: config[key] for key in ("bus_bytes", "largest_bin") if key in config} | options
    engine = Engine(final, **options)
    return [engine.run(command) for command in commands], final


def check(memory: np.ndarray, commands: list[Command], config: dict, **options) -> EngineRun:
    """The RTL's reports and memory are those of the golden model."""
    reports, final = golden(memory, commands, config)
    run = run_engine(memory, commands, **config, **options)
    for i, (ours, theirs) in enumerate(zip(run.completions, reports, strict=True)):
        assert ours == theirs, f"command {i}: {commands[i]}"
    differ = np.flatnonzero(run.memory != final)
    assert len(differ) == 0, f"{len(differ)} bytes differ, the first at {differ[:4]}"
    return run


def random_layer(rng: np.random.Generator, layout: Layout, largest_bin: int, kind: str | None = None
                 ) -> Command:
    """A layer in memory and how it is compressed; buffers are still to be given."""
    bin_size = int(rng.choice([size for size in SIZES if size <= largest_bin]))
    elements = int(rng.choice([1, 3, 16, 50, 333, 1000, 2500]))
    gradient = gradient_like(rng, elements, kind or str(rng.choice(KINDS)))
    half = bool(rng.random() < 0.4)
    if half:
        gradient = np.where(rng.random(elements) < 0.05, np.uint16(0x7FFF),
                            dlfloat.encode_array(np.nan_to_num(gradient).astype(np.float64)))
        gradient = gradient.astype(np.uint16)
    spread = int(rng.choice([1, 1 << 10, 1 << 16, 1 << 18]))
    choose = bool(rng.random() < 0.15)
    exact = not choose and bool(rng.random() < 0.5)
    scale = 0 if choose or exact else float32.encode(int(rng.integers(0, 1 << 18)) / 65536)
    return Command(
        Operation.COMPRESS, elements, layout.put(gradient), 0, 0,
        residue=layout.put(rng.integers(-spread, spread + 1, elements).astype(np.int32)),
        layer=int(rng.integers(0, 4096)), step=int(rng.integers(0, 1024)), bin_size=bin_size,
        factor=int(rng.integers(1, 32)), point=16, exact=exact, scale=scale, choose=choose,
        dlfloat16=half)


@configurations
@pytest.mark.parametrize("stall", [False, True], ids=["flowing", "stalled"])
def test_layers(config: dict, stall: bool, rng: np.random.Generator) -> None:
    """Layers of every kind, appended one to another, in buffers with room to spare or with just
    enough of it, so that their packets are counted first."""
    layout, commands = Layout(rng), []
    for _ in range(4):
        step = [random_layer(rng, layout, config.get("largest_bin", 16384)) for _ in range(6)]
        step = [dataclasses.replace(c, capacity=1 << 20, append=i > 0) for i, c in enumerate(step)]
        reports, _ = golden(layout.memory, step, config)
        if reports[-1].cause is EngineCause.DECODE_ERROR:      # 1 MB is beyond memory
            raise AssertionError("the layout is too small")
        size = max(report.bytes for report in reports)
        tight = bool(rng.random() < 0.5)
        capacity = -(-(size if tight else 3 * size + 8192) // ALIGNMENT) * ALIGNMENT
        buffer = layout.region(capacity)
        commands += [dataclasses.replace(c, buffer=buffer, capacity=capacity) for c in step]
    run = check(layout.memory, commands, config, latency=int(rng.integers(2, 40)),
                stall_seed=int(rng.integers(1, 1 << 30)) if stall else 0,
                stalls={"commands": 0.9, "completions": 0.95} if stall else None)
    for command, report in zip(commands, run.completions, strict=True):
        assert report.cause is EngineCause.NONE
        conserved(command, report, layout.memory, run.memory)


def conserved(command: Command, report: Completion, before: np.ndarray, after: np.ndarray) -> None:
    """New residue and what the packets say equal old residue and gradient, exactly."""
    def array(memory: np.ndarray, at: int, kind: str) -> np.ndarray:
        return memory[at:at + command.elements * np.dtype(kind).itemsize].view(kind)

    run = after[command.buffer:command.buffer + report.bytes].tobytes()
    sent = np.zeros(command.elements, np.int64)
    found = 0
    for packet in split(run):
        header, words = parse(packet)
        if (header.layer, header.step) != (command.layer, command.step):
            continue
        found += 1
        positions, negative = decode_array(words, header.bin_size, header.first_bin)
        units = int(Fraction(float32.decode(header.scale)) * 2 ** command.point)
        sent[positions] += np.where(negative, -units, units)
    assert found == report.packets
    gradient = gradient_values(array(before, command.gradient,
                                     "<u2" if command.dlfloat16 else "<f4"))
    old = array(before, command.residue, "<i4").astype(np.int64)
    taken = []
    for residue, bits in zip(old.tolist(), gradient.view(np.uint32).tolist(), strict=True):
        units = quantise(bits, command.point)
        fits = units is not None and -1 << 31 <= residue + units < 1 << 31
        taken.append(units if fits else 0)
    new = array(after, command.residue, "<i4")
    np.testing.assert_array_equal(new + sent, old + taken)


@configurations
def test_cluster(config: dict, rng: np.random.Generator) -> None:
    """Three steps of several learners and layers: compressed with residues going round, exact means
    and those of the step before in turn, and all of them decoded by each other's engine."""
    layout = Layout(rng)
    first, learners, sizes = 5, 3, (700, 64, 2000)
    largest = config.get("largest_bin", 16384)
    bins = tuple(min(size, largest) for size in (50, 500, 4096))
    capacity = 8192
    pitch = capacity + ALIGNMENT * int(rng.integers(0, 3))
    buffers = layout.region(learners * pitch)
    dense = [layout.put(rng.standard_normal(size).astype(np.float32)) for size in sizes]
    residues = [[layout.put(np.zeros(size, np.int32)) for size in sizes] for _ in range(learners)]
    commands, means = [], {}
    shadow = layout.memory.copy()
    engine = Engine(shadow, bus_bytes=config["bus_bytes"], largest_bin=largest)
    for step in range(3):
        for index in range(learners):
            for layer, size in enumerate(sizes):
                gradient = gradient_like(rng, size, "heavy")
                at = layout.put(gradient)
                layout.put(gradient, at)
                shadow[at:at + gradient.nbytes] = gradient.view(np.uint8)
                command = Command(
                    Operation.COMPRESS, size, at, buffers + index * pitch, capacity, layer=layer,
                    step=1022 + step & 1023, learner=first + index, residue=residues[index][layer],
                    append=layer > 0, bin_size=bins[layer], factor=9, point=16,
                    exact=step != 1, scale=means.get((index, layer), 0))
                report = engine.run(command)
                means[index, layer] = report.mean
                commands.append(command)
        for layer, size in enumerate(sizes):
            commands.append(Command(
                Operation.DECODE, size, dense[layer], buffers, capacity, layer=layer,
                step=1022 + step & 1023, learner=first, last_learner=first + learners - 1,
                pitch=pitch, append=layer > 0, clear=step != 1))
            engine.run(commands[-1])
    run = check(layout.memory, commands, config, latency=12,
                stall_seed=int(rng.integers(1, 1 << 30)))
    assert all(report.cause is EngineCause.NONE for report in run.completions)


def test_real_gradients(rng: np.random.Generator) -> None:
    """A step of a network that learns, of two learners: packets and sums are those of `Learner` and
    `Round`, whole networks in one run of bytes."""
    layout = Layout(rng, 1 << 21)
    (step,), _ = train(rng, 1)
    halves = [step, {name: g[::-1].copy() for name, g in step.items()}]
    capacity, learners = 1 << 17, [Learner(number) for number in range(2)]
    buffers = layout.region(2 * capacity)
    commands, runs, residues = [], [], []
    for learner, gradients in zip(learners, halves, strict=True):
        run = b""
        for layer, (name, g) in enumerate(gradients.items()):
            state = learner.layer(name, g, 50 if name.startswith("conv") else 500)
            commands.append(Command(
                Operation.COMPRESS, len(g), layout.put(g), buffers + learner.number * capacity,
                capacity, layer=layer, learner=learner.number,
                residue=layout.put(np.zeros(len(g), np.int32)), append=layer > 0,
                bin_size=state.settings.bin_size, factor=state.settings.factor_steps,
                point=state.settings.point, exact=True))
            run += b"".join(learner.compress(state, g)[1])
            residues.append(state.residue)
        runs.append(run)
    dense = []
    for layer, g in enumerate(step.values()):
        dense.append(layout.region(g.nbytes))
        commands.append(Command(Operation.DECODE, len(g), dense[-1], buffers, capacity,
                                layer=layer, last_learner=1, pitch=capacity, append=layer > 0,
                                clear=True))
    result = run_engine(layout.memory, commands, **DEFAULT)
    assert all(report.cause is EngineCause.NONE for report in result.completions)
    for i, run in enumerate(runs):
        at = buffers + i * capacity
        assert result.memory[at:at + len(run)].tobytes() == run
    for command, residue in zip(commands, residues, strict=False):
        at = command.residue
        np.testing.assert_array_equal(result.memory[at:at + residue.nbytes].view(np.int32), residue)
    packets = [list(split(run)) for run in runs]
    for layer, g in enumerate(step.values()):
        total = np.zeros(len(g), np.uint32)
        round_ = Round(total, layer=layer, step=0, learners=2)
        for packet in (p for run in packets for p in run if parse(p)[0].layer == layer):
            assert round_.add(packet) is PacketCause.NONE
        at = dense[layer]
        np.testing.assert_array_equal(result.memory[at:at + g.nbytes].view(np.uint32), total)


def test_many_learners(rng: np.random.Generator) -> None:
    """A round of 256: each sends the same few elements, which wait for one another in memory."""
    layout = Layout(rng)
    gradient = gradient_like(rng, 40, "heavy")
    at, residue = layout.put(gradient), layout.put(np.zeros(40, np.int32))
    pitch = 128
    buffers, dense = layout.region(256 * pitch), layout.region(160)
    commands = [Command(Operation.COMPRESS, 40, at, buffers + i * pitch, pitch, learner=700 + i,
                        residue=residue, bin_size=20, factor=10, point=16, exact=True)
                for i in range(256)]
    commands.append(Command(Operation.DECODE, 40, dense, buffers, pitch, learner=700,
                            last_learner=955, pitch=pitch, clear=True))
    run = check(layout.memory, commands, DEFAULT, latency=2)
    assert run.completions[-1].packets == 256


@pytest.mark.parametrize("scale", [0, 1 << 31, 1, 0x807FFFFF])
def test_scales_that_are_zero(scale: int, rng: np.random.Generator) -> None:
    """-0 and numbers below the normal ones, too: nothing is sent, and packets say 0."""
    layout = Layout(rng)
    command = Command(Operation.COMPRESS, 300, layout.put(gradient_like(rng, 300, "normal")),
                      layout.region(1024), 1024, residue=layout.put(np.zeros(300, np.int32)),
                      bin_size=50, factor=8, point=16, scale=scale)
    run = check(layout.memory, [command], DEFAULT)
    assert (run.completions[0].scale, run.completions[0].bytes) == (0, 16 + 4)


@configurations
def test_speed(config: dict, rng: np.random.Generator) -> None:
    """A pass is bound by the bus or by the encoder's lanes, and little else."""
    layout, elements = Layout(rng, 1 << 20), 20_000
    at = layout.put(gradient_like(rng, elements, "normal"))
    command = Command(Operation.COMPRESS, elements, at, layout.region(1 << 18), 1 << 18,
                      residue=layout.put(np.zeros(elements, np.int32)), bin_size=50, factor=8,
                      point=16, scale=float32.encode(2.0))
    run = check(layout.memory, [command, dataclasses.replace(command, exact=True)], config)
    bound = elements * max(8 / config["bus_bytes"], 1 / config["lanes"])
    if config.get("outstanding", 4) * config.get("burst_beats", 16) >= 64:
        assert run.cycles[0] <= 1.02 * bound + 400
        assert run.cycles[1] <= 2 * (1.02 * bound + 400)


@configurations
def test_bad_commands(config: dict, rng: np.random.Generator) -> None:
    """Each is refused with its cause and place and changes nothing; the one behind it is carried
    out, and one that was appended goes on where the last good one ended."""
    layout = Layout(rng)
    largest = config.get("largest_bin", 16384)
    good = dataclasses.replace(random_layer(rng, layout, 50, "normal"), layer=1, exact=True,
                               choose=False, scale=0, dlfloat16=False)
    good = dataclasses.replace(good, buffer=layout.region(1 << 14), capacity=1 << 14)
    decode = Command(Operation.DECODE, good.elements, layout.region(4 * good.elements),
                     good.buffer, good.capacity, layer=1, step=good.step, pitch=ALIGNMENT)
    top = (1 << 32) - ALIGNMENT
    off = config["bus_bytes"] // 2
    bad = [
        (good, {"elements": 0}, EngineCause.ELEMENTS, Place.NONE, 0),
        (good, {"gradient": good.gradient + off}, EngineCause.MISALIGNED, Place.GRADIENT, 0),
        (good, {"residue": good.residue + off}, EngineCause.MISALIGNED, Place.RESIDUE, 0),
        (good, {"buffer": good.buffer + off}, EngineCause.MISALIGNED, Place.PACKETS, 0),
        (good, {"capacity": good.capacity + off}, EngineCause.MISALIGNED, Place.PACKETS, 0),
        (good, {"gradient": top, "elements": 17}, EngineCause.RANGE, Place.GRADIENT, 0),
        (good, {"gradient": top, "elements": 33, "dlfloat16": True}, EngineCause.RANGE,
         Place.GRADIENT, 0),
        (good, {"gradient": 0, "residue": top, "elements": 17}, EngineCause.RANGE, Place.RESIDUE,
         0),
        (good, {"elements": (1 << 32) - 1}, EngineCause.RANGE, Place.GRADIENT, 0),
        (good, {"buffer": top, "capacity": 2 * ALIGNMENT}, EngineCause.RANGE, Place.PACKETS, 0),
        (good, {"capacity": 0}, EngineCause.OVERFLOW, Place.PACKETS, 0),
        (good, {"bin_size": 0}, EngineCause.ENCODER, Place.NONE, EncoderCause.BIN_SIZE),
        (good, {"bin_size": largest + 1}, EngineCause.ENCODER, Place.NONE, EncoderCause.BIN_SIZE),
        (good, {"factor": 0}, EngineCause.ENCODER, Place.NONE, EncoderCause.FACTOR),
        (good, {"point": 127}, EngineCause.ENCODER, Place.NONE, EncoderCause.POINT),
        (good, {"exact": False, "scale": float32.NAN}, EngineCause.ENCODER, Place.NONE,
         EncoderCause.SCALE),
        (good, {"choose": True, "scale": float32.encode(1.0)}, EngineCause.ENCODER, Place.NONE,
         EncoderCause.SCALE),
        (decode, {"elements": 0}, EngineCause.ELEMENTS, Place.NONE, 0),
        (decode, {"learner": 1}, EngineCause.LEARNERS, Place.NONE, 0),
        (decode, {"last_learner": 256}, EngineCause.LEARNERS, Place.NONE, 0),
        (decode, {"append": True}, EngineCause.LEARNERS, Place.NONE, 0),
        (decode, {"gradient": decode.gradient + off}, EngineCause.MISALIGNED, Place.GRADIENT, 0),
        (decode, {"pitch": off}, EngineCause.MISALIGNED, Place.PACKETS, 0),
        (decode, {"residue": off, "elements": 0}, EngineCause.ELEMENTS, Place.NONE, 0),
        (decode, {"last_learner": 3, "pitch": 1 << 31}, EngineCause.RANGE, Place.PACKETS, 0),
        (decode, {"capacity": ALIGNMENT, "buffer": 0, "clear": True}, EngineCause.PACKET,
         Place.NONE, PacketCause.LENGTH),
    ]
    if config["bus_bytes"] == 4:
        bad = [row for row in bad if row[2] is not EngineCause.MISALIGNED]
    layout.memory[:ALIGNMENT] = 0xFF                       # as a packet: of too many words
    commands, expected = [dataclasses.replace(good, layer=0)], [None]
    for command, change, *causes in bad:
        commands += [dataclasses.replace(command, **change),
                     dataclasses.replace(good, append=True, layer=len(commands) & 1)]
        expected += [causes, None]
    capacity = 1 << 17
    buffer = layout.region(capacity)
    commands = [dataclasses.replace(c, buffer=buffer, capacity=capacity)
                if c.buffer == good.buffer and c.capacity == good.capacity
                and c.operation is Operation.COMPRESS else c for c in commands]
    run = check(layout.memory, commands, config)
    for command, report, causes in zip(commands, run.completions, expected, strict=True):
        got = [report.cause, report.place, report.detail]
        assert got == (causes or [EngineCause.NONE, Place.NONE, 0]), command


@configurations
def test_overflow(config: dict, rng: np.random.Generator) -> None:
    """A buffer that is short of a beat: nothing is changed, and the report says how much is needed;
    with as much as that the same command is carried out."""
    layout, commands, needs = Layout(rng), [], []
    for _ in range(8):
        command = random_layer(rng, layout, 500, str(rng.choice(["normal", "constant", "bad"])))
        command = dataclasses.replace(command, buffer=layout.region(12_000), capacity=12_000 // 64
                                      * 64)
        (report,), _ = golden(layout.memory, [command], config)
        needs.append(report.bytes)
        beats = -(-report.bytes // config["bus_bytes"])
        short, enough = ((beats - less) * config["bus_bytes"] for less in (1, 0))
        commands += [dataclasses.replace(command, capacity=short),
                     dataclasses.replace(command, capacity=enough)]
    run = check(layout.memory, commands, config, stall_seed=int(rng.integers(0, 1 << 20)))
    for need, short, enough in zip(needs, run.completions[::2], run.completions[1::2], strict=True):
        assert (short.cause, short.bytes) == (EngineCause.OVERFLOW, need)
        assert (enough.cause, enough.bytes) == (EngineCause.NONE, need)


def of_learner(packet: bytes, learner: int) -> bytes:
    """A packet of learner 0 as that of another one, if it can be read at all."""
    try:
        header, _ = parse(packet)
    except ValueError:
        return packet
    return reframe(packet, learner=learner) if header.learner == 0 else packet


@pytest.mark.parametrize(("elements", "bin_size"), [(3000, 7), (1001, 500)])
def test_bad_packets(elements: int, bin_size: int, rng: np.random.Generator) -> None:
    """In the buffer of any of the learners: those before are added, the bad packet changes nothing,
    its learner is named. Then the round is given again with all that is needed."""
    layout = Layout(rng, 1 << 21)
    good = [b"".join(some_packets(rng, elements, bin_size, learner)[1]) for learner in range(3)]
    behind = bytes(rng.integers(0, 256, 64, np.uint8))
    dense = layout.put(rng.standard_normal(elements).astype(np.float32))
    capacity = -(-max(map(len, good)) // 64) * 64 + 128
    decode = Command(Operation.DECODE, elements, dense, 0, capacity, layer=3, step=77,
                     last_learner=2, pitch=capacity)

    def buffers(runs: list[bytes]) -> int:
        at = layout.region(3 * capacity)
        for i, run in enumerate(runs):
            layout.put(np.frombuffer((run + behind)[:capacity], np.uint8), at + i * capacity)
        return at

    all_good = buffers(good)
    commands = []
    for learner in range(3):
        for packet, _ in bad_packets(rng, elements, bin_size):
            runs = list(good)
            runs[learner] = of_learner(packet, learner)
            commands += [dataclasses.replace(decode, buffer=buffers(runs)),
                         dataclasses.replace(decode, buffer=all_good, clear=learner != 1)]
    longest = max(map(len, good))
    for room in (0, 8, 16, longest // 16 * 8, (longest - 1) // 8 * 8):
        commands.append(dataclasses.replace(decode, buffer=all_good, capacity=room))
    run = check(layout.memory, commands, DEFAULT, stall_seed=int(rng.integers(0, 1 << 20)))
    bad = [report for report in run.completions if report.cause is not EngineCause.NONE]
    assert {report.cause for report in bad} == {EngineCause.PACKET}
    assert {report.learner for report in bad} == {0, 1, 2}
    assert {report.detail for report in bad} >= set(PacketCause) - {
        PacketCause.NONE, PacketCause.RANGE if bin_size > elements // 60 else None}


def test_failed_rounds_are_forgotten(rng: np.random.Generator) -> None:
    """The second layer's round fails and is given again: it reads where the first one has ended."""
    layout = Layout(rng)
    capacity, elements = 1 << 11, 300
    buffers, other = layout.region(2 * capacity), layout.region(2 * capacity)
    gradients = [[layout.put(gradient_like(rng, elements, "normal")) for _ in range(2)]
                 for _ in range(2)]
    commands = []
    for at in (buffers, other):
        for learner in range(2):
            for layer in range(2):
                gradient = gradients[learner][layer]
                residue = layout.put(np.zeros(elements, np.int32))
                commands.append(Command(
                    Operation.COMPRESS, elements, gradient, at + learner * capacity, capacity,
                    # In the other buffers learner 1 has its second layer in another step.
                    step=int(at == other and learner == layer == 1), layer=layer, learner=learner,
                    residue=residue, append=layer > 0, bin_size=50, factor=8, point=16,
                    exact=True))
    dense = [layout.region(4 * elements) for _ in range(2)]
    round_ = Command(Operation.DECODE, elements, dense[0], buffers, capacity, last_learner=1,
                     pitch=capacity, clear=True)
    second = dataclasses.replace(round_, gradient=dense[1], layer=1, append=True)
    commands += [round_, dataclasses.replace(second, buffer=other), second,
                 dataclasses.replace(round_, buffer=other), dataclasses.replace(second, layer=0),
                 second]
    run = check(layout.memory, commands, DEFAULT)
    causes = [(report.cause, report.detail, report.learner) for report in run.completions[8:]]
    fine = (EngineCause.NONE, 0, 0)
    assert causes == [fine, (EngineCause.PACKET, PacketCause.ORDER, 1), fine,
                      fine, (EngineCause.PACKET, PacketCause.LAYER, 0), fine]


@pytest.mark.parametrize("cause", [EngineCause.SLAVE_ERROR, EngineCause.DECODE_ERROR])
@pytest.mark.parametrize("place", ["gradient", "residue", "packets", "dense", "received"])
def test_bus_errors(cause: EngineCause, place: str, rng: np.random.Generator) -> None:
    """The command says which region did not answer; nothing outside of its own regions has changed,
    and the next command, on other memory, is carried out."""
    layout, elements, capacity = Layout(rng), 900, 1 << 12
    commands = []
    for _ in range(2):
        gradient = layout.put(gradient_like(rng, elements, "normal"))
        residue = layout.put(np.zeros(elements, np.int32))
        compress = Command(Operation.COMPRESS, elements, gradient, layout.region(capacity),
                           capacity, residue=residue, bin_size=50, factor=8, point=16, exact=True)
        commands += [compress, Command(Operation.DECODE, elements, layout.region(4 * elements),
                                       compress.buffer, capacity, clear=True)]
    compress, decode, *others = commands
    # Where it begins and how long it is; what fails and may have changed; the place in the report.
    at, size, bad, named = {
        "gradient": (compress.gradient + 2000, 64, [0], Place.GRADIENT),
        "residue": (compress.residue + 1600, 4, [0], Place.RESIDUE),
        "packets": (compress.buffer + 64, 4, [0], Place.PACKETS),
        "dense": (decode.gradient + 3200, 4, [1], Place.GRADIENT),
        "received": (decode.buffer, 16, [1], Place.PACKETS)}[place]
    if place == "received":
        # Packets that are there already, as a bus that only fails now has left them.
        (report,), filled = golden(layout.memory, [compress], DEFAULT)
        assert report.cause is EngineCause.NONE
        layout.memory[:] = filled
        commands = [others[0], decode, *others[1:]]
    else:
        commands = ([compress, *others] if bad == [0] else [others[0], dataclasses.replace(
            decode, buffer=others[0].buffer), *others[1:]])
    error = (at, size, cause)
    reports, final = golden(layout.memory, commands, DEFAULT, error=error)
    run = run_engine(layout.memory, commands, **DEFAULT, error=error,
                     stall_seed=int(rng.integers(0, 1 << 20)))
    assert run.completions == reports
    index = bad[0]
    assert (reports[index].cause, reports[index].place) == (cause, named)
    assert [r.cause for i, r in enumerate(reports) if i != index] == [EngineCause.NONE] * (
        len(reports) - 1)
    may = np.zeros(len(final), bool)
    failed = commands[index]
    if failed.operation is Operation.COMPRESS:
        may[failed.residue:failed.residue + 4 * elements] = True
        may[failed.buffer:failed.buffer + capacity] = True
    else:
        may[failed.gradient:failed.gradient + 4 * elements] = True
    np.testing.assert_array_equal(run.memory[~may], final[~may])
    if failed.operation is Operation.COMPRESS and place != "packets":
        # The pass that measures has met the error: nothing has changed.
        np.testing.assert_array_equal(run.memory, final)


def test_packets_over_the_gradient(rng: np.random.Generator) -> None:
    """A buffer that lies where the gradient does, so that packets grow after they were counted: not
    a byte outside of it is written, and the engine goes on."""
    layout, elements = Layout(rng), 4000
    gradient = layout.put(gradient_like(rng, elements, "sparse"))
    residue = layout.put(np.zeros(elements, np.int32))
    command = Command(Operation.COMPRESS, elements, gradient, gradient, 0, residue=residue,
                      bin_size=7, factor=30, point=16, scale=float32.encode(1.0))
    (report,), _ = golden(layout.memory, [dataclasses.replace(command, capacity=1 << 14)], DEFAULT)
    capacity = -(-report.bytes // 16) * 16
    command = dataclasses.replace(command, capacity=capacity)
    run = run_engine(layout.memory, [command, command], **DEFAULT)
    assert all(r.cause in (EngineCause.NONE, EngineCause.OVERFLOW) for r in run.completions)
    outside = np.ones(len(run.memory), bool)
    outside[gradient:gradient + capacity] = outside[residue:residue + 4 * elements] = False
    np.testing.assert_array_equal(run.memory[outside], layout.memory[outside])


@pytest.mark.parametrize(("arguments", "message"), [
    ({"lanes": 2}, "lanes must be one of 1, 4, 8, 16, not 2"),
    ({"lanes": 1, "bus_bytes": 2}, "bus_bytes must be one of 4, 8, 16, 32, 64, not 2"),
    ({"lanes": 1, "bus_bytes": 128}, "bus_bytes must be one of"),
    ({"lanes": 1, "burst_beats": 1}, "burst_beats must be a power of two from 2 to 64, not 1"),
    ({"lanes": 1, "outstanding": 0}, "outstanding must be a positive integer, not 0"),
    ({"lanes": 1, "largest_bin": 16385}, "largest_bin must be an integer from 1 to 16384"),
])
def test_bad_parameters(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompressionEngine(**arguments)


def test_bad_memory() -> None:
    with pytest.raises(ValueError, match="whose length is a multiple of 8, not uint8"):
        Engine(np.zeros(12, np.uint8), bus_bytes=8)
    with pytest.raises(ValueError, match="whose length is a multiple of 64"):
        run_engine(np.zeros(12, np.uint8), [], lanes=1)
