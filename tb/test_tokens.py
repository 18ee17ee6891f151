"""Tokens order every conflict, and `accesses` names exactly what the interpreter touches."""

import itertools

import numpy as np
import pytest
from ulpsim.config import EDGE, NANO
from ulpsim.interpreter import Machine
from ulpsim.isa import Instruction, Pool, Segment, Target, Unit
from ulpsim.programs import random_program
from ulpsim.tokens import Memory, TokenError, accesses, most_outstanding, with_tokens
from wide import WIDE

CONFIGS = [EDGE, NANO, WIDE]


def happens_before(program, config):
    """Boolean [i, j]: instruction i is surely done when j starts, by queues and tokens alone."""
    count = len(program)
    done = np.zeros((count, count), bool)
    tokens = {pair: [] for pair in itertools.product(Unit, Unit)}
    before = dict.fromkeys(Unit)
    # An instruction starts when the one before it in its unit has started; it is done after
    # that one, as units retire in order.
    for index, instruction in enumerate(program):
        unit = instruction.unit
        if unit is None:
            continue
        if before[unit] is not None:
            done[:, index] |= done[:, before[unit]]
        for source in Unit:
            for _ in range(instruction[f"wait_{source.name.lower()}"]):
                giver = tokens[source, unit].pop(0)
                done[:, index] |= done[:, giver]
                same = [i for i in range(giver + 1) if program[i].unit is source]
                done[same, index] = True
        before[unit] = index
        for target in Unit:
            if instruction[f"post_{target.name.lower()}"]:
                tokens[unit, target].append(index)
    assert not any(tokens.values()), "every token is taken"
    return done


def conflicts(program, config):
    """Pairs of instructions of different units of which one writes what the other touches."""
    touched = []
    for instruction in program:
        sets = {}
        for access in accesses(instruction, config) if instruction.unit else []:
            sets.setdefault((access.memory, access.write), set()).update(access.words.tolist())
        touched.append(sets)
    for i, j in itertools.combinations(range(len(program)), 2):
        if program[i].unit is program[j].unit:
            continue
        for (memory, write), words in touched[i].items():
            if any(words & touched[j].get((memory, other), set())
                   for other in (False, True) if write or other):
                yield i, j
                break


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_every_conflict_is_ordered(config, seed):
    ordered = 0
    for number in range(seed * 1000, seed * 1000 + 12):
        program = random_program(number, config).program
        done = happens_before(program, config)
        for i, j in conflicts(program, config):
            assert done[i, j], f"seed {number}: {i} {program[i]} and {j} {program[j]}"
            ordered += 1
    assert ordered > 100


def memories(machine):
    """The arrays of a machine, cut into the words in which accesses count."""
    external = {memory: machine.memory[base:base + size].reshape(-1, machine.config.bus_bytes)
                for memory, (base, size) in ((Memory[s.name], machine.segments[s])
                                             for s in (Segment.OUTPUT, Segment.WORKSPACE))}
    return {Memory.ACTIVATIONS: machine.activations[:, None], Memory.WEIGHTS: machine.weights,
            Memory.PARAMETERS: machine.parameters, Memory.ACCUMULATORS: machine.accumulators,
            **external}


def machine_like(config, rng, segments, size):
    """A machine in which every memory holds random bits."""
    machine = Machine(config, rng.integers(0, 256, size).astype(np.uint8))
    machine.segments = segments
    for array in memories(machine).values():
        array[...] = rng.integers(0, 1 << 8 * array.itemsize, array.shape)
    return machine


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_accesses_are_what_the_interpreter_touches(config, rng, seed):
    """Words that are not read may hold anything; words that are not written stay as they are."""
    names = set()
    for number in range(seed * 1000, seed * 1000 + 10):
        sample = random_program(number, config)
        segments = {s: (i << 15, 1 << 15) for i, s in enumerate(Segment)}
        size = 4 << 15
        for instruction in sample.program[:-1]:
            names.add(instruction.name)
            first, second = (machine_like(config, rng, segments, size) for _ in range(2))
            second.memory[:2 << 15] = first.memory[:2 << 15]
            touched = accesses(instruction, config)
            written = {memory: np.zeros(len(array), bool)
                       for memory, array in memories(first).items()}
            for access in touched:
                if access.write:
                    written[access.memory][access.words] = True
                else:
                    memories(second)[access.memory][access.words] = \
                        memories(first)[access.memory][access.words]
            before = {memory: array.copy() for memory, array in memories(first).items()}
            first.step(instruction)
            second.step(instruction)
            for memory, array in memories(first).items():
                where = written[memory]
                assert np.array_equal(array[~where], before[memory][~where]), instruction
                assert np.array_equal(array[where], memories(second)[memory][where]), \
                    f"{instruction} reads {memory} where it does not say so"
    assert names == {"LOAD", "FILL", "MATMUL", "SPECIAL", "STORE"}


def test_unused_tokens_are_left_out():
    """One token where several instructions are waited for, none where another wait implies it."""
    program = with_tokens([
        Instruction("LOAD", length=8),
        Instruction("LOAD", length=8, address=8),
        Instruction("LOAD", length=8, target=Target.WEIGHTS),
        Instruction("MATMUL", precision=1, depth=1, run_length=1, count_2=16, stride_2=1),
        Instruction("SPECIAL", output_precision=1, pool=Pool.NONE, count_2=4, stride_2=4,
                    accumulator_stride_2=1),
        Instruction("STORE", segment=Segment.OUTPUT, length=16),
        Instruction("HALT"),
    ], EDGE)
    posts = [[u.name for u in Unit if i[f"post_{u.name.lower()}"]] for i in program]
    waits = [[u.name for u in Unit if i[f"wait_{u.name.lower()}"]] for i in program]
    # The SPECIAL writes what the first LOAD wrote and the MATMUL read: waiting for the MATMUL is
    # enough. What the STORE reads is there when the SPECIAL is done.
    assert posts == [[], [], ["EXECUTE"], ["SPECIAL"], ["STORE"], [], []]
    assert waits == [[], [], [], ["LOAD"], ["EXECUTE"], ["SPECIAL"], []]


def test_too_many_tokens():
    """More results that wait for a reader than the core can count are refused, with the number."""
    loads = [Instruction("LOAD", length=2, address=2 * i) for i in range(250)]
    stores = [Instruction("STORE", segment=Segment.OUTPUT, length=2, address=2 * i)
              for i in range(250)]
    with pytest.raises(TokenError, match=r"at most 255 at a time, not 267"):
        with_tokens([*loads, *stores], EDGE)
    fewer = with_tokens([*loads[:230], *stores[:230]], EDGE)
    assert most_outstanding(fewer, EDGE) == 230 + EDGE.queue_depth + 1
