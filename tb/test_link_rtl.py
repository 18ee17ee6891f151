"""The board's end of the link in RTL, from line to line, against its twin."""

import random

import numpy as np
import pytest
from ulpcore.link.coreless import Coreless
from ulpcore.link.memory import OnChipMemory
from ulpcore.link.system import SystemConfig
from ulpcore.link.uart import UartReceiver
from ulpcore.simulation import run_vectors
from ulpsim.config import EDGE, NANO, RAPID
from ulpsim.driver import ModelBus
from ulpsim.link.device import LinkDevice
from ulpsim.link.frames import (
    MOST_WORDS,
    FrameParser,
    LinkCause,
    Operation,
    Request,
    decode_answer,
    encode,
)
from ulpsim.registers import BY_NAME

MEMORY = 8192


def config(divisor: int) -> SystemConfig:
    return SystemConfig(core=NANO, memory_bytes=MEMORY, clock_hz=1_000_000 * divisor,
                        baud=1_000_000)


def to_line(data: bytes, divisor: int) -> np.ndarray:
    """Levels of the line, a cycle each."""
    bits = [bit for byte in data for bit in (0, *(byte >> i & 1 for i in range(8)), 1)]
    return np.repeat(np.array(bits, np.uint8), divisor)


def from_line(levels: np.ndarray, divisor: int) -> bytes:
    data, place = bytearray(), 0
    while place < len(levels):
        if levels[place]:
            place += 1
            continue
        samples = levels[place + divisor // 2 + divisor * np.arange(10)]
        assert samples[0] == 0 and samples[9] == 1
        data.append(int(sum(int(bit) << i for i, bit in enumerate(samples[1:9]))))
        place += 9 * divisor + divisor // 2
    return bytes(data)


def requests(source: random.Random, count: int):
    """Frames, one after the other; a good part of them wrong in some way."""
    yield bytes([0x55, 0xAA])
    # Memory holds zeros in both from here on.
    for address in range(0, MEMORY, 4 * MOST_WORDS):
        yield encode(Request(address >> 10, Operation.WRITE_MEMORY, address, MOST_WORDS,
                             bytes(4 * MOST_WORDS)).content())
    names = [name for name in BY_NAME if name != "CONTROL"]
    frame = b""
    for number in range(count):
        operation = source.choice([*Operation, *Operation, 5, 0x7F])
        words = source.choice((1, 2, 5, 17, MOST_WORDS))
        address = source.choice((4 * source.randrange(MEMORY // 4), MEMORY - 8, 4096 - 4 * words,
                                 MEMORY, 0xFFFFF000, 3))
        if operation in (Operation.READ_REGISTER, Operation.WRITE_REGISTER):
            address = source.choice((BY_NAME[source.choice(names)].offset, 0xF4, 0x100, 1))
            words = source.choice((1, 1, 1, 2))
        writes = operation in (Operation.WRITE_MEMORY, Operation.WRITE_REGISTER)
        data = source.randbytes(4 * words) if writes else b""
        if not source.randrange(10):
            data += bytes(4)
        if source.randrange(6):
            frame = encode(Request(number % 256, operation, address, words, data).content())
        # Otherwise the last frame again.
        damaged = bytearray(frame)
        if not source.randrange(5):
            damaged[source.randrange(1, len(damaged) - 1)] ^= 1 << source.randrange(8)
        yield bytes(damaged)


@pytest.mark.parametrize("divisor", [4, 7])
def test_link_against_its_twin(divisor, seed):
    system = config(divisor)
    device = LinkDevice(ModelBus(NANO, MEMORY), system)
    line, expected = [np.ones(50, np.uint8)], b""
    for frame in requests(random.Random(seed), 120):
        # A frame that falls apart is several; the board is deaf while it answers the first.
        for piece in frame.split(b"\x7e")[1:-1] if frame[0] == 0x7E else [frame]:
            data = frame if frame[0] != 0x7E else b"\x7e" + piece + b"\x7e"
            answer = device.receive(data)
            pause = 10 * divisor * (len(answer) + 2) + 3 * MOST_WORDS + 100
            expected += answer
            line += [to_line(data, divisor), np.ones(pause, np.uint8)]
    outputs = run_vectors(Coreless(config=system), {"receive": np.concatenate(line)})
    found = from_line(outputs["transmit"].astype(np.uint8), divisor)
    assert found == expected
    answers = [decode_answer(content) for content in FrameParser(258).feed(found)]
    assert {answer.cause for answer in answers} == set(LinkCause)
    assert any(len(answer.data) == 4 * MOST_WORDS for answer in answers)


@pytest.mark.parametrize("divisor", [4, 5, 16, 104])
@pytest.mark.parametrize("drift", [-0.03, 0.0, 0.03])
def test_uart_takes_bytes_of_a_clock_that_is_off(divisor, drift, rng):
    if divisor < 16 and drift:
        pytest.skip("with so few cycles a bit the clocks must agree")
    data = bytes(rng.integers(0, 256, 300, np.uint8))
    cycles = int(len(data) * 10 * divisor * (1 + drift)) + 20 * divisor
    ideal = np.concatenate([to_line(data, 64), np.ones(64 * 40, np.uint8)])
    places = (np.arange(cycles) / (divisor * (1 + drift)) * 64).astype(int)
    line = np.concatenate([np.ones(30, np.uint8), ideal[np.minimum(places, len(ideal) - 1)]])
    outputs = run_vectors(UartReceiver(divisor=divisor), {"line": line}, flush=40)
    assert bytes(outputs["byte"][outputs["valid"] == 1].astype(np.uint8)) == data


@pytest.mark.parametrize("low", [1, 80, 1000])
def test_a_line_that_is_held_low_sends_nothing(low):
    """After reset, and after a byte without its stop bit."""
    unfinished = to_line(b"a", 8)[:-8]
    outputs = run_vectors(UartReceiver(divisor=8), {"line": np.concatenate(
        [np.zeros(low, np.uint8), np.ones(20, np.uint8), to_line(b"b", 8), unfinished,
         np.zeros(low + 7, np.uint8), np.ones(20, np.uint8), to_line(b"c", 8),
         np.ones(30, np.uint8)])})
    assert bytes(outputs["byte"][outputs["valid"] == 1].astype(np.uint8)) == b"bc"


def test_bad_parameters():
    with pytest.raises(ValueError, match=r"divisor must be an integer .* at least 4, not 3"):
        UartReceiver(divisor=3)
    with pytest.raises(ValueError, match="size must be a multiple of 4096 bytes, not 5000"):
        OnChipMemory(masters=1, size=5000)
    with pytest.raises(ValueError, match="must have a bus of 4 bytes, not 64 as 'rapid'"):
        SystemConfig(core=RAPID, memory_bytes=4096, clock_hz=1_000_000, baud=115200)
    with pytest.raises(ValueError, match="baud must be from 1 to a quarter of the clock"):
        SystemConfig(core=EDGE, memory_bytes=4096, clock_hz=1_000_000, baud=500_000)
    with pytest.raises(ValueError, match="baud must be within 2 % of the clock"):
        SystemConfig(core=EDGE, memory_bytes=4096, clock_hz=12_000_000, baud=2_700_000)
