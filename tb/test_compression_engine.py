"""The compression engine's RTL beside an AXI4 memory against the golden model: every byte of memory
and every report."""

import dataclasses
from fractions import Fraction

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
from real_gradients import train
from test_adacomp_model import gradient_like
from ulpcore.compression.engine_rtl import run_engine
from ulpsim import float32
from ulpsim.compression.adacomp import LARGEST_BIN, gradient_values, quantise
from ulpsim.compression.engine import Command, Completion, Engine, EngineCause, Operation
from ulpsim.compression.learner import Learner
from ulpsim.compression.packets import PacketCause, Round, parse, split
from ulpsim.compression.words import decode_array


@configurations
@pytest.mark.parametrize("stall", [False, True], ids=["flowing", "stalled"])
def test_layers(config: dict, stall: bool, rng: np.random.Generator) -> None:
    """Layers of every kind, appended one to another, in buffers with room to spare or with just
    enough of it, so that their packets are counted first."""
    layout, commands = Layout(rng), []
    for _ in range(4):
        step = [random_layer(rng, layout, config.get("largest_bin", LARGEST_BIN)) for _ in range(6)]
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
    largest = config.get("largest_bin", LARGEST_BIN)
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
    assert (run.completions[0].scale, run.completions[0].bytes) == (0, 16)


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
