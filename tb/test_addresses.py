"""The address generators against the sums that define them."""

import gc

import numpy as np
import pytest
from amaranth.sim import Simulator
from ulpcore.addresses import AffineLoop, WindowWalker


def simulate(component, testbench) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def check(shown: int, expected: int, width: int) -> None:
    if expected >> width:
        assert shown >> width == 1, (shown, expected)
    else:
        assert shown == expected


def affine_cases(rng: np.random.Generator) -> list[tuple[int, list[int], list[int]]]:
    cases = [(5, [1, 1, 1], [1, 2, 3]), (0, [3, 1, 4], [16, 999, 1]), (7, [2, 3, 1], [0, 0, 0]),
             (0, [2, 2, 2], [1 << 19, 1 << 9, 1]), (1 << 19, [1, 2, 2], [0, 5, 9]),
             ((1 << 10) - 1, [2, 2, 1], [3, 1, 0]), (0, [1, 1, 20], [0, 0, 1 << 11])]
    for _ in range(60):
        top = int(rng.choice([8, 100, 1 << 12]))
        cases.append((int(rng.integers(0, 1000)), rng.integers(1, 6, 3).tolist(),
                      rng.integers(0, top, 3).tolist()))
    return cases


@pytest.mark.parametrize("width", [10, 20])
def test_affine_loop(width, rng):
    loop = AffineLoop(width=width)
    cases = affine_cases(rng)
    pauses = rng.random(10000) < 0.2

    async def testbench(ctx):
        turn = iter(pauses)

        async def describe(case):
            base, counts, strides = case
            ctx.set(loop.step, 0)
            ctx.set(loop.base, base)
            for i in range(3):
                ctx.set(loop.counts[i], counts[i])
                ctx.set(loop.strides[i], strides[i])
            await ctx.tick()

        await describe(cases[0])
        ctx.set(loop.start, 1)
        for number, (base, counts, strides) in enumerate(cases):
            await ctx.tick()
            ctx.set(loop.start, 0)
            expected = [base + int(np.dot(i, strides)) for i in np.ndindex(*counts)]
            for m, address in enumerate(expected):
                check(ctx.get(loop.address), address, width)
                assert ctx.get(loop.first) == (m == 0)
                assert ctx.get(loop.last) == (m == len(expected) - 1)
                # The next loops may be described while these run.
                if m == max(0, len(expected) - 2) and number + 1 < len(cases):
                    await describe(cases[number + 1])
                    check(ctx.get(loop.address), address, width)
                while next(turn):
                    ctx.set(loop.step, 0)
                    await ctx.tick()
                    check(ctx.get(loop.address), address, width)
                ctx.set(loop.step, 1)
                if m < len(expected) - 1:
                    await ctx.tick()
            ctx.set(loop.start, 1)

    simulate(loop, testbench)


@pytest.mark.parametrize("width", [10, 20])
def test_window_walker(width, rng):
    walker = WindowWalker(width=width)
    cases = [(1, 1, 20), (1, 9, 20), (5, 13, 40), (8, 8, 20), (100, 7, 20), (3, 0, 12),
             (600, 700, 1300), (4, 1 << 10, 12), (2, 1 << 19, 8)]
    cases += [(int(rng.integers(1, 20)), int(rng.integers(0, 200)), 60) for _ in range(20)]

    async def testbench(ctx):
        ctx.set(walker.step, 1)
        for length, pitch, steps in cases:
            ctx.set(walker.start, 1)
            await ctx.tick()
            ctx.set(walker.start, 0)
            ctx.set(walker.run_length, length)
            ctx.set(walker.run_pitch, pitch)
            for k in range(steps):
                check(ctx.get(walker.offset), k // length * pitch + k % length, width)
                await ctx.tick()

    simulate(walker, testbench)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("make, message", [
    (lambda: AffineLoop(width=0), "width must be a positive integer, not 0"),
    (lambda: AffineLoop(width=8, levels="3"), "levels must be a positive integer, not '3'"),
    (lambda: AffineLoop(width=21), "width must be at most stride_width, 20, not 21"),
    (lambda: WindowWalker(width=True), "width must be a positive integer, not True"),
    (lambda: WindowWalker(width=21), "width must be at most pitch_width, 20, not 21"),
])
def test_parameters_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    gc.collect()
