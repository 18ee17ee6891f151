"""One rank of a training with the communication hook, as a process by itself.

    python distributed_training.py FOLDER RANK

FOLDER/job.json says what is to be done; FOLDER/rank0.npz, ... hold what came of it.
"""

import copy
import faulthandler
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from ulpsim.compression.torch_hook import AdaCompState, adacomp_hook

BATCH = 6
RATE = 0.05
PATIENCE = 200                     # seconds, after which a rank says where it stands, and ends


class Network(nn.Module):
    """Convolution, normalisation, a branch of fully connected layers that not every step takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.GroupNorm(2, 6)
        self.hidden = nn.Linear(216, 33)
        self.side = nn.Linear(33, 33)
        self.output = nn.Linear(33, 10)
        self.hidden.bias.requires_grad_(False)

    def forward(self, images: torch.Tensor, side: bool) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(images)))
        x = torch.relu(self.hidden(x.flatten(1)))
        if side:
            x = x + torch.relu(self.side(x))
        return self.output(x)


def make_network() -> Network:
    torch.manual_seed(5)
    return Network()


def takes_side(step: int, rank: int, branching: bool) -> bool:
    """If branching: nobody takes the branch at first, then all but one, then all, then nobody."""
    return not branching or (1 <= step < 4 and (step != 1 or rank != 1))


def loss_of(network: nn.Module, seed: int, step: int, rank: int, branching: bool) -> torch.Tensor:
    """Loss of the minibatch of a rank in a step."""
    rng = np.random.default_rng([seed, step, rank])
    images = torch.from_numpy(rng.standard_normal((BATCH, 1, 8, 8)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 10, BATCH))
    return nn.functional.cross_entropy(
        network(images, takes_side(step, rank, branching)), labels)


def make_optimiser(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in network.parameters() if p.requires_grad], RATE,
                           momentum=0.9)


class Poison:
    """Puts NaN in a rank's gradient of conv.weight in a step."""

    def __init__(self, network: Network) -> None:
        self.active = False
        network.conv.weight.register_hook(self)

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        if not self.active:
            return gradient
        gradient = gradient.clone()
        gradient[0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
        return gradient


def _error(action: Any) -> str:
    try:
        action()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return ""


def main(folder: Path, rank: int) -> NoReturn:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank,
                            world_size=job["ranks"])
    network = make_network()
    poison = Poison(network)
    optimiser = make_optimiser(network)
    replica = DistributedDataParallel(network, bucket_cap_mb=job["bucket_mb"],
                                      find_unused_parameters=job["branching"])
    state = AdaCompState(replica, **job["settings"])
    checkpoint = folder / f"checkpoint{rank}.pt"
    if job["first"]:
        kept = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(kept["network"])
        optimiser.load_state_dict(kept["optimiser"])
        if job["pickle"]:
            state = pickle.loads((folder / f"state{rank}.pickle").read_bytes())
            without = copy.copy(state)
            state.attach(replica)
        else:
            state.load_state_dict(kept["state"])
    buckets: list[list[list[str]]] = [[] for _ in range(job["steps"])]
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    step = job["first"]

    def hook(state: AdaCompState, bucket: dist.GradBucket
             ) -> torch.futures.Future[torch.Tensor]:
        buckets[step].append([names[id(parameter)] for parameter in bucket.parameters()])
        return adacomp_hook(state, bucket)

    replica.register_comm_hook(state, hook)
    results: dict[str, Any] = {}
    incomplete = {}
    for step in range(job["first"], job["steps"]):
        if step == job["save"]:
            torch.save({"network": network.state_dict(), "optimiser": optimiser.state_dict(),
                        "state": state.state_dict()}, checkpoint)
            (folder / f"state{rank}.pickle").write_bytes(pickle.dumps(state))
        poison.active = [step, rank] == job["poison"]
        optimiser.zero_grad()
        loss_of(replica, job["seed"], step, rank, job["branching"]).backward()
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                results[f"{step}/gradient/{name}"] = parameter.grad.numpy().copy()
        optimiser.step()
        for name, parameter in network.named_parameters():
            results[f"{step}/parameter/{name}"] = parameter.detach().numpy().copy()
        for name, layer in state.learner.layers.items():
            results[f"{step}/residue/{name}"] = layer.residue
        incomplete[str(step)] = sorted(state.incomplete)
    errors = {}
    if job["errors"]:
        before = {name: layer.residue for name, layer in state.learner.layers.items()}
        state.learner.step += rank
        errors["step"] = _error(
            lambda: loss_of(replica, job["seed"], 1, rank, job["branching"]).backward())
        state.learner.step -= rank
        exchange = state._exchange

        def corrupt(stream: bytes) -> list[bytes]:
            first, second = exchange(stream)
            return [first, second[:13] + bytes([second[13] ^ 1]) + second[14:]]

        # A replica whose backward has failed cannot be used again, nor can its module.
        fresh = DistributedDataParallel(make_network(), find_unused_parameters=True)
        state.attach(fresh)
        fresh.register_comm_hook(state, adacomp_hook)
        state._exchange = corrupt
        errors["packet"] = _error(lambda: loss_of(fresh, job["seed"], 1, rank, True).backward())
        state._exchange = exchange
        errors["kept"] = str(all(np.array_equal(layer.residue, before[name])
                                 for name, layer in state.learner.layers.items()))
        if job["pickle"]:
            errors["attach"] = _error(lambda: without.take(None))
        saved = state.state_dict()
        errors["ranks"] = _error(lambda: state.load_state_dict({**saved, "ranks": 7}))
        other = AdaCompState(nn.Linear(3, 2))
        errors["layers"] = _error(lambda: other.load_state_dict(saved))
        errors["factor"] = _error(lambda: AdaCompState(network, factor=0.3))
        errors["bin"] = _error(lambda: AdaCompState(network, bin_size=0))
        errors["frozen"] = _error(lambda: AdaCompState(nn.Linear(3, 2).requires_grad_(False)))
        strange = DistributedDataParallel(nn.Linear(3, 2))
        strange.register_comm_hook(other, adacomp_hook)
        errors["model"] = _error(lambda: strange(torch.ones(1, 3)).sum().backward())
    summary = {"steps": state.steps, "bytes_sent": state.bytes_sent, "refused": state.refused,
               "rate": state.rate, "incomplete": incomplete, "buckets": buckets, "errors": errors}
    np.savez(folder / f"rank{rank}.npz", summary=np.array(json.dumps(summary)), **results)
    # Letting go of the last replica would join gloo's threads with the interpreter's lock held,
    # which one of them may need to let go of the last all-reduce: both would wait for ever.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
