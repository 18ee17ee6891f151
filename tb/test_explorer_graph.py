"""Interconnects as graphs: routes, rings, and what is refused."""

import json

import numpy as np
import pytest
from ulpsim.explorer.graph import GraphError, from_links, load_graph
from ulpsim.explorer.topologies import TOPOLOGIES, build, fits, nearest

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 36, 64, 128, 210, 1024)


def distances(graph):
    """Links from each vertex to each accelerator, by walking through the graph in width."""
    vertices = graph.vertices
    found = np.full((vertices, graph.accelerators), -1)
    into = [[] for _ in range(vertices)]
    for start, end in zip(graph.source.tolist(), graph.target.tolist(), strict=True):
        into[end].append(start)
    for goal in range(graph.accelerators):
        found[goal, goal] = 0
        level = [goal]
        while level:
            level = [start for at in level for start in into[at]
                     if found[start, goal] < 0
                     and not found.__setitem__((start, goal), found[at, goal] + 1)]
    return found


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("n", SIZES)
def test_routes_lead_to_their_targets(name, n, rng):
    if not fits(name, n) or (name == "fully-connected" and n > 210):
        pytest.skip("has no such size")
    graph = build(name, n, 1e9, 1e-7)
    source, target = rng.integers(n, size=(2, 400))
    routes = graph.route(source, target)
    at = source.copy()
    for links in routes.T:
        moves = links >= 0
        assert np.array_equal(graph.source[links[moves]], at[moves])
        at[moves] = graph.target[links[moves]]
    assert np.array_equal(at, target)
    assert sorted(graph.order.tolist()) == list(range(n))
    assert int(np.prod(graph.grid)) == n


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("n", [4, 16, 64])
def test_routes_are_shortest(name, n):
    graph = build(name, n, 1e9, 1e-7)
    source, target = (axis.ravel() for axis in np.indices((n, n)))
    length = np.count_nonzero(graph.route(source, target) >= 0, axis=1)
    expected = distances(graph)[source, target]
    if name == "dragonfly":
        # Minimal by its rule, one link between groups; over a third group it may be shorter.
        assert np.all(length >= expected) and length.max() <= 5
    else:
        assert np.array_equal(length, expected)


@pytest.mark.parametrize(("name", "n"), [
    ("torus", 16), ("torus", 36), ("torus", 32), ("mesh", 64), ("torus3", 64), ("torus3", 36),
    ("hypercube", 32), ("ring", 7), ("bidirectional-ring", 9)])
def test_ring_through_grid_goes_from_neighbour_to_neighbour(name, n):
    graph = build(name, n, 1e9, 1e-7)
    routes = graph.route(graph.order, np.roll(graph.order, -1))
    assert np.all(np.count_nonzero(routes >= 0, axis=1) == 1)
    links = routes[routes >= 0]
    assert len(np.unique(links)) == n


def test_fat_tree_carries_every_shift_without_contention():
    """Full bisection: the messages of a shift by any distance share no link."""
    graph = build("fat-tree", 64, 1e9, 1e-7)
    everyone = np.arange(64)
    for distance in range(1, 64):
        routes = graph.route(everyone, (everyone + distance) % 64)
        links = routes[routes >= 0]
        assert len(np.unique(links)) == len(links)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_bandwidth_of_a_chip(name):
    graph = build(name, 64, 8e9, 1e-7, per_chip=True)
    assert graph.chip_bandwidth() == pytest.approx(8e9)
    assert len(np.unique(graph.bandwidth)) == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (("hypercube", 12, 1e9, 0), "12 accelerators; the nearest number that it can have is 8"),
    (("torus", 13, 1e9, 0), "the nearest number that it can have is 12"),
    (("fat-tree", 37, 1e9, 0), "the nearest number that it can have is 36"),
    (("dragonfly", 100, 1e9, 0), "the nearest number that it can have is 96"),
    (("star", 4, 1e9, 0), "topology must be one of ring, .*not 'star'"),
    (("ring", 0, 1e9, 0), "must be a positive integer, not 0"),
    (("ring", 4, 0, 0), "bandwidth must be positive, not 0"),
    (("ring", 4, float("nan"), 0), "bandwidth must be positive, not nan"),
    (("ring", 4, 1e9, -1), "latency must not be negative, not -1"),
])
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(GraphError, match=message):
        build(*arguments)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_nearest_is_the_nearest(name):
    for n in (5, 13, 100, 1000):
        best = nearest(name, n)
        assert fits(name, best)
        assert not any(fits(name, other) for other in range(max(1, n - abs(best - n) + 1),
                                                            n + abs(best - n)))


def write(path, description):
    path.write_text(json.dumps(description))
    return path


def test_graph_from_a_file(tmp_path):
    graph = load_graph(write(tmp_path / "star.json", {
        "accelerators": 3, "switches": 1,
        "links": [{"between": [i, 3], "gbs": 4, "ns": 50} for i in range(3)]}))
    assert (graph.accelerators, graph.vertices, graph.links) == (3, 4, 6)
    assert np.all(graph.bandwidth == 4e9)
    routes = graph.route(np.array([0, 1]), np.array([2, 1]))
    assert graph.target[routes[0]].tolist() == [3, 2] and routes[1].tolist() == [-1, -1]


@pytest.mark.parametrize(("change", "message"), [
    ({"links": [{"between": [0, 1], "gbs": 4, "ns": 50}]}, "not connected: .* accelerator 2"),
    ({"links": [{"between": [0, 1], "gbs": 4, "ns": 5}, {"between": [1, 2], "gbs": 4, "ns": 5,
                                                        "one_way": True}]},
     "no way to accelerator 0 from accelerator 2"),
    ({"links": [{"between": [0, 3], "gbs": 4, "ns": 5}]}, "link 0 must join two of the 3"),
    ({"links": [{"between": [0, 1], "gbs": 0, "ns": 5}]}, "bandwidth of link 0 must be positive"),
    ({"links": [{"between": [0, 1], "ns": 5}]}, "link 0 must have between"),
    ({"links": 5}, "links must be a list"),
    ({"accelerators": True}, "accelerators must be a number of vertices, not True"),
])
def test_bad_files_are_refused(tmp_path, change, message):
    with pytest.raises(GraphError, match=message):
        load_graph(write(tmp_path / "bad.json", {"accelerators": 3, "links": []} | change))
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(GraphError, match="is not JSON"):
        load_graph(tmp_path / "text.json")


def test_vertices_without_accelerators_are_refused():
    none = np.zeros(0, np.int64)
    with pytest.raises(GraphError, match="at least one accelerator"):
        from_links("none", 0, 1, none, none, none.astype(float), none.astype(float))
