"""A cluster in RTL: learners that compress, exchange and add up real gradients."""

import json
from pathlib import Path

import numpy as np
import pytest
from ulpcore.cli import main
from ulpcore.interconnect.cluster_rtl import NodeStep, run_cluster
from ulpcore.interconnect.command import make_topology
from ulpcore.interconnect.exchange import Learners
from ulpsim.compression.engine import Command, EngineCause, Operation
from ulpsim.interconnect import collective
from ulpsim.interconnect.topology import Mesh, Torus

IMAGES = Path(__file__).parents[1] / "examples" / "fashion_mnist" / "images.npz"
SMALL = ["--steps", "2", "--hidden", "4", "--batch", "8"]
PAIR = ["--learners", "2", "--topology", "mesh"]
LINE = Mesh(2)


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["cluster", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def check(summary: dict) -> None:
    assert not any(summary["differing"].values())
    for step in summary["steps"]:
        assert all(step["bytes"]) and step["rate"] > 1
        assert step["cycle_ratio"] > 1


@pytest.mark.nightly
@pytest.mark.parametrize("nodes", [[], ["--engines"]], ids=["cores", "engines"])
def test_learners(nodes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    summary = run([*SMALL, *PAIR, *nodes], capsys)
    assert summary["cores"] == (None if nodes else "nano")
    assert summary["elements"] == 80 + 1168 + 785 * 4 + 50
    check(summary)


@pytest.mark.nightly
def test_differences_are_found(monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    """A bit of one replica's sum is enough."""
    def flip(memories, steps, **options):
        result = run_cluster(memories, steps, **options)
        result.memories[1][learner.sums["fc2"] + 5] ^= 1
        return result

    with np.load(IMAGES) as data:
        learner = Learners(LINE, data["images"], data["labels"].astype(int), hidden=4)
    monkeypatch.setattr("ulpcore.interconnect.exchange.run_cluster", flip)
    assert main(["cluster", *SMALL, *PAIR, "--engines", "--steps", "1"]) == 1
    assert "bytes 1, flits 0, elements 1" in capsys.readouterr().out


@pytest.mark.nightly
def test_a_node_that_does_not_come() -> None:
    """Node 1 is given no command: node 0 says so, and goes on to its next one."""
    barrier = NodeStep(collective.Command(collective.Operation.BARRIER, patience=500))
    after = NodeStep(Command(Operation.DECODE, 0, 0, 0, 64))
    result = run_cluster([np.zeros(64, np.uint8)] * 2, [[barrier, after], []], topology=LINE,
                         lanes=1, longest=5000)
    assert result.completions[0][0] == collective.Completion(collective.Cause.TIMEOUT, 1)
    assert result.completions[0][1].cause is EngineCause.ELEMENTS
    assert not result.completions[1]


@pytest.mark.nightly
@pytest.mark.parametrize("nodes", [[], ["--engines"]], ids=["cores", "engines"])
@pytest.mark.parametrize("arguments", [
    ["--topology", "ring"], ["--topology", "torus"], ["--topology", "mesh", "--learners", "3"],
    [*PAIR, "--shared", "--largest", "256"], [*PAIR, "--lanes", "4"]], ids=" ".join)
def test_clusters(arguments: list[str], nodes: list[str],
                  capsys: pytest.CaptureFixture[str]) -> None:
    check(run([*SMALL, *arguments, *nodes], capsys))


@pytest.mark.nightly
def test_whole_network(capsys: pytest.CaptureFixture[str]) -> None:
    """What the exchange is to reach, in bytes and cycles."""
    summary = run([], capsys)
    check(summary)
    for step in summary["steps"]:
        assert step["framing"] <= 1.05
        assert step["ratio_reached"] >= 0.8


def test_topologies() -> None:
    assert make_topology("mesh", 5) == Mesh(5)
    assert make_topology("mesh", 8) == Mesh(4, 2)
    assert make_topology("torus", 4) == Torus(2, 2)
    with pytest.raises(ValueError, match="must be a product of two numbers above 1, not 7"):
        make_topology("torus", 7)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--learners", "1"], "learners must be from 2 to 16, not 1"),
    (["--learners", "5", "--topology", "torus"], "learners of a torus must be a product"),
    (["--steps", "0"], "steps must be a positive integer, not 0"),
    (["--hidden", "0"], "hidden must be a positive integer, not 0"),
    (["--batch", "0"], "batch must be from 1 to the"),
    (["--largest", "12"], "largest must be a multiple of 8 bytes, not 12"),
    (["--factor", "0.3"], "factor must be a multiple of 1/4"),
    (["--lanes", "3"], "lanes must be one of 1, 4, 8, 16, not 3"),
    (["--config", "rapid"], "bus_bytes of a core in a cluster must be at most 32"),
    (["--data", "none.npz"], "none.npz")])
def test_mistakes_are_one_line_on_stderr(arguments: list[str], message: str,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
