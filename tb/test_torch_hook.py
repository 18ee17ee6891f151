"""The communication hook: real processes over gloo, against one process and the golden model.

The reference below trains without DistributedDataParallel and without the hook: gradients of every
rank's minibatch one after another, the golden model of each rank, sums in their order.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ulpsim import float32
from ulpsim.compression.learner import Learner, bin_size_for, layers_of


def test_missing_torch_is_named_with_the_extra() -> None:
    script = ("import sys; sys.modules['torch'] = None\n"
              "import ulpsim.compression.torch_hook")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs `pip install ulpcore[torch]`" in done.stderr


try:
    import torch
    from distributed_training import (
        PATIENCE,
        Poison,
        loss_of,
        make_network,
        make_optimiser,
    )
except ImportError as missing:
    if missing.name != "torch":
        raise

needs_torch = pytest.mark.skipif("torch" not in sys.modules,
                                 reason="PyTorch is not installed: `make test-torch` does it")
STEPS = 6


def run(folder: Path, ranks: int, seed: int, **changes: Any) -> list[dict[str, Any]]:
    """What each rank's process has written."""
    job = {"ranks": ranks, "seed": seed, "steps": STEPS, "first": 0, "save": None, "pickle": False,
           "bucket_mb": 0.0002, "branching": True, "settings": {}, "poison": None, "errors": False,
           **changes}
    folder.mkdir(exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "meeting").unlink(missing_ok=True)
    script = Path(__file__).parent / "distributed_training.py"
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [subprocess.Popen([sys.executable, str(script), str(folder), str(rank)],
                                  env=environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True) for rank in range(ranks)]
    try:
        for rank, process in enumerate(processes):
            output, _ = process.communicate(timeout=PATIENCE + 40)
            assert process.returncode == 0, f"rank {rank}: {output}"
    finally:
        for process in processes:
            process.kill()
            process.wait()
    results = []
    for rank in range(ranks):
        with np.load(folder / f"rank{rank}.npz") as file:
            arrays = dict(file)
        results.append({"summary": json.loads(str(arrays.pop("summary"))), "arrays": arrays})
    return results


def reference(ranks: int, seed: int, *, factor: float = 2, bin_size: int | None = None,
              one_pass: bool = False, branching: bool = True,
              poison: tuple[int, int] | None = None
              ) -> tuple[list[dict[str, np.ndarray]], list[int], list[int]]:
    """Arrays of every rank as the processes write them, bytes sent, gradients not taken."""
    torch.set_num_threads(1)
    network = make_network()
    poisoner = Poison(network)
    optimiser = make_optimiser(network)
    parameters = dict(network.named_parameters())
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    layers = layers_of(trained)
    learners = [Learner(rank, factor=factor, one_pass=one_pass) for rank in range(ranks)]
    arrays: list[dict[str, np.ndarray]] = [{} for _ in range(ranks)]
    sent, refused = [0] * ranks, [0] * ranks
    for step in range(STEPS):
        totals = {name: np.zeros(sum(parameters[m].numel() for m in members), np.float32)
                  for name, members in layers.items()}
        used = set()
        for rank, learner in enumerate(learners):
            poisoner.active = (step, rank) == poison
            network.zero_grad()
            loss_of(network, seed, step, rank, branching).backward()
            used |= {name for name in trained if parameters[name].grad is not None}
            for number, (name, members) in enumerate(layers.items()):
                gradient = np.concatenate([
                    np.zeros(parameters[m].numel(), np.float32) if parameters[m].grad is None
                    else parameters[m].grad.numpy().ravel() for m in members])
                if not gradient.any():
                    sent[rank] += 16
                    continue
                layer = learner.layer(name, gradient,
                                      bin_size or bin_size_for(tuple(parameters[members[0]].shape)),
                                      number=number)
                ours, packets = learner.compress(layer, gradient)
                sent[rank] += sum(map(len, packets))
                refused[rank] += ours.refused
                value = np.float32(float32.decode(ours.scale))
                totals[name][ours.positions] += np.where(ours.negative, -value, value)
            for name, layer in learner.layers.items():
                arrays[rank][f"{step}/residue/{name}"] = layer.residue
            learner.step += 1
        network.zero_grad()
        for name, members in layers.items():
            average, first = totals[name] / np.float32(ranks), 0
            for member in members:
                parameter = parameters[member]
                part = average[first:first + parameter.numel()]
                first += parameter.numel()
                if member in used:
                    parameter.grad = torch.from_numpy(part.reshape(parameter.shape).copy())
                    for one in arrays:
                        one[f"{step}/gradient/{member}"] = part.reshape(parameter.shape)
                else:
                    assert not part.any()             # nothing is sent that would be lost
        optimiser.step()
        for name, parameter in parameters.items():
            value = parameter.detach().numpy().copy()
            for one in arrays:
                one[f"{step}/parameter/{name}"] = value
    return arrays, sent, refused


def assert_equal(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], first: int = 0
                 ) -> None:
    kept = {key for key in theirs if int(key.split("/")[0]) >= first}
    assert set(ours) == kept
    for key in sorted(kept):
        assert ours[key].tobytes() == theirs[key].tobytes(), key


def assert_equals_reference(results: list[dict[str, Any]], **settings: Any) -> None:
    """Gradients, parameters and residues of all steps, bit for bit; and the counters."""
    arrays, sent, refused = reference(len(results), **settings)
    elements = 60 + 12 + 216 * 33 + 33 * 34 + 34 * 10
    for rank, result in enumerate(results):
        assert_equal(result["arrays"], arrays[rank])
        summary = result["summary"]
        assert summary["bytes_sent"] == sent[rank]
        assert summary["rate"] == 4 * elements * STEPS / sent[rank]
        assert summary["refused"] == refused[rank]
        assert summary["steps"] == STEPS
        buckets = summary["buckets"]
        # Buckets are built again after the first step, unless parameters may be unused.
        assert (buckets[0] == buckets[1]) == settings.get("branching", True)
        of = {name: i for i, bucket in enumerate(buckets[1]) for name in bucket}
        assert of["conv.weight"] != of["conv.bias"]                # a layer in several buckets
        assert "hidden.bias" not in of                             # it is frozen


POISON = (2, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def whole(folder: Path) -> list[dict[str, Any]]:
    """Two ranks, a branch that not every step takes, NaN-Inf in a step, a checkpoint after it."""
    return run(folder, 2, int(os.environ.get("ULPCORE_SEED", "1")), poison=POISON, save=3)


@needs_torch
def test_two_ranks_equal_one_process_with_the_golden_model(
        whole: list[dict[str, Any]], seed: int) -> None:
    assert_equals_reference(whole, seed=seed, poison=POISON)


@needs_torch
def test_gradients_that_are_no_numbers_are_reported_to_every_rank(
        whole: list[dict[str, Any]]) -> None:
    assert [result["summary"]["refused"] for result in whole] == [0, 2]
    for result in whole:
        assert result["summary"]["incomplete"] == {
            str(step): ["conv"] if step == POISON[0] else [] for step in range(STEPS)}
        assert all(np.isfinite(array).all() for array in result["arrays"].values())


@needs_torch
def test_four_ranks_with_the_previous_scale(seed: int, tmp_path: Path) -> None:
    settings = {"one_pass": True, "factor": 3, "bin_size": 7}
    results = run(tmp_path, 4, seed, settings=settings, branching=False)
    assert_equals_reference(results, seed=seed, branching=False, **settings)


@needs_torch
@pytest.mark.parametrize("by_pickle", [False, True])
def test_resumed_training_equals_an_uninterrupted_one(
        by_pickle: bool, whole: list[dict[str, Any]], folder: Path, seed: int) -> None:
    resumed = run(folder, 2, seed, first=3, pickle=by_pickle, errors=by_pickle)
    for before, after in zip(whole, resumed, strict=True):
        assert_equal(after["arrays"], before["arrays"], 3)
        for key in ("steps", "bytes_sent", "refused"):
            assert after["summary"][key] == before["summary"][key]
    if not by_pickle:
        return
    for rank, result in enumerate(resumed):
        errors = result["summary"]["errors"]
        assert "rank 0 is at step 6, rank 1 at step 7, their layers are equal" in errors["step"]
        assert "from rank 1 is refused: its checksum is wrong" in errors["packet"]
        assert errors["kept"] == "True"
        assert "`attach` gives it one after unpickling" in errors["attach"]
        assert f"state must be of rank {rank} of 2, not of rank {rank} of 7" in errors["ranks"]
        assert "state must be of the layers weight, bias, not of" in errors["layers"]
        assert "factor must be a multiple of 1/4" in errors["factor"]
        assert "bin_size must be an integer from 1" in errors["bin"]
        assert "from 1 to 4096 layers with parameters that need a gradient" in errors["frozen"]
        assert "state must be of the model that is trained" in errors["model"]
