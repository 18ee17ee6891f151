"""Frames, and both ends of the link in Python, with every kind of damage on the way."""

import collections
import random
import zlib

import numpy as np
import pytest
from ulpsim.config import NANO
from ulpsim.driver import ModelBus
from ulpsim.link.client import BoardIdentity, LinkBus, LinkError
from ulpsim.link.device import LINK_IDENTIFIER, LinkDevice
from ulpsim.link.exercise import Tally, exercise
from ulpsim.link.frames import (
    ESCAPE,
    FLAG,
    Answer,
    FrameParser,
    LinkCause,
    Operation,
    Request,
    decode_answer,
    decode_request,
    encode,
)

MEMORY = 8192
IDENTITY = BoardIdentity(NANO.fingerprint, MEMORY, 48_000_000)


def frames(data: bytes, most_words: int = 258) -> list[bytes | None]:
    return list(FrameParser(most_words).feed(data))


def test_a_frame_is_what_the_definition_says():
    content = bytes([0, FLAG, ESCAPE, 0xFF])
    stuffed = b"".join(bytes([ESCAPE, b ^ 0x20]) if b in (FLAG, ESCAPE) else bytes([b])
                       for b in content + zlib.crc32(content).to_bytes(4, "little"))
    assert encode(content) == bytes([FLAG]) + stuffed + bytes([FLAG])
    assert frames(encode(content)) == [content]


@pytest.mark.parametrize("content", [b"", b"abc", b"abcde"])
def test_a_content_is_whole_words(content):
    with pytest.raises(ValueError, match="content must be whole words"):
        encode(content)


def test_requests_and_answers_come_back():
    request = Request(200, Operation.WRITE_MEMORY, 0xFFFFFFFC, 256, bytes(1024))
    assert decode_request(request.content()) == request
    answer = Answer(7, Operation.READ_REGISTER, LinkCause.OKAY, b"\x7e\x7d\x00\x01")
    assert decode_answer(answer.content()) == answer
    assert decode_answer(request.content()) is None
    assert decode_request(bytes(4)) is None


def test_nothing_between_flags_is_no_frame_and_too_much_is_damaged():
    assert frames(bytes([FLAG] * 5)) == []
    assert frames(encode(bytes(4 * 8)), most_words=8) == [bytes(32)]
    assert frames(encode(bytes(4 * 9)), most_words=8) == [None]
    assert frames(bytes([FLAG, ESCAPE, FLAG])) == [None]


def test_what_comes_before_the_first_flag_is_no_frame():
    assert frames(b"noise" + encode(b"word")) == [b"word"]


def test_damage_is_found_and_the_next_frame_too(seed):
    source = random.Random(seed)
    for _ in range(3000):
        content = source.randbytes(4 * source.randint(1, 12))
        damaged = bytearray(encode(content))
        place, kind = source.randrange(len(damaged)), source.randrange(4)
        if kind == 0:
            damaged[place] ^= source.randint(1, 255)
        elif kind == 1:
            del damaged[place]
        elif kind == 2:
            damaged.insert(place, damaged[place])
        else:
            damaged.insert(place, source.randrange(256))
        after = encode(b"next")
        found = frames(bytes(damaged) + after)
        assert found[-1] == b"next"
        assert set(found[:-1]) <= {None, content}


class CountingBus(ModelBus):
    """Counts the writes that are really done."""

    def __init__(self) -> None:
        super().__init__(NANO, MEMORY)
        self.writes = collections.Counter()

    def write_memory(self, address, data):
        self.writes[address] += 1
        super().write_memory(address, data)


class Loop:
    """A transport to a `LinkDevice`, which damages one of `one_of` bytes, or is unplugged."""

    def __init__(self, bus, one_of=0, seed=1, unplug_after=None):
        self.device = LinkDevice(bus, IDENTITY)
        self.source, self.one_of = random.Random(seed), one_of
        self.unplug_after, self.faults, self.coming = unplug_after, 0, b""

    def _pass(self, data):
        out = bytearray()
        for byte in data:
            if not self.one_of or self.source.randrange(self.one_of):
                out.append(byte)
                continue
            self.faults += 1
            out += bytes(([byte ^ self.source.randint(1, 255)], [], [byte, byte],
                          [self.source.randrange(256), byte])[self.source.randrange(4)])
        return bytes(out)

    def write(self, data):
        if self.unplug_after is not None:
            self.unplug_after -= len(data)
            if self.unplug_after < 0:
                raise LinkError("unplugged")
        self.coming += self._pass(self.device.receive(self._pass(data)))

    def read(self, timeout):
        size = self.source.randint(1, 40)
        data, self.coming = self.coming[:size], self.coming[size:]
        return data


def test_a_clean_link_repeats_nothing(seed):
    bus = LinkBus(Loop(ModelBus(NANO, MEMORY)))
    assert bus.identity == IDENTITY
    tally = Tally()
    exercise(bus, random.Random(seed), 300, MEMORY, tally, bytearray(MEMORY))
    assert (tally.accesses, tally.wrong, bus.repeated) == (300, 0, 0)


def test_many_faults_give_no_wrong_answer(seed):
    loop = Loop(ModelBus(NANO, MEMORY), one_of=150, seed=seed)
    bus = LinkBus(loop, timeout=0.0005)
    tally, shadow = Tally(), bytearray(MEMORY)
    while loop.faults < 3000:
        exercise(bus, loop.source, 20, MEMORY, tally, shadow)
    assert tally.wrong == 0
    assert bus.repeated > 100


def test_a_repeated_write_is_answered_and_not_done_twice():
    bus = CountingBus()
    device = LinkDevice(bus, IDENTITY)
    frame = encode(Request(9, Operation.WRITE_MEMORY, 64, 1, b"abcd").content())
    first = device.receive(frame)
    assert device.receive(frame) == device.receive(frame) == first
    assert bus.writes[64] == 1
    # Another number, or a link opened anew, is another write.
    device.receive(encode(Request(10, Operation.WRITE_MEMORY, 64, 1, b"abcd").content()))
    assert bus.writes[64] == 2
    device.receive(encode(Request(0, Operation.OPEN, 5).content()))
    device.receive(encode(Request(10, Operation.WRITE_MEMORY, 64, 1, b"abcd").content()))
    assert bus.writes[64] == 3


@pytest.mark.parametrize("request_, cause", [
    (Request(1, 77, 0), LinkCause.OPERATION),
    (Request(1, Operation.READ_MEMORY, 0, 2, b"abcd"), LinkCause.LENGTH),
    (Request(1, Operation.WRITE_MEMORY, 0, 2, b"abcd"), LinkCause.LENGTH),
    (Request(1, Operation.READ_REGISTER, 0, 2), LinkCause.LENGTH),
    (Request(1, Operation.READ_MEMORY, 2), LinkCause.ADDRESS),
    (Request(1, Operation.READ_MEMORY, 4092, 2), LinkCause.ADDRESS),
    (Request(1, Operation.READ_MEMORY, MEMORY), LinkCause.DECODE_ERROR),
    (Request(1, Operation.READ_REGISTER, 0xF0), LinkCause.SLAVE_ERROR),
    (Request(1, Operation.WRITE_REGISTER, 0, 1, b"abcd"), LinkCause.SLAVE_ERROR),
    (Request(1, Operation.READ_REGISTER, 0x100), LinkCause.SLAVE_ERROR)])
def test_bad_requests_are_answered_with_the_cause(request_, cause):
    device = LinkDevice(ModelBus(NANO, MEMORY), IDENTITY)
    (content,) = frames(device.receive(encode(request_.content())))
    assert decode_answer(content) == Answer(1, request_.operation & 0x7F, cause)


def test_an_access_that_is_refused_names_it():
    bus = LinkBus(Loop(ModelBus(NANO, MEMORY)))
    with pytest.raises(LinkError, match="answered read memory at 0x2000, 1 words, with "
                                        "DECODE_ERROR: its memory has 8192 bytes"):
        bus.read_memory(MEMORY, 4)


def test_no_board_and_another_language():
    class Silent:
        def write(self, data): ...
        def read(self, timeout):
            return b""

    with pytest.raises(LinkError, match=r"did not answer for 0.05 s: check that it is powered"):
        LinkBus(Silent(), timeout=0.01, patience=0.05)

    class Noise(Silent):
        def read(self, timeout):
            return np.random.default_rng(1).bytes(50)

    with pytest.raises(LinkError, match=r"did not answer"):
        LinkBus(Noise(), timeout=0.01, patience=0.05)


def test_another_version_of_the_link(monkeypatch):
    monkeypatch.setattr("ulpsim.link.client.LINK_IDENTIFIER", LINK_IDENTIFIER + 1)
    with pytest.raises(LinkError, match=r"must speak the link .*: build and flash"):
        LinkBus(Loop(ModelBus(NANO, MEMORY)))


def test_unplugged_in_the_middle():
    bus = LinkBus(Loop(ModelBus(NANO, MEMORY), unplug_after=3000))
    with pytest.raises(LinkError, match="unplugged"):
        bus.write_memory(0, bytes(4096))
