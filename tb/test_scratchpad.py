"""The memories against arrays: every turn, alignment and latency."""

import dataclasses
import gc

import numpy as np
import pytest
from ulpcore.scratchpad import (
    PARAMETER_READ_LATENCY,
    SCRATCHPAD_READ_LATENCY,
    WEIGHT_READ_LATENCY,
    ActivationScratchpad,
    ParameterMemory,
    WeightScratchpad,
)
from ulpcore.simulation import run_vectors
from ulpsim.config import EDGE, NANO
from wide import WIDE

SMALL = dataclasses.replace(EDGE, name="small", activation_bytes=1024, weight_bytes=1024,
                            parameter_columns=32)
TINY = dataclasses.replace(NANO, name="tiny", activation_bytes=2048, weight_bytes=2048)
BROAD = dataclasses.replace(WIDE, name="broad", activation_bytes=4096, weight_bytes=2048,
                            parameter_columns=32)
FOLDED = dataclasses.replace(BROAD, name="folded", fold=2)
#: More banks than residues, and fewer rows.
FOLDED_HIGH = dataclasses.replace(BROAD, name="folded_high", columns=16, lanes=4, special_lanes=16,
                                  parameter_columns=64, fold=4, activation_bytes=8192)
FOLDED_LOW = dataclasses.replace(FOLDED_HIGH, name="folded_low", rows=4)
CONFIGS = pytest.mark.parametrize("config", [SMALL, TINY, BROAD, FOLDED, FOLDED_HIGH,
                                             pytest.param(FOLDED_LOW, marks=pytest.mark.nightly)],
                                  ids=lambda c: c.name)


def words(slots: np.ndarray) -> np.ndarray:
    """[cycles, slots] of 16 bits as the 32-bit words of a port."""
    return np.ascontiguousarray(slots, np.uint16).view(np.uint32)


def packed(values: np.ndarray, width: int) -> np.ndarray:
    """[cycles, values] joined, the first one lowest, as a port's words (or its value)."""
    total = width * values.shape[1]
    rows = [sum(int(v) << (width * i) for i, v in enumerate(row)) for row in values]
    if total <= 64:
        return np.array(rows, np.uint64)
    return np.array([[row >> (32 * i) & 0xFFFFFFFF for i in range(-(-total // 32))]
                     for row in rows], np.uint32)


def slots_of(port: np.ndarray, count: int) -> np.ndarray:
    """A port's words as [cycles, count] slots."""
    wide = np.ascontiguousarray(port).view(np.uint16)
    return wide.reshape(len(port), -1)[:, :count]


@CONFIGS
def test_activations(config, rng):
    cycles, size = 6000, config.activation_slots
    phase = np.arange(cycles) % 4
    enable = rng.random((4, cycles)) < 0.8
    address = rng.integers(0, size, (4, cycles))
    count = rng.integers(1, config.banks + 1, (4, cycles))
    address = np.minimum(address, size - count)
    data = rng.integers(0, 1 << 16, (4, cycles, config.banks))
    # Which of the slots a client touches: the first ones, or any that it chooses.
    touches = np.arange(config.banks) < count[..., None]
    choosing = config.special_vectors > 1
    if choosing:
        touches[3] &= rng.random((cycles, config.banks)) < 0.6
    # Which bytes of them are written: `kept` has the bits that stay.
    upper = rng.random(cycles) < 0.5
    kept = np.where(upper & (phase == 3) & bool(config.halved_formats), 0xFF, 0)
    gather = rng.random(cycles) < 0.8
    # As many slots as are gathered; beyond those of the groups in use they may be any.
    groups = 1 << rng.integers(0, len(config.folds), cycles)
    slots = config.fold * config.rows
    residues = 8 * groups[:, None]
    rows_bank = (rng.integers(0, residues) + np.arange(slots)) % residues
    rows_slot = rng.integers(0, size // residues, (cycles, slots)) * residues + rows_bank
    used = np.arange(slots) < groups[:, None] * config.rows
    rows_slot = np.where(used, rows_slot, rng.integers(0, size, (cycles, slots)))

    expected_reads, expected_rows, unsafe = {}, {}, np.zeros(cycles, bool)
    memory = np.zeros(size, np.int64)
    for t in range(cycles):
        turn = phase[t]
        places = np.flatnonzero(touches[turn, t])
        touched = address[turn, t] + places
        writes = turn in (0, 3) and enable[turn, t]
        if gather[t]:
            unsafe[t] = writes and np.isin(rows_slot[t], touched).any()
            expected_rows[t] = memory[rows_slot[t, used[t]]]
        if turn in (1, 2) and enable[turn, t]:
            expected_reads[t] = memory[touched]
        elif writes:
            memory[touched] = memory[touched] & kept[t] | data[turn, t, places] & ~kept[t]

    inputs = {"gather_enable": gather,
              "addresses": packed(rows_slot, (size - 1).bit_length())}
    if config.fold > 1:
        inputs["gather_groups"] = groups // 2
    for i, name in enumerate(("load", "store", "special_read", "special_write")):
        inputs |= {f"{name}__enable": enable[i], f"{name}__address": address[i]}
        inputs |= {f"{name}__mask": packed(touches[i], 1)} if choosing and i == 3 else \
            {f"{name}__count": count[i]}
        if i in (0, 3):
            inputs[f"{name}__data"] = words(data[i])
    if config.halved_formats:
        inputs["special_write__upper"] = upper
    outputs = run_vectors(ActivationScratchpad(config=config), inputs,
                          flush=SCRATCHPAD_READ_LATENCY)
    assert (outputs["phase"][:cycles] == phase).all()
    gathered = slots_of(outputs["gathered"], slots)
    for t, expected in expected_rows.items():
        if not unsafe[t]:
            found = gathered[t + SCRATCHPAD_READ_LATENCY, :len(expected)]
            assert (found == expected).all(), t
    reads = {turn: slots_of(outputs[f"{name}__data"], config.banks)
             for turn, name in ((1, "store"), (2, "special_read"))}
    for t, slots in expected_reads.items():
        found = reads[phase[t]][t + SCRATCHPAD_READ_LATENCY]
        assert (found[:len(slots)] == slots).all(), t
    # The comparison means something only if the data that came back was not the initial zero.
    assert np.mean([s.any() for s in expected_reads.values()]) > 0.9
    assert len(expected_rows) - unsafe.sum() > cycles // 2


@pytest.mark.parametrize("memory", [WeightScratchpad, ParameterMemory])
@CONFIGS
def test_lines(config, memory, rng):
    component = memory(config=config)
    if memory is WeightScratchpad:
        lines, latency = config.weight_lines, WEIGHT_READ_LATENCY
        width = 16 * config.column_lanes
    else:
        lines, width, latency = component.lines, 128 * config.quarter, PARAMETER_READ_LATENCY
    cycles = 3000
    write, read = rng.random((2, cycles)) < 0.7
    write_line, read_line = rng.integers(0, lines, (2, cycles))
    data = rng.integers(0, 1 << 32, (cycles, width // 32), dtype=np.uint32)
    content = np.zeros((lines, width // 32), np.uint32)
    expected = {}
    for t in range(cycles):
        if read[t] and not (write[t] and write_line[t] == read_line[t]):
            expected[t] = content[read_line[t]].copy()
        elif not read[t] and memory is WeightScratchpad:
            expected[t] = np.zeros_like(content[0])
        if write[t]:
            content[write_line[t]] = data[t]
    outputs = run_vectors(component, {
        "write_enable": write, "write_line": write_line, "write_data": data,
        "read_enable": read, "read_line": read_line}, flush=latency)
    for t, line in expected.items():
        assert (outputs["read_data"][t + latency] == line).all(), t
    assert np.mean([line.any() for line in expected.values()]) > 0.5


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_configuration_is_checked():
    for memory in (ActivationScratchpad, WeightScratchpad, ParameterMemory):
        with pytest.raises(TypeError, match="config must be a CoreConfig, not 'edge'"):
            memory(config="edge")
    gc.collect()  # what never came to be is swept up while its warning is expected
