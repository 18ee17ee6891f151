"""Sender and receiver of packets against the golden functions."""

import functools
import random

import numpy as np
import pytest
from amaranth.hdl import Const
from network_bench import flits_of, rows_of
from ulpcore.interconnect.interface import NetworkFault, Receiver, SendCommand, Sender
from ulpcore.streams import StreamModel
from ulpsim.interconnect.packets import Flit, Header, NetworkCause, packetise, receive
from ulpsim.interconnect.topology import Address, Torus

TOPOLOGY, NODE, LARGEST = Torus(3, 2, terminals=2), Address(2, 1, 1), 200


@functools.cache
def sender_model() -> StreamModel:
    return StreamModel(Sender(topology=TOPOLOGY, address=NODE, largest=LARGEST))


@functools.cache
def receiver_model() -> StreamModel:
    return StreamModel(Receiver(largest=LARGEST))


def words(data: bytes) -> np.ndarray:
    return np.frombuffer(data + bytes(-len(data) % 8), "<u4").reshape(-1, 2)


def fault(row: np.ndarray) -> tuple[NetworkCause, Address, int]:
    bits = sum(int(word) << 32 * i for i, word in enumerate(row))
    value = NetworkFault.from_bits(bits)
    return (NetworkCause(value.cause), Address(value.node.x, value.node.y, value.node.terminal),
            value.tag)


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_sender(stall, seed):
    rng = random.Random(seed)
    commands, payload, expected, refused = [], [], [], []
    for tag in range(300):
        destination = rng.choice(TOPOLOGY.nodes)
        size = rng.choice([0, 1, 7, 8, 9, rng.randrange(LARGEST + 1), LARGEST])
        multicast = rng.random() < 0.2
        data = rng.randbytes(size)
        cause = NetworkCause.NONE
        kind = rng.random()
        if kind < 0.05:
            destination = Address(3, 0, 0) if kind < 0.03 else Address(0, 1, 2)
            cause = NetworkCause.NONE if multicast else NetworkCause.DESTINATION
        elif kind < 0.1:
            data = rng.randbytes(LARGEST + 1 + rng.randrange(50))
            cause = NetworkCause.LENGTH
        if multicast and len(data) > 13 * 8:
            cause = NetworkCause.LENGTH
        commands.append(Const({
            "destination": {"x": destination.x, "y": destination.y,
                            "terminal": destination.terminal},
            "bytes": len(data), "multicast": multicast, "tag": tag},
            SendCommand.as_shape()).as_value().value)
        # What lies beyond the last byte is not sent.
        payload.append(words(data + rng.randbytes(-len(data) % 8)))
        if cause == NetworkCause.NONE:
            expected += packetise(Header(Address(0) if multicast else destination, NODE, len(data),
                                         multicast, tag), data)
        else:
            refused.append((cause, NODE, tag))
    run = sender_model().run(
        {"commands": np.array([[c & 0xFFFFFFFF, c >> 32] for c in commands], np.uint32),
         "payload": np.concatenate(payload)},
        stalls=dict.fromkeys(("commands", "payload", "flits", "refused"), stall), seed=seed)
    assert flits_of(run.outputs["flits"]) == expected
    assert [fault(row) for row in run.outputs["refused"]] == refused
    if not stall:
        # No pause within a packet or between packets, but for those that are refused.
        times = run.times["flits"]
        assert int(times[-1] - times[0]) + 1 - len(times) <= sum(
            2 + len(p) for p in payload) - len(expected) + 2 * len(commands)


def damage(flits: list[Flit], rng: random.Random) -> list[Flit]:
    """A packet with something wrong, whose end can still be seen."""
    flits = list(flits)
    kind = rng.randrange(4)
    if kind == 0:                                # a bit, of anything but the length
        i = rng.randrange(len(flits))
        bit = rng.choice([*range(32), *range(48, 64)]) if i == 0 else rng.randrange(
            32 if i == len(flits) - 1 else 64)
        flits[i] = Flit(flits[i].data ^ 1 << bit, flits[i].first, flits[i].last)
    elif kind == 1 and len(flits) > 2:           # one flit too few
        del flits[rng.randrange(1, len(flits) - 1)]
    elif kind == 2:                              # some too many
        flits[1:1] = [Flit(rng.getrandbits(64), False, False)] * rng.choice([1, 2, 100])
    else:
        flits = [Flit(flits[0].data, True, True)]
    return flits


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_receiver(stall, seed):
    rng = random.Random(seed)
    flits, headers, payload, faults = [], [], [], []
    for tag in range(400):
        size = rng.choice([0, 1, 8, rng.randrange(LARGEST + 1), LARGEST, LARGEST + 1, 5000])
        header = Header(NODE, rng.choice(TOPOLOGY.nodes), size, rng.random() < 0.5, tag)
        packet = packetise(header, rng.randbytes(size))
        if rng.random() < 0.3:
            packet = damage(packet, rng)
        if rng.random() < 0.1:                   # the rest of a packet whose beginning was lost
            flits += [Flit(rng.getrandbits(64), False, last) for last in (False, False, True)]
        cause, told, data = receive(packet, largest=LARGEST)
        flits += packet
        if cause == NetworkCause.NONE:
            headers.append(told)
            payload.append(words(data))
        else:
            faults.append((cause, told.source, told.tag))
    assert {cause for cause, *_ in faults} == {NetworkCause.LENGTH, NetworkCause.CRC}
    run = receiver_model().run(
        {"flits": rows_of(flits)},
        stalls=dict.fromkeys(("flits", "packets", "payload", "faults"), stall), seed=seed)
    assert [Header.decode(int(low) | int(high) << 32)
            for low, high in run.outputs["packets"]] == headers
    assert (run.outputs["payload"] == np.concatenate(payload)).all()
    assert [fault(row) for row in run.outputs["faults"]] == faults
    assert len(run.times["flits"]) == len(flits)


def test_bad_parameters():
    with pytest.raises(ValueError, match="address must be a terminal of the topology"):
        Sender(topology=TOPOLOGY, address=Address(3, 0, 0))
    with pytest.raises(ValueError, match="largest must be from 1 to 65535 bytes, not 0"):
        Receiver(largest=0)
