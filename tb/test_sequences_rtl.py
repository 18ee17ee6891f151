"""Networks over sequences on the RTL: every word and every cycle."""

import json
from pathlib import Path

import numpy as np
import pytest
from ulpcore import comparison
from ulpcore.cli import main
from ulpcore.rtl import MemoryModel
from ulpcore.sequence_demonstration import compare_sequences, load_windows
from ulpsim.config import EDGE
from ulpsim.sequences.evaluation import evaluate
from ulpsim.sequences.network import load_sequence_network

FOLDER = Path(__file__).parents[1] / "examples" / "kjv"


@pytest.mark.parametrize(("name", "steps", "sequences", "batch"), [
    ("kjv-lstm", 3, 6, 6), ("kjv-lstm", 2, 64, 64), ("kjv-attention", 8, 5, 3),
    ("kjv-attention", 32, 2, 2)])
@pytest.mark.parametrize("stalls", [None, 5])
def test_trained_models_agree(name, steps, sequences, batch, stalls):
    network = load_sequence_network(FOLDER / "parameters" / f"{name}.json").with_steps(steps)
    windows = load_windows(network, None, sequences)
    found = compare_sequences(network, EDGE, windows, batch=batch,
                              model=MemoryModel(latency=20, stall_seed=stalls))
    assert found.run.comparison.agree
    assert stalls or found.run.cycles == found.run.predicted
    np.testing.assert_array_equal(found.run.outputs_rtl[:sequences],
                                  evaluate(network, windows[:, :-1]))


@pytest.fixture
def small(tmp_path, rng):
    """A character model of three letters, and a text."""
    weights = {name: (rng.standard_normal(shape) / 2).tolist() for name, shape in (
        ("input_weights", (32, 3)), ("recurrent_weights", (32, 8)))}
    path = tmp_path / "small.json"
    path.write_text(json.dumps({
        "name": "small", "input": {"name": "letters", "steps": 4, "symbols": "abc"},
        "layers": [{"name": "memory", "op": "lstm", "input": "letters", **weights},
                   {"name": "logits", "op": "linear", "input": "memory",
                    "weights": rng.standard_normal((3, 8)).tolist()}]}))
    text = tmp_path / "text.txt"
    text.write_text("abcacbbcabacbcabcaabc")
    return path, text


def test_run_prints_the_table(small, capsys):
    path, text = small
    command = ["run", str(path), "--text", str(text), "--sequences", "5"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["networks"] == []
    row = found["sequences"][0]
    assert (row["sequences"], row["steps"]) == (5, 4)
    assert row["bits_rtl"] == row["bits_golden"] == pytest.approx(row["bits_float32"], abs=0.01)
    assert row["differing_words"] == row["differing_cycles"] == 0
    assert row["cycles_predicted"] == row["cycles_measured"]
    assert main(command) == 0
    assert "bits a" in capsys.readouterr().out


def test_one_difference_fails_the_run(small, monkeypatch, capsys):
    honest = comparison.run_jobs

    def tampered(*arguments, **options):
        results, memory = honest(*arguments, **options)
        memory = memory.copy()
        memory[-1] ^= 1
        return results, memory

    monkeypatch.setattr(comparison, "run_jobs", tampered)
    path, text = small
    assert main(["run", str(path), "--text", str(text), "--sequences", "1"]) == 1
    assert "1 differing words" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--sequences", "6"], "sequences must be from 1 to the 5"),
    (["--text", str(FOLDER / "sample.txt")], "characters must be among 'abc', not"),
    (["--text", "missing.txt"], "missing.txt"),
])
def test_bad_texts(arguments, message, small, capsys):
    path, text = small
    assert main(["run", str(path), "--text", str(text), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_networks_without_characters(small, capsys):
    path, _ = small
    description = json.loads(path.read_text())
    description["input"]["symbols"] = 3
    path.write_text(json.dumps(description))
    assert main(["run", str(path)]) == 2
    assert "must read characters and have an output for each" in capsys.readouterr().err
