"""What is proven of the address generators and of the check of a region's end."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, Value
from proof import inside, prove
from ulpcore.addresses import AffineLoop, WindowWalker, saturate
from ulpcore.extent import Extent


def least(total: Value, width: int) -> Value:
    """The smaller one of a sum and 2**width: of numbers that only grow, all that counts."""
    return Mux(total >= 1 << width, 1 << width, total)


def shows(shown: Value, exact: Signal, width: int) -> Value:
    """A number with the top bit for "beyond" stands for an exact one, kept as `least`."""
    return Mux(exact == 1 << width, shown[width], shown == exact)


def of_the_loop_that_goes_on(over: list[Value], values: list[Value]) -> Value:
    return Mux(~over[2], values[2], Mux(~over[1], values[1], values[0]))


@pytest.mark.parametrize("width", [10, 20])
def test_nested_loops_show_the_exact_address_or_that_it_is_out_of_bounds(width):
    """Against loops that count upwards and add, in any order of start, step and pauses."""
    m = Module()
    loop = AffineLoop(width=width)
    m.submodules.loop, within = inside(loop)
    started = Signal()
    described = Signal()
    m.d.sync += described.eq(1)
    before = [Signal(loop.count_width, name=f"before_{i}") for i in range(3)]
    stride_before = [Signal(loop.stride_width, name=f"stride_before_{i}") for i in range(3)]
    for i in range(3):
        m.d.sync += [before[i].eq(loop.counts[i]), stride_before[i].eq(loop.strides[i])]
        m.d.comb += [Assume(loop.counts[i] != 0),
                     Assume(~loop.start | (described & (loop.counts[i] == before[i])
                                           & (loop.strides[i] == stride_before[i]))),
                     Assert(~described | (within[f"coming_single_{i}"] == (before[i] == 1)))]
    single = [Cat(count == 1 for count in before[i:]).all() for i in range(3)]
    m.d.comb += Assert(~described | (within["first_stride"] == of_the_loop_that_goes_on(
        single, [saturate(s, width) for s in stride_before])))
    count = [Signal(loop.count_width, name=f"n_{i}") for i in range(3)]
    place = [Signal(loop.count_width, name=f"i_{i}") for i in range(3)]
    stride = [Signal(width + 1, name=f"exact_stride_{i}") for i in range(3)]
    origin = [Signal(width + 1, name=f"exact_{i}") for i in range(3)]
    ends = [place[i] == count[i] - 1 for i in range(3)]
    over = [Cat(*ends[i:]).all() for i in range(3)]
    m.d.comb += Assume(~(loop.step & over[0]) | loop.start)
    with m.If(loop.start):
        m.d.sync += started.eq(1)
        for i in range(3):
            m.d.sync += [count[i].eq(loop.counts[i]), place[i].eq(0),
                         stride[i].eq(least(loop.strides[i], width)),
                         origin[i].eq(least(loop.base, width))]
    with m.Elif(loop.step):
        # The innermost loop that is not at its end goes on; those within begin from there.
        for i in range(3):
            goes_on = ~ends[i] if i == 2 else ~ends[i] & over[i + 1]
            with m.If(goes_on):
                m.d.sync += place[i].eq(place[i] + 1)
                for j in range(i, 3):
                    m.d.sync += origin[j].eq(least(origin[i] + stride[i], width))
                for j in range(i + 1, 3):
                    m.d.sync += place[j].eq(0)
    foretold = Signal()
    m.d.sync += foretold.eq(loop.coming_last)
    with m.If(started):
        m.d.comb += [
            Assert(shows(loop.address, origin[2], width)),
            Assert(loop.last == over[0]),
            Assert(loop.last == foretold),
            Assert(loop.first == ~Cat(*place).any()),
        ]
        # What holds the proof together.
        for i in range(3):
            m.d.comb += [
                Assert(place[i] < count[i]), Assert(within[f"count_{i}"] == count[i]),
                Assert(within[f"left_{i}"] == (count[i] - place[i])[:loop.count_width]),
                Assert(within[f"last_{i}"] == ends[i]), Assert(within[f"end_{i}"] == over[i]),
                Assert(within[f"single_{i}"] == (count[i] == 1)),
                Assert(shows(within[f"stride_{i}"], stride[i], width)),
                Assert(origin[i] <= 1 << width), Assert(stride[i] <= 1 << width),
            ]
            m.d.comb += Assert(shows(within[f"start_{i}"], origin[i], width))
        starts, strides = ([within[f"{name}_{i}"] for i in range(3)]
                           for name in ("start", "stride"))
        m.d.comb += [
            Assert(within["next_stride"] == of_the_loop_that_goes_on(over, strides)),
            Assert(over[0] | (of_the_loop_that_goes_on(over, starts) == Mux(
                within["from_outer"], within["outer_start"], loop.address))),
        ]
    m.d.comb += Assume(started | ~loop.step | loop.start)
    prove(m, [loop.start, loop.step, loop.base, Value.cast(loop.counts), Value.cast(loop.strides)])


@pytest.mark.parametrize("width", [10, 20])
def test_windows_show_the_exact_offset_or_that_it_is_out_of_bounds(width):
    m = Module()
    walker = WindowWalker(width=width)
    m.submodules.walker, within = inside(walker)
    started, fresh = Signal(), Signal()
    length, pitch = Signal.like(walker.run_length), Signal.like(walker.run_pitch)
    place = Signal(walker.length_width)
    run, offset = Signal(width + 1), Signal(width + 1)
    m.d.sync += [fresh.eq(walker.start), length.eq(walker.run_length), pitch.eq(walker.run_pitch)]
    m.d.comb += [
        Assume(walker.run_length != 0),
        Assume(fresh | walker.start | (Cat(length, pitch)
                                       == Cat(walker.run_length, walker.run_pitch))),
    ]
    with m.If(walker.start):
        m.d.sync += [started.eq(1), place.eq(0), run.eq(0), offset.eq(0)]
    with m.Elif(walker.step):
        with m.If(place == walker.run_length - 1):
            following = least(run + walker.run_pitch, width)
            m.d.sync += [place.eq(0), run.eq(following), offset.eq(following)]
        with m.Else():
            m.d.sync += [place.eq(place + 1), offset.eq(least(offset + 1, width))]
    with m.If(started):
        m.d.comb += [
            Assert(shows(walker.offset, offset, width)), Assert(shows(within["run"], run, width)),
            Assert(within["passed"] == (place + 1)[:len(place)]),
            Assert(offset <= 1 << width), Assert(run <= 1 << width),
            Assert(Mux(fresh, place == 0, place < length)),
        ]
    prove(m, [walker.start, walker.step, walker.run_length, walker.run_pitch])


@pytest.mark.parametrize("width", [20, 32])
def test_ends_of_regions_never_wrap(width):
    """The serial sum against the same steps in numbers as wide as they can become."""
    m = Module()
    extent = Extent(width=width)
    m.submodules.extent, within = inside(extent)
    exact = Signal(width + Extent.ROWS_WIDTH + 2, reset_less=True)
    active, step = within["active"], within["step"]
    bit = within["multiplier"][-1]
    with m.If(extent.start):
        m.d.sync += exact.eq(0)
    with m.Elif(active):
        with m.If(step < Extent.ROWS_WIDTH):
            m.d.sync += exact.eq((exact << 1) + Mux(bit, extent.pitch, 0))
        with m.Elif(step == Extent.ROWS_WIDTH):
            m.d.sync += exact.eq(exact + extent.first)
        with m.Else():
            m.d.sync += exact.eq(exact + extent.length)
    beyond = exact >= 1 << width
    top = (1 << width) - 1
    m.d.comb += [Assert(extent.end[width] == beyond),
                 Assert(beyond | (extent.end == exact)),
                 Assert(~active | (step <= Extent.ROWS_WIDTH + 1))]
    # So many bits suffice: after n steps the sum is at most (2**n - 1) times the largest pitch.
    most = [((1 << min(n, Extent.ROWS_WIDTH)) - 1 + max(0, n - Extent.ROWS_WIDTH)) * top
            for n in range(Extent.ROWS_WIDTH + 3)]
    for n, limit in enumerate(most[:-1]):
        m.d.comb += Assert(~active | (step != n) | (exact <= limit))
    m.d.comb += Assert(exact <= most[-1])
    prove(m, [extent.start, extent.rows, extent.pitch, extent.first, extent.length])


def test_a_wrong_claim_is_refuted():
    """An address may leave its bounds, and a proof that says otherwise must fail."""
    m = Module()
    loop = AffineLoop(width=10)
    m.submodules.loop = loop
    m.d.comb += Assert(~loop.address[10])
    with pytest.raises(AssertionError, match="an assertion fails"):
        prove(m, [loop.start, loop.step, loop.base, Value.cast(loop.counts),
                  Value.cast(loop.strides)])
