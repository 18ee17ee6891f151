"""Training steps: networks, computation, compression, overlap, cost, search, sweeps."""

import json
import math

import numpy as np
import pytest
from ulpsim.explorer import closed_forms
from ulpsim.explorer import sweep as sweeps
from ulpsim.explorer.compression import SCHEMES, load_scheme
from ulpsim.explorer.compute import Times, core_tflops, step_times
from ulpsim.explorer.cost import cost_of, energy_of, wire_lengths
from ulpsim.explorer.data import load
from ulpsim.explorer.networks import NETWORKS, Layer, Network, load_network
from ulpsim.explorer.search import cheapest
from ulpsim.explorer.step import Settings, buckets, simulate_step
from ulpsim.explorer.sweep import Point, evaluate, sweep
from ulpsim.explorer.topologies import build

LINK = 4e9, 1e-7


@pytest.mark.parametrize(("name", "parameters", "multiply_adds"), [
    ("alexnet", 60.97e6, 0.655e9), ("vgg19", 143.67e6, 19.63e9), ("resnet50", 25.557e6, 4.09e9),
    ("inception-v1", 7.0e6, 1.43e9), ("densenet121", 7.98e6, 2.83e9), ("bert-base", 109.5e6, None),
    ("lstm-ptb", 19.8e6, None), ("deepspeech", 47.2e6, None)])
def test_networks_have_their_published_sizes(name, parameters, multiply_adds):
    network = load_network(name)
    assert network.parameters == pytest.approx(parameters, rel=3e-3)
    if multiply_adds:
        assert network.multiply_adds == pytest.approx(multiply_adds, rel=3e-3)
    assert len({layer.name for layer in network.layers}) == len(network.layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_computation_is_no_faster_than_the_peak(name):
    network = load_network(name)
    before = 0.0
    for batch in (1, 3, 8, 20, 64, 200):
        times = step_times(network, batch, 1.5)
        seconds = times.forward + times.backward
        ideal = 2 * network.multiply_adds * batch / 1.5e12
        assert times.forward > ideal
        assert seconds > 2 * ideal and seconds > before
        before = seconds
        chip = step_times(network, batch, 15)
        assert chip.forward == pytest.approx(times.forward / 10)
    assert core_tflops() == pytest.approx(1.536)


def test_batches_below_one_are_refused():
    with pytest.raises(ValueError, match=r"batch of at least 1, not 0\.5"):
        step_times(load_network("resnet50"), 0.5, 15)
    with pytest.raises(ValueError, match="more than 0 TFLOPS"):
        step_times(load_network("resnet50"), 1, 0)


# --- compression

def test_rates_are_interpolated_between_what_was_measured():
    scheme = load_scheme("adacomp")
    layer = Layer("one", "convolution", 1_000_000, 1, 1, 1)
    # Measured with 1, 8, 32 and 128 learners: the more, the fewer images has each.
    sizes = [scheme.traffic([layer], n).packet for n in (1, 8, 16, 32, 128, 1024)]
    assert sizes == sorted(sizes, reverse=True) and sizes[4] == sizes[5]
    assert sizes[2] == pytest.approx((sizes[1] + sizes[3]) / 2)


def test_union_grows_to_everything_and_meets_what_was_measured():
    scheme = load_scheme("adacomp")
    unions = scheme.union("convolution", np.array([1, 2, 8, 32, 256, 4096]))
    assert np.all(np.diff(unions) > 0) and unions[-1] <= 1
    measured = load("rates")["methods"][scheme.measured]["convolution"]
    assert unions[2:4] == pytest.approx([measured[n]["union"] for n in ("8", "32")])
    top = load_scheme("top-k")
    sizes = top.union_bytes([Layer("one", "other", 1000, 1, 1, 1)], 4096)
    assert len(sizes) == 4096 and np.all(np.diff(sizes) >= 0) and sizes[-1] <= 4000


def test_bytes_of_dense_gradients_and_of_fixed_rates():
    layers = [Layer("c", "convolution", 800, 1, 1, 1), Layer("f", "other", 600, 1, 1, 1),
              Layer("none", "other", 0, 1, 1, 1)]
    assert load_scheme("fp32").traffic(layers, 8).values == 5600
    assert load_scheme("fp16").traffic(layers, 8).values == 2800
    assert load_scheme("adacomp-paper").traffic(layers, 8).packet == 80 + 12
    leader = load_scheme("clt-k").traffic(layers, 8)
    assert (leader.packet, leader.words, leader.values) == (16 + 2 * 2 + 32, 18, 72)
    with pytest.raises(ValueError, match=r"compression must be one of fp32, .*not 'zip'"):
        load_scheme("zip")


# --- steps

def small(layers=4, parameters=1_000_000):
    network = Network("small", "sample", tuple(
        Layer(f"l{i}", "convolution", parameters, 1, 1, 1) for i in range(layers)))
    return network, Times(1e-3, (5e-4,) * layers, (5e-4,) * layers)


def test_a_step_without_anything_to_hide_is_the_closed_form():
    """One bucket is exchanged when all has been computed."""
    network, _ = small(1)
    times = Times(1e-3, (2e-3,), (0.0,))
    graph = build("ring", 8, *LINK)
    step = simulate_step(graph, network, 1, SCHEMES["fp32"], Settings(bucket_bytes=1e9),
                         times=times)
    assert step.seconds == pytest.approx(
        3e-3 + closed_forms.all_reduce_on_ring(8, 4e6, *LINK), rel=1e-12)
    assert step.exposed == pytest.approx(step.exchange)
    assert step.efficiency == pytest.approx(3e-3 / step.seconds)


def test_backward_pass_hides_the_exchange_of_later_layers():
    network, times = small()
    graph = build("ring", 8, 8e9, 1e-9)
    one = simulate_step(graph, network, 1, SCHEMES["fp32"], Settings(bucket_bytes=1e9), times=times)
    each = simulate_step(graph, network, 1, SCHEMES["fp32"], Settings(bucket_bytes=4e6),
                         times=times)
    assert each.exchange == pytest.approx(one.exchange, rel=0.01)
    # Only what the last gradient to come leaves to do is seen, less its layer's data gradient.
    layer = closed_forms.all_reduce_on_ring(8, 4e6, 8e9, 1e-9)
    assert each.exposed == pytest.approx(layer - 5e-4)
    assert one.exposed == pytest.approx(4 * layer - 5e-4, rel=1e-4)
    assert each.sent == pytest.approx(one.sent)


def test_buckets_hold_every_layer_once_and_are_full():
    network = load_network("resnet50")
    groups = buckets(network, 25e6)
    assert [n for group in groups for n in group] == list(reversed(range(len(network.layers))))
    sizes = [4 * sum(network.layers[n].parameters for n in group) for group in groups]
    assert min(sizes[:-1]) >= 25e6


def test_encoders_and_decoders_take_their_time():
    network, times = small(1, 30_000_000)
    graph = build("fully-connected", 16, 1e15, 0.0)
    settings = Settings(tflops=core_tflops(), lanes=4, passes=2, bucket_bytes=1e9)
    step = simulate_step(graph, network, 1, SCHEMES["adacomp"], settings, times=times)
    encode = 30e6 * 2 / 4 / 1.5e9
    words = SCHEMES["adacomp"].traffic(list(network.layers), 16).words * 16
    assert step.encode == pytest.approx(encode)
    assert step.decode == pytest.approx(words / 1.5e9)
    assert step.seconds == pytest.approx(1e-3 + 5e-4 + encode + words / 1.5e9, rel=1e-3)
    assert step.cause.startswith("decoding")


def test_the_topology_changes_the_answer():
    steps = {name: evaluate(Point(topology=name, n=64, gbs=2, tflops=15)) for name in
             ("ring", "bidirectional-ring", "mesh", "torus", "torus3", "fat-tree",
              "fully-connected")}
    seconds = {name: row["seconds"] for name, row in steps.items()}
    assert len({round(value, 6) for value in seconds.values()}) >= 6
    assert seconds["ring"] > seconds["bidirectional-ring"] > seconds["torus"]
    assert seconds["torus"] > seconds["torus3"] > seconds["fully-connected"]


def test_volume_of_adacomp_grows_and_that_of_the_leader_does_not():
    sizes, layers = (16, 64, 256), list(load_network("resnet50").layers)
    sent = {scheme: [evaluate(Point(n=n, compression=scheme))["sent_mb"] for n in sizes]
            for scheme in ("fp32", "adacomp", "clt-k")}
    # Everyone's packets pass each chip but one time each.
    assert sent["adacomp"] == pytest.approx([
        (n - 1) * load_scheme("adacomp").traffic(layers, n).packet / 1e6 for n in sizes])
    assert sent["adacomp"] == sorted(sent["adacomp"])
    assert sent["clt-k"][2] < 1.1 * sent["clt-k"][0]
    assert sent["adacomp"][0] < sent["fp32"][0] < sent["adacomp"][2]


def test_unequal_packets_take_longer():
    point = Point(n=16, compression="adacomp", gbs=1, tflops=150)
    even, uneven = evaluate(point), evaluate(Point(n=16, compression="adacomp", gbs=1, tflops=150,
                                                   spread=0.2))
    assert uneven["seconds"] > 1.02 * even["seconds"]


def test_strong_scaling_shares_the_batch():
    weak = evaluate(Point(n=8, batch=16))
    strong = evaluate(Point(n=8, batch=128, scaling="strong"))
    assert strong["seconds"] == pytest.approx(weak["seconds"])
    with pytest.raises(ValueError, match=r"batch of 8 cannot be shared by 16.*at most 8 chips"):
        Point(n=16, batch=8, scaling="strong")


def test_one_chip_exchanges_nothing():
    row = evaluate(Point(n=1))
    assert row["efficiency"] == 1 and row["sent_mb"] == 0


# --- cost and search

def test_costs_of_rings_and_switches():
    ring, both = build("ring", 16, 1e9, 0), build("bidirectional-ring", 16, 1e9, 0)
    assert cost_of(ring).ports == 32 and cost_of(ring).routers == 0
    assert cost_of(both).ports == 64 and cost_of(both).routers > 0
    small_, middle, large = (cost_of(build("switch", n, 1e9, 0)).routers / n
                             for n in (16, 32, 64))
    # A crossbar grows with the square of its ports, buffers with their number.
    assert large - middle == pytest.approx(2 * (middle - small_)) and middle > small_
    assert wire_lengths(build("mesh", 16, 1e9, 0)).max() == 1
    assert wire_lengths(build("torus", 16, 1e9, 0)).max() == 3
    energy = energy_of(both, np.full(32, 1e9))
    assert energy == pytest.approx(2 * energy_of(both, np.full(32, 5e8)))


def test_cheapest_topology_and_why_the_next_cheaper_fails():
    point = Point(n=64, gbs=4, tflops=15)
    few = ["ring", "mesh", "torus", "hypercube", "fat-tree", "fully-connected"]
    found = cheapest(point, 0.9, few)
    assert found.best is not None and found.best["efficiency"] >= 0.9
    assert found.failed and all(row["efficiency"] < 0.9 for row in found.failed)
    assert all(row["cost_a_chip"] <= found.best["cost_a_chip"] for row in found.failed)
    text = found.explanation()
    assert "the next cheaper" in text and "bandwidth of the links" in text
    # With compression less will do.
    compressed = cheapest(Point(n=64, gbs=4, tflops=15, compression="clt-k"), 0.9, few)
    assert compressed.best is not None
    assert compressed.best["cost_a_chip"] < found.best["cost_a_chip"]
    none = cheapest(Point(n=64, gbs=0.001, tflops=150), 0.99, few)
    assert none.best is None and "no topology keeps" in none.explanation()


def test_bad_searches_are_refused():
    with pytest.raises(ValueError, match=r"efficiency must be above 0 and at most 1, not 1\.5"):
        cheapest(Point(), 1.5)
    with pytest.raises(ValueError, match="nearest number that it can have is 12"):
        cheapest(Point(n=13), 0.9, ["torus"])


# --- sweeps

def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path, monkeypatch):
    points = [Point(n=n, topology=name) for n in (2, 4, 6) for name in ("ring", "hypercube")]
    path = tmp_path / "sweep.jsonl"
    calls = []

    def stopping(point, limit):
        if len(calls) == limit:
            raise KeyboardInterrupt
        calls.append(point)
        return original(point)

    original = sweeps._try
    monkeypatch.setattr(sweeps, "_try", lambda point: stopping(point, 3))
    with pytest.raises(KeyboardInterrupt):
        sweep(points, path, processes=1)
    assert len(path.read_text().splitlines()) == 3
    with path.open("a") as file:
        file.write('{"point": {"netw')
    monkeypatch.setattr(sweeps, "_try", lambda point: stopping(point, 99))
    rows = sweep(points, path, processes=1)
    assert calls == points
    assert [json.loads(line)["row"] for line in path.read_text().splitlines()] == rows
    assert "nearest number" in rows[5]["refused"]
    assert [row["n"] for row in rows] == [2, 2, 4, 4, 6, 6]


def test_processes_find_the_same():
    points = [Point(n=n, compression=scheme) for n in (2, 4) for scheme in ("fp32", "adacomp")]
    assert sweep(points, processes=2) == sweep(points, processes=1)


def test_dask_is_asked_for_by_name(monkeypatch):
    import builtins
    original = builtins.__import__

    def without(name, *rest, **more):
        if name == "distributed":
            raise ImportError(name="distributed")
        return original(name, *rest, **more)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install ulpcore\[dask\]"):
        sweep([Point(n=2)], scheduler="tcp://127.0.0.1:8786")


@pytest.mark.parametrize(("change", "message"), [
    ({"network": "lenet"}, "network must be one of alexnet"),
    ({"gbs": 0}, "bandwidth must be positive"),
    ({"scaling": "much"}, "scaling must be weak or strong"),
    ({"tflops": -1}, "tflops must be positive"),
    ({"spread": 0.5}, "spread must be"),
    ({"algorithm": "magic"}, "all-reduce must be one of"),
])
def test_bad_points_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Point(**change))
    assert math.isfinite(evaluate(Point(n=2))["seconds"])
