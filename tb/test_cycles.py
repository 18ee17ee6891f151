"""The cycle model's own contract; that it equals the RTL is tested in `test_core`."""

import pytest
from ulpsim.breakdown import CAUSES, breakdown
from ulpsim.config import EDGE, NANO
from ulpsim.cycles import DeadlockError, predict
from ulpsim.isa import Instruction, Segment
from ulpsim.programs import random_program

HALT = Instruction("HALT")
SEGMENTS = {segment: (0x10000 * (1 + segment.value), 0x10000) for segment in Segment}


def run(program, config=EDGE, latency=16):
    return predict(program, config, program_address=0, segments=SEGMENTS, latency=latency)


@pytest.mark.parametrize("config", [EDGE, NANO], ids=lambda c: c.name)
def test_breakdown_accounts_for_every_cycle(config, seed):
    for i in range(30):
        case = random_program(20_000 * seed + i, config)
        prediction = predict(case.program, config, program_address=case.base,
                             segments=case.segments, latency=12)
        labels = [instruction.name for instruction in case.program]
        table = breakdown(prediction, case.program, labels, config)
        assert sum(sum(row.values()) for row in table.values()) == prediction.cycles
        assert all(cause in CAUSES and cycles > 0
                   for row in table.values() for cause, cycles in row.items())


def test_every_instruction_has_a_span_in_the_order_of_its_unit(seed):
    case = random_program(30_000 * seed, EDGE)
    prediction = predict(case.program, EDGE, program_address=case.base, segments=case.segments,
                         latency=12)
    assert [span.index for span in prediction.spans] == list(range(len(case.program) - 1))
    last = {}
    for span in prediction.spans:
        unit = case.program[span.index].unit
        assert span.offered <= span.taken < span.retired < prediction.cycles
        assert span.taken >= last.get(unit, 0)
        last[unit] = span.taken


def test_slower_memory_never_helps():
    program = [Instruction("LOAD", segment=Segment.INPUT, length=4096), HALT]
    cycles = [run(program, latency=latency).cycles for latency in (2, 10, 50, 200)]
    assert cycles == sorted(cycles)
    assert cycles[0] < cycles[-1]


def test_tokens_that_never_come():
    with pytest.raises(DeadlockError, match="instruction 1 waits for tokens that never come"):
        run([Instruction("FILL"), Instruction("FILL", wait_store=1), HALT])
    with pytest.raises(DeadlockError, match="instruction 0 waits"):
        run([Instruction("FILL", wait_execute=1)] * 40 + [HALT])


def test_program_without_halt():
    with pytest.raises(ValueError, match="a program must hold HALT"):
        run([Instruction("FILL")])


def test_what_stands_behind_halt_is_only_fetched():
    short = run([Instruction("FILL"), HALT])
    long = run([Instruction("FILL"), HALT, *[Instruction("FILL")] * 4])
    assert long.cycles - short.cycles == pytest.approx(64, abs=8)
    assert len(long.spans) == 1
