"""Messages on links: closed forms, the two simulators against each other, any connected graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ulpsim.explorer import closed_forms, events, rounds
from ulpsim.explorer.collectives import (
    ALL_GATHERS,
    ALL_REDUCES,
    BROADCASTS,
    SPARSE_REDUCES,
    all_gather,
    all_reduce,
    broadcast,
    sparse_reduce,
)
from ulpsim.explorer.graph import from_links
from ulpsim.explorer.schedule import Phase, Schedule
from ulpsim.explorer.topologies import TOPOLOGIES, build, fits

#: Powers of two, in which all sums are exact.
BANDWIDTH, LATENCY = 2.0 ** 30, 2.0 ** -20


def collectives(graph, rng):
    """One of each, of sizes that differ where they may."""
    n = graph.accelerators
    sizes = rng.integers(500, 3000, n)
    return [*(all_reduce(name, graph, 6e3) for name in ALL_REDUCES),
            *(all_gather(name, graph, sizes) for name in ALL_GATHERS),
            *(all_gather(name, graph, np.full(n, 2e3)) for name in ALL_GATHERS),
            *(broadcast(name, graph, 4e3) for name in BROADCASTS),
            *(sparse_reduce(name, graph, 1e3 * np.sqrt(np.arange(1, n + 1)))
              for name in SPARSE_REDUCES)]


# --- closed forms

@pytest.mark.parametrize("simulate", [events.simulate, rounds.simulate])
@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_closed_forms_exactly(n, simulate):
    size = 2.0 ** 22
    link = BANDWIDTH, LATENCY
    ring, both = (build(name, n, *link) for name in ("ring", "bidirectional-ring"))
    assert simulate(ring, all_reduce("ring", ring, size)).seconds == \
        closed_forms.all_reduce_on_ring(n, size, *link)
    assert simulate(ring, all_gather("ring", ring, [size] * n)).seconds == \
        closed_forms.all_gather_on_ring(n, size, *link)
    ways = 2 if n > 2 else 1
    assert simulate(both, all_reduce("ring", both, size)).seconds == \
        closed_forms.all_reduce_on_ring(n, size, *link, ways)
    assert simulate(both, all_gather("ring", both, [size] * n)).seconds == \
        closed_forms.all_gather_on_ring(n, size, *link, ways)
    cube = build("hypercube", n, *link)
    assert simulate(cube, all_reduce("halving", cube, size)).seconds == \
        closed_forms.all_reduce_by_halving_on_hypercube(n, size, *link)
    full = build("fully-connected", n, *link)
    assert simulate(full, all_reduce("direct", full, size)).seconds == \
        closed_forms.direct_all_reduce(n, size, *link)


@pytest.mark.parametrize(("name", "n", "sides"), [("torus", 16, (4, 4)), ("torus", 64, (8, 8)),
                                                  ("torus3", 64, (4, 4, 4))])
def test_closed_form_of_a_torus(name, n, sides):
    graph = build(name, n, BANDWIDTH, LATENCY)
    found = rounds.simulate(graph, all_reduce("grid", graph, 3 * 2.0 ** 22))
    assert found.overtaken == 0
    assert found.seconds == pytest.approx(closed_forms.all_reduce_on_grid(
        sides, 3 * 2.0 ** 22, BANDWIDTH, LATENCY, 2 * len(sides)), rel=1e-14)


@pytest.mark.parametrize("n", [3, 100, 1024, 4096])
def test_closed_form_of_large_rings(n):
    graph = build("ring", n, 4e9, 1e-7)
    assert rounds.simulate(graph, all_reduce("ring", graph, 1e8)).seconds == pytest.approx(
        closed_forms.all_reduce_on_ring(n, 1e8, 4e9, 1e-7), rel=1e-11)


def test_one_message_over_several_links():
    """Its head is a latency later at each link, its tail a transmission behind."""
    graph = build("bidirectional-ring", 8, 1e9, 1e-6)
    one = np.array([0])
    schedule = Schedule("one", 8, 1, lambda: [[Phase(one, one + 3, one, one + 3,
                                                    np.array([5000.0]))]], 1)
    for simulate in (events.simulate, rounds.simulate):
        assert simulate(graph, schedule).ready[3] == pytest.approx(5e-6 + 3e-6)


def test_two_messages_share_a_link():
    graph = build("ring", 4, 1e9, 1e-6)
    source, target = np.array([0, 1]), np.array([2, 2])
    schedule = Schedule("two", 4, 1, lambda: [[Phase(source, target, source, target,
                                                    np.array([4000.0, 7000.0]))]], 2)
    for simulate in (events.simulate, rounds.simulate):
        # That of 1 has the link first: the other one's head has to pass a link before.
        assert simulate(graph, schedule).ready[2] == pytest.approx(7e-6 + 4e-6 + 1e-6)


# --- the two simulators

@pytest.mark.parametrize("name", TOPOLOGIES)
def test_rounds_equal_events(name, rng):
    for n in (1, 2, 6, 8, 16):
        if not fits(name, n):
            continue
        graph = build(name, n, 1e9, 1e-6)
        for schedule in collectives(graph, rng):
            for start in (0.0, rng.random(n) * 1e-5):
                expected = events.simulate(graph, schedule, start)
                every = rounds.in_order(graph, schedule, start, repeats=False)
                found = rounds.in_order(graph, schedule, start)
                assert expected.messages == every.messages == found.messages == schedule.count
                assert np.allclose(found.ready, every.ready, rtol=1e-11, atol=0)
                assert np.allclose(expected.link_bytes, every.link_bytes)
                assert np.allclose(expected.received, found.received)
                assert expected.passes == found.passes
                if not every.overtaken:
                    assert np.array_equal(expected.ready, every.ready)
                    assert np.array_equal(expected.free, every.free)
                else:
                    ready = rounds.simulate(graph, schedule, start)
                    assert np.array_equal(expected.ready, ready.ready)


def test_parts_in_the_order_in_which_they_are_ready():
    """On a torus of unequal sides a stream is in a long dimension when others are in short ones."""
    graph = build("torus3", 32, 1e9, 1e-6)
    schedule = all_reduce("grid", graph, 1e6)
    assert rounds.in_order(graph, schedule).overtaken > 0
    found = rounds.as_ready(graph, schedule)
    assert found.overtaken == 0
    assert np.array_equal(found.ready, events.simulate(graph, schedule).ready)


def test_collectives_follow_each_other_on_busy_links():
    graph = build("torus", 16, 1e9, 1e-6)
    first = all_reduce("grid", graph, 1e6)
    after = all_gather("halving", graph, np.arange(16) * 1e3)
    for simulate in (events.simulate, lambda *a: rounds.in_order(*a, repeats=False)):
        one = simulate(graph, first)
        two = simulate(graph, after, one.ready / 2, one.free)
        assert two.seconds > simulate(graph, after, one.ready / 2).seconds


# --- volumes

@pytest.mark.parametrize("n", [2, 5, 8, 16])
@pytest.mark.parametrize("name", ["ring", "grid", "halving", "direct"])
def test_everyone_sends_and_receives_what_an_all_reduce_needs(name, n):
    graph = build("bidirectional-ring", n, 1e9, 1e-6)
    found = events.simulate(graph, all_reduce(name, graph, 8e4))
    if name == "halving" and n & (n - 1):
        assert found.received.sum() == pytest.approx(found.sent.sum())
    else:
        assert np.allclose(found.received, 2 * 8e4 * (n - 1) / n)
        assert np.allclose(found.sent, 2 * 8e4 * (n - 1) / n)


@pytest.mark.parametrize("topology", ["bidirectional-ring", "torus", "mesh"])
@pytest.mark.parametrize("name", ["ring", "grid", "direct"])
def test_everyone_receives_all_blocks_of_others(name, topology, rng):
    graph = build(topology, 12, 1e9, 1e-6)
    sizes = rng.integers(0, 9000, 12).astype(float)
    found = events.simulate(graph, all_gather(name, graph, sizes))
    assert np.allclose(found.received, sizes.sum() - sizes)


@pytest.mark.parametrize("name", BROADCASTS)
def test_everyone_receives_what_is_broadcast(name):
    graph = build("mesh", 12, 1e9, 1e-6)
    found = events.simulate(graph, broadcast(name, graph, 6e3))
    expected = np.full(12, 6e3)
    # The first of the order has it; a tree's root is another one.
    assert sorted(found.received)[1:] == pytest.approx(sorted(expected)[1:])
    assert found.received.min() == 0


# --- any connected graph

@st.composite
def graphs(draw):
    """A random tree of accelerators and switches, links beyond it, speeds that differ."""
    n = draw(st.integers(1, 9))
    vertices = n + draw(st.integers(0, 4))
    pairs = {(draw(st.integers(0, end - 1)), end) for end in range(1, vertices)}
    extra = draw(st.lists(st.tuples(st.integers(0, vertices - 1), st.integers(0, vertices - 1)),
                          max_size=8))
    pairs |= {(min(pair), max(pair)) for pair in extra if pair[0] != pair[1]}
    ends = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    speeds = draw(st.lists(st.sampled_from([1e8, 5e8, 1e9]), min_size=2 * len(ends),
                           max_size=2 * len(ends)))
    times = draw(st.lists(st.sampled_from([1e-8, 1e-6, 3e-6]), min_size=2 * len(ends),
                          max_size=2 * len(ends)))
    source, target = np.concatenate([ends, ends[:, ::-1]]).T
    return from_links("random", n, vertices, source, target, np.array(speeds, float),
                      np.array(times, float))


@settings(deadline=None, max_examples=12, derandomize=True)
@given(graph=graphs(), number=st.integers(0, 2 ** 32 - 1))
def test_every_collective_ends_on_any_connected_graph(graph, number):
    """All messages arrive once (`Result.check`), and both simulators agree on bytes."""
    for schedule in collectives(graph, np.random.default_rng(number)):
        expected = events.simulate(graph, schedule)
        found = rounds.in_order(graph, schedule)
        assert expected.messages == schedule.count
        assert np.isfinite(found.seconds)
        assert np.allclose(expected.link_bytes, found.link_bytes)
        if not found.overtaken:
            assert np.allclose(expected.ready, found.ready, rtol=1e-11, atol=0)


# --- mistakes

def test_mistakes_are_named():
    graph = build("ring", 4, 1e9, 1e-6)
    with pytest.raises(ValueError, match=r"all-reduce must be one of ring, .*not 'fast'"):
        all_reduce("fast", graph, 1)
    with pytest.raises(ValueError, match="sizes must be 4 numbers"):
        all_gather("ring", graph, [1, 2])
    with pytest.raises(ValueError, match="broadcast must be one of"):
        broadcast("grid", graph, 1)


def test_a_lost_byte_is_noticed():
    graph = build("ring", 4, 1e9, 1e-6)
    found = events.simulate(graph, all_reduce("ring", graph, 1e4))
    found.received[0] -= 1
    with pytest.raises(AssertionError, match="bytes were sent"):
        found.check()
