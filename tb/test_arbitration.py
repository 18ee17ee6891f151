"""Several AXI4 masters at one port: each beat and answer to whom it belongs, and nobody starves."""

import itertools
import random
from typing import Any

import pytest
from amaranth.sim import Simulator
from ulpcore.interconnect.arbitration import ReadArbiter, WriteArbiter

BYTES = 8


def simulate(arbiter: Any, memory: Any, masters: list[Any]) -> None:
    """Until all masters have come to their ends."""
    simulator = Simulator(arbiter)
    simulator.add_clock(1e-6)
    simulator.add_testbench(memory, background=True)
    for master in masters:
        simulator.add_testbench(master)
    simulator.run()


async def send(ctx: Any, valid: Any, ready: Any) -> None:
    """Hold `valid` until it has been taken."""
    ctx.set(valid, 1)
    await ctx.tick().until(ready)
    ctx.set(valid, 0)


async def pause(ctx: Any, source: random.Random, most: int) -> None:
    for _ in range(source.randrange(most + 1)):
        await ctx.tick()


@pytest.mark.parametrize("masters", [1, 2, 5])
@pytest.mark.parametrize("stall", [0, 3])
def test_reads(masters: int, stall: int, seed: int) -> None:
    """A beat holds its burst's address and its number: the address names the master."""
    arbiter = ReadArbiter(masters=masters, data_bytes=BYTES)
    bus, bursts, rounds = arbiter.bus, [], 40

    def master(i: int) -> Any:
        port, source = getattr(arbiter, f"master_{i}"), random.Random(seed * 100 + i)

        async def testbench(ctx: Any) -> None:
            for number in range(rounds):
                length = source.randrange(4)
                await pause(ctx, source, stall)
                ctx.set(port.araddr, i << 16 | number << 8)
                ctx.set(port.arlen, length)
                await send(ctx, port.arvalid, port.arready)
                for beat in range(length + 1):
                    await pause(ctx, source, stall)
                    ctx.set(port.rready, 1)
                    data, last = await ctx.tick().sample(port.rdata, port.rlast).until(port.rvalid)
                    ctx.set(port.rready, 0)
                    assert (data, last) == (i << 16 | number << 8 | beat, beat == length)
        return testbench

    async def memory(ctx: Any) -> None:
        source, waiting = random.Random(seed), []
        beat = 0
        while True:
            ctx.set(bus.arready, source.random() < (0.5 if stall else 1))
            if waiting and (ctx.get(bus.rvalid) or source.random() < (0.5 if stall else 1)):
                address, length = waiting[0]
                ctx.set(bus.rvalid, 1)
                ctx.set(bus.rdata, address | beat)
                ctx.set(bus.rlast, beat == length)
            _, _, arrives, address, length, taken = await ctx.tick().sample(
                bus.arvalid & bus.arready, bus.araddr, bus.arlen, bus.rvalid & bus.rready)
            if taken:
                beat += 1
                ctx.set(bus.rvalid, 0)
                if beat > waiting[0][1]:
                    waiting.pop(0)
                    beat = 0
            if arrives:
                waiting.append((address, length))
                bursts.append(address >> 16)

    simulate(arbiter, memory, [master(i) for i in range(masters)])
    # Whoever asks is passed over by each other at most once.
    if not stall:
        middle = bursts[masters:masters * (rounds - 4)]
        for i in range(masters):
            places = [at for at, owner in enumerate(middle) if owner == i]
            assert max(b - a for a, b in itertools.pairwise(places)) <= 2 * masters


@pytest.mark.parametrize("masters", [1, 2, 5])
@pytest.mark.parametrize("stall", [0, 3])
def test_writes(masters: int, stall: int, seed: int) -> None:
    arbiter = WriteArbiter(masters=masters, data_bytes=BYTES)
    bus, rounds, written = arbiter.bus, 30, []

    def master(i: int) -> Any:
        port, source = getattr(arbiter, f"master_{i}"), random.Random(seed * 100 + i)

        async def testbench(ctx: Any) -> None:
            for number in range(rounds):
                length = source.randrange(4)
                await pause(ctx, source, stall)
                ctx.set(port.awaddr, i << 16 | number << 8)
                ctx.set(port.awlen, length)
                await send(ctx, port.awvalid, port.awready)
                for beat in range(length + 1):
                    await pause(ctx, source, stall)
                    ctx.set(port.wdata, i << 16 | number << 8 | beat)
                    ctx.set(port.wstrb, beat + 1)
                    ctx.set(port.wlast, beat == length)
                    await send(ctx, port.wvalid, port.wready)
                await pause(ctx, source, stall)
                ctx.set(port.bready, 1)
                response = (await ctx.tick().sample(port.bresp).until(port.bvalid))[0]
                ctx.set(port.bready, 0)
                assert response == (i + number) % 4
        return testbench

    async def memory(ctx: Any) -> None:
        source, waiting, answers, beat = random.Random(seed), [], [], 0
        while True:
            share = 0.5 if stall else 1
            ctx.set(bus.awready, source.random() < share)
            ctx.set(bus.wready, bool(waiting) and source.random() < share)
            if answers and (ctx.get(bus.bvalid) or source.random() < share):
                ctx.set(bus.bvalid, 1)
                ctx.set(bus.bresp, ((answers[0] >> 16) + (answers[0] >> 8 & 255)) % 4)
            _, _, arrives, address, length, comes, data, strobe, last, taken = (
                await ctx.tick().sample(
                    bus.awvalid & bus.awready, bus.awaddr, bus.awlen, bus.wvalid & bus.wready,
                    bus.wdata, bus.wstrb, bus.wlast, bus.bvalid & bus.bready))
            if taken:
                answers.pop(0)
                ctx.set(bus.bvalid, 0)
            if comes:
                assert data == waiting[0][0] | beat and strobe == beat + 1
                assert last == (beat == waiting[0][1])
                beat = 0 if last else beat + 1
                if last:
                    answers.append(waiting.pop(0)[0])
                    written.append(answers[-1])
            if arrives:
                waiting.append((address, length))

    simulate(arbiter, memory, [master(i) for i in range(masters)])
    for i in range(masters):
        numbers = [a >> 8 & 255 for a in written if a >> 16 == i]
        assert numbers == list(range(rounds))


@pytest.mark.parametrize("arbiter", [ReadArbiter, WriteArbiter])
def test_no_masters(arbiter: Any) -> None:
    with pytest.raises(ValueError, match="masters must be a positive integer, not 0"):
        arbiter(masters=0, data_bytes=BYTES)
