"""What fails in the compression engine: causes, places, and that nothing else has changed."""

import dataclasses

import numpy as np
import pytest
from engine_bench import (
    ALIGNMENT,
    DEFAULT,
    Layout,
    check,
    configurations,
    golden,
    random_layer,
)
from test_adacomp_model import bad_packets, gradient_like, reframe, some_packets
from ulpcore.compression.engine import CompressionEngine
from ulpcore.compression.engine_rtl import run_engine
from ulpsim import float32
from ulpsim.compression.adacomp import LARGEST_BIN, EncoderCause
from ulpsim.compression.engine import Command, Engine, EngineCause, Operation, Place
from ulpsim.compression.packets import PacketCause, parse


@configurations
def test_bad_commands(config: dict, rng: np.random.Generator) -> None:
    """Each is refused with its cause and place and changes nothing; the one behind it is carried
    out, and one that was appended goes on where the last good one ended."""
    layout = Layout(rng)
    largest = config.get("largest_bin", LARGEST_BIN)
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
    while len(needs) < 8:
        command = random_layer(rng, layout, 500, str(rng.choice(["normal", "constant", "bad"])))
        command = dataclasses.replace(command, buffer=layout.region(12_000), capacity=12_000 // 64
                                      * 64)
        (report,), _ = golden(layout.memory, [command], config)
        if not report.bytes:
            continue                       # no buffer is short of nothing
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
    """A buffer that lies where the gradient ends: the first packets are read as gradients, so there
    are more words than were counted. Not a byte outside of it is written; the engine goes on."""
    layout, elements, bin_size = Layout(rng), 1 << 15, 1 << 14
    values = np.zeros(elements, np.float32)
    values[:bin_size] = 0.5
    gradient, residue = layout.put(values), layout.put(np.zeros(elements, np.int32))
    command = Command(Operation.COMPRESS, elements, gradient, layout.region(1 << 16), 1 << 16,
                      residue=residue, bin_size=bin_size, factor=8, point=16,
                      scale=float32.encode(0.5))
    (report,), _ = golden(layout.memory, [command], DEFAULT)
    capacity = -(-report.bytes // DEFAULT["bus_bytes"]) * DEFAULT["bus_bytes"]
    bad = dataclasses.replace(command, capacity=capacity,
                              buffer=gradient + 4 * elements - capacity)
    good = dataclasses.replace(command, elements=bin_size)
    run = run_engine(layout.memory, [bad, good], **DEFAULT)
    assert (run.completions[0].cause, run.completions[0].place) == (EngineCause.OVERFLOW,
                                                                    Place.PACKETS)
    assert run.completions[1].cause is EngineCause.NONE
    may = np.zeros(len(run.memory), bool)
    for at, size in ((bad.buffer, capacity), (residue, 4 * elements),
                     (good.buffer, run.completions[1].bytes)):
        may[at:at + size] = True
    np.testing.assert_array_equal(run.memory[~may], layout.memory[~may])


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
