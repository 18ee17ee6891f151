"""Trained networks on the RTL: every word and cycle, and that differences would be seen."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ulpcore import comparison
from ulpcore.cli import main
from ulpcore.demonstration import compare_network
from ulpcore.rtl import MemoryModel
from ulpsim.config import EDGE, NANO
from ulpsim.evaluation import evaluate, quantise
from ulpsim.formats import FORMATS, Precision
from ulpsim.network import Network, Stored, load_network
from ulpsim.programs import random_codes

FOLDER = Path(__file__).parents[1] / "examples" / "fashion_mnist"
EVERY = dataclasses.replace(EDGE, formats=tuple(Precision))
NAMES = ("fashion-fp16", "fashion-fp8", "fashion-int8", "fashion-int4", "fashion-int2",
         "fashion-odd2", "fashion-ternary", "fashion-binary")


@pytest.fixture(scope="module")
def images():
    with np.load(FOLDER / "images.npz") as arrays:
        return arrays["images"][:2, :, :, None] / 255.0


@pytest.mark.parametrize("name", NAMES)
def test_networks_agree(name, images):
    network = load_network(FOLDER / "parameters" / f"{name}.json")
    codes = quantise(images, network.input)
    run = compare_network(network, EVERY, codes, model=MemoryModel(latency=20), batch=2)
    assert run.comparison.agree
    assert run.cycles == run.predicted
    assert (run.outputs_rtl == evaluate(network, codes)).all()


@pytest.mark.parametrize("name", ["fashion-int8", "fashion-odd2"])
def test_networks_agree_in_integers(name, images):
    """The core without floating point, from integer images to integer outputs."""
    network = load_network(FOLDER / "parameters" / f"{name}.json").with_output(
        Stored(FORMATS["INT8"], 0.25))
    codes = quantise(images[:1], network.input)
    run = compare_network(network, NANO, codes, model=MemoryModel(latency=20), batch=1)
    assert run.comparison.agree
    assert run.cycles == run.predicted
    assert (run.outputs_rtl == evaluate(network, codes, NANO)).all()
    # Rounded in other places, the results are near those of a core with FP32.
    assert np.abs(run.outputs_rtl - evaluate(network, codes, EDGE)).max() <= 5


def test_binary_networks_agree(rng):
    """Signs from layer to layer: of the array's eight outputs a vector fills half a slot."""
    layers, before, channels = [], "image", 32
    for number, (outputs, size) in enumerate(((64, 3), (16, 2), (24, 1))):
        layers.append({
            "name": f"layer{number}", "op": "convolution", "input": before,
            "weights": rng.integers(0, 2, (outputs, size, size, channels)),
            "weight_format": "BINARY", "bias": rng.normal(size=outputs),
            "output": {"format": "BINARY"}})
        before, channels = f"layer{number}", outputs
    network = Network.from_description({
        "name": "binary", "layers": layers,
        "input": {"name": "image", "height": 7, "width": 6, "channels": 32, "format": "BINARY"}})
    codes = random_codes(rng, FORMATS["BINARY"], (2, *network.input_shape))
    run = compare_network(network, EDGE, codes, model=MemoryModel(latency=20), batch=2)
    assert run.comparison.agree
    assert run.cycles == run.predicted
    assert (run.outputs_rtl == evaluate(network, codes)).all()
    assert 0.2 < run.outputs_rtl.mean() < 0.8


def test_networks_agree_under_stalls(images):
    network = load_network(FOLDER / "parameters" / "fashion-int2.json")
    run = compare_network(network, EDGE, quantise(images, network.input), batch=1,
                          model=MemoryModel(latency=20, stall_seed=5))
    assert run.comparison.agree


def test_run_prints_the_table(capsys):
    path = FOLDER / "parameters" / "fashion-int2.json"
    assert main(["run", str(path), "--images", "2", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["networks"][0]
    assert row["images"] == 2
    assert row["differing_words"] == row["differing_cycles"] == 0
    assert row["cycles_predicted"] == row["cycles_measured"]


@pytest.mark.parametrize("change", ["word", "cycle"])
def test_one_difference_fails_the_run(change, monkeypatch, capsys):
    honest = comparison.run_jobs

    def tampered(*arguments, **options):
        results, memory = honest(*arguments, **options)
        if change == "word":
            memory = memory.copy()
            memory[-4096] ^= 1
        else:
            results = [dataclasses.replace(results[0], cycles=results[0].cycles + 1),
                       *results[1:]]
        return results, memory

    monkeypatch.setattr(comparison, "run_jobs", tampered)
    path = FOLDER / "parameters" / "fashion-int2.json"
    assert main(["run", str(path), "--images", "1"]) == 1
    assert "1 differing" in capsys.readouterr().err
