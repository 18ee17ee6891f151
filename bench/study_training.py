"""Trainings of the AdaComp study: one run is a network, a method, a number of learners, a seed."""

import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from study_methods import AdaComp, Dense, Method, OneBit, TernGrad, TopK
from study_networks import (
    ConvolutionalNetwork,
    LearnerNetwork,
    LstmNetwork,
    learner_gradients,
)
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power
from torch.nn.parallel import DistributedDataParallel
from ulpsim.compression.learner import CONVOLUTION_BIN, DENSE_BIN

__all__ = ["METHODS", "TASKS", "Images", "Run", "Text", "train"]

EXAMPLES = Path(__file__).parents[1] / "examples"
METHODS = ("none", "adacomp", "topk", "onebit", "terngrad", "powersgd")
#: Points of a curve over a training.
POINTS = 24
#: PowerSGD begins behind PyTorch's rebuilding of buckets.
POWER_START = 2


@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained, and how its gradients are sent.

    `bins` are the bin sizes of convolutions and of other layers; `rates` the rates of those that
    `topk` is given. Only the fields of the method count.
    """

    task: str
    method: str
    learners: int
    seed: int
    steps: int
    factor: float = 2.0
    bins: tuple[int, int] = (CONVOLUTION_BIN, DENSE_BIN)
    one_pass: bool = False
    rates: tuple[float, float] = (60.0, 250.0)

    @property
    def setting(self) -> str:
        """The name of all but the seed."""
        words = [self.task, self.method]
        if self.method == "adacomp":
            words += [f"factor {self.factor:g}", f"bins {self.bins[0]} {self.bins[1]}"]
            words += ["one pass"] * self.one_pass
        if self.method == "topk":
            words += [f"rates {self.rates[0]:g} {self.rates[1]:g}"]
        return ", ".join([*words, f"n {self.learners}", f"steps {self.steps}"])

    @property
    def key(self) -> str:
        """The name under which the run is kept."""
        return f"{self.setting}, seed {self.seed}"

    def make_method(self, network: LearnerNetwork, layers: list[str]) -> Method:
        """The method, for the layers of a network."""
        kinds = {name: 0 if name in network.convolutions else 1 for name in layers}
        if self.method == "adacomp":
            return AdaComp(self.learners, {name: self.bins[kind] for name, kind in kinds.items()},
                           self.factor, self.one_pass)
        if self.method == "topk":
            return TopK({name: self.rates[kind] for name, kind in kinds.items()})
        if self.method == "onebit":
            return OneBit()
        return TernGrad(self.seed) if self.method == "terngrad" else Dense()


class Images:
    """Fashion-MNIST; the measure is percent of the test images."""

    batch, rate, warm_up, clip = 256, 0.1, 0.2, None
    measure = "accuracy"

    def __init__(self, folder: Path) -> None:
        sys.path.append(str(EXAMPLES / "fashion_mnist"))
        from dataset import load_split

        self.training, self.test = (
            (torch.from_numpy((images / np.float32(255) - np.float32(0.286))
                              / np.float32(0.353)).unsqueeze(1), torch.from_numpy(labels).long())
            for images, labels in (load_split(folder, "train"), load_split(folder, "t10k")))

    def make_network(self) -> LearnerNetwork:
        network = ConvolutionalNetwork()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        return network

    def make_optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(network.parameters(), self.rate, momentum=0.9)

    def batches(self, steps: int, generator: torch.Generator) -> Any:
        images, labels = self.training
        whole = len(images) // self.batch
        for step in range(steps):
            if step % whole == 0:
                order = torch.randperm(len(images), generator=generator)
            chosen = order[step % whole * self.batch:][:self.batch]
            yield images[chosen], labels[chosen]

    @torch.no_grad()
    def quality(self, network: LearnerNetwork) -> float:
        images, labels = self.test
        right = sum(int((network(x).argmax(1) == y).sum())
                    for x, y in zip(images.split(1000), labels.split(1000), strict=True))
        return 100 * right / len(images)


class Text:
    """The King James Version; the measure is bits a character of the chapters held out."""

    batch, rate, warm_up, clip = 64, 8e-3, 0.1, 1.0
    measure = "bits a character"
    #: Characters of a window in training, and of one that is measured.
    window, measured = 64, 32

    def __init__(self, path: Path | None) -> None:
        sys.path.append(str(EXAMPLES / "kjv"))
        module = _load(EXAMPLES / "kjv" / "dataset.py")
        self.symbols = len(module.SYMBOLS)
        self.training, self.test = (torch.from_numpy(module.encode(part)).long()
                                    for part in module.split(module.read_text(path)))

    def make_network(self) -> LearnerNetwork:
        return LstmNetwork(self.symbols)

    def make_optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), self.rate)

    def batches(self, steps: int, generator: torch.Generator) -> Any:
        line = torch.arange(self.window + 1)
        for _ in range(steps):
            first = torch.randint(0, len(self.training) - self.window - 1, (self.batch, 1),
                                  generator=generator)
            characters = self.training[first + line]
            yield characters[:, :-1], characters[:, 1:]

    @torch.no_grad()
    def quality(self, network: LearnerNetwork) -> float:
        count = (len(self.test) - 1) // self.measured
        cut = self.test[torch.arange(count)[:, None] * self.measured
                        + torch.arange(self.measured + 1)]
        total = sum(float(network.loss(x[:, :-1], x[:, 1:])) * len(x) for x in cut.split(512))
        return total / count / float(np.log(2))


TASKS = {"cnn": Images, "lstm": Text}


def _load(path: Path) -> Any:
    """A module of an example; both have one of the name `dataset`."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(run: Run, task: Images | Text, advance: Callable[[float], None]) -> dict[str, Any]:
    """One run; `advance` is told the loss of every step.

    Networks and batches of a seed are the same for every method and number of learners.
    """
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    network = task.make_network()
    optimiser = task.make_optimiser(network)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, task.rate, run.steps, pct_start=task.warm_up, cycle_momentum=False)
    layers = {name: module for name, module in network.named_children()}
    elements = {name: sum(p.numel() for p in module.parameters())
                for name, module in layers.items()}
    count = Counter(run.steps, elements, network.convolutions)
    method = run.make_method(network, list(layers))
    power_replica = _power_replica(network) if run.method == "powersgd" else None
    generator = torch.Generator().manual_seed(run.seed)
    for step, (x, target) in enumerate(task.batches(run.steps, generator)):
        optimiser.zero_grad()
        if power_replica is not None:
            loss = network_loss(power_replica, network, x, target)
            loss.backward()
            for name, module in layers.items():
                count.add(step, name, _power_bytes(module, step))
            value = loss.item()
        elif run.method == "none":
            loss = network.loss(x, target)
            loss.backward()
            for name in layers:
                count.add(step, name, 4.0 * elements[name])
            value = loss.item()
        else:
            value, gradients = learner_gradients(network, x, target, run.learners)
            for name, each in gradients.items():
                sent = method.reduce(name, each)
                count.add(step, name, sent.bytes, sent.words_a_bin, sent.union)
                _give(layers[name], sent.total / np.float32(run.learners))
        if task.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), task.clip)
        optimiser.step()
        schedule.step()
        count.losses[step] = value
        advance(value)
    if power_replica is not None:
        dist.destroy_process_group()
    return {"setting": run.setting, "seed": run.seed, task.measure: task.quality(network),
            **count.figures()}


def network_loss(replica: nn.Module, network: LearnerNetwork, x: Tensor, target: Tensor) -> Tensor:
    """The loss by way of DistributedDataParallel's forward pass."""
    return nn.functional.cross_entropy(replica(x).flatten(0, -2), target.flatten())


def _give(module: nn.Module, gradient: np.ndarray) -> None:
    """Put a layer's gradient into its parameters."""
    first = 0
    for parameter in module.parameters():
        part = gradient[first:first + parameter.numel()]
        parameter.grad = torch.from_numpy(part.reshape(tuple(parameter.shape)).copy())
        first += parameter.numel()


def _power_replica(network: LearnerNetwork) -> DistributedDataParallel:
    """PyTorch's hook of rank 1 in a group of one process.

    Its products P = M Q and Q = M^T P are linear in M, so the means over learners that all-reduce
    takes are those of the mean gradient plus the mean error: one process that has the mean
    gradient computes what n learners would, but for rounding.
    """
    meeting = Path(tempfile.mkdtemp()) / "meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    replica = DistributedDataParallel(network)
    state = power.PowerSGDState(process_group=None, matrix_approximation_rank=1,
                                start_powerSGD_iter=POWER_START, min_compression_rate=1)
    replica.register_comm_hook(state, power.powerSGD_hook)
    return replica


def _power_bytes(module: nn.Module, step: int) -> float:
    """P and Q of every matrix that they make smaller, all else dense."""
    total = 0
    for parameter in module.parameters():
        rows = parameter.shape[0]
        columns = parameter.numel() // rows
        small = rows + columns < parameter.numel() and step >= POWER_START
        total += 4 * (rows + columns if small else parameter.numel())
    return float(total)


class Counter:
    """Bytes, words and unions over a training: of convolutions, of other layers, of all."""

    def __init__(self, steps: int, elements: dict[str, int], convolutions: tuple[str, ...]) -> None:
        self.steps, self.elements = steps, elements
        self.kinds = {name: "convolution" if name in convolutions else "other"
                      for name in elements}
        self.bytes = {name: np.zeros(steps) for name in elements}
        self.words = {name: np.zeros(steps) for name in elements}
        self.unions = {name: np.zeros(steps) for name in elements}
        self.losses = np.zeros(steps)

    def add(self, step: int, name: str, size: float, words: float = 0.0, union: float = 1.0
            ) -> None:
        self.bytes[name][step], self.words[name][step] = size, words
        self.unions[name][step] = union

    def figures(self) -> dict[str, Any]:
        """Rates; curves at points that lie close at first, each the mean since the one before."""
        ends = np.unique(np.geomspace(1, self.steps, POINTS).round().astype(int))
        figures: dict[str, Any] = {"elements": self.elements, "points": ends.tolist(),
                                   "loss": _means(self.losses, ends)}
        for kind in ("convolution", "other", "all"):
            names = [name for name in self.elements if kind in ("all", self.kinds[name])]
            if not names:
                continue
            weights = {name: self.elements[name] for name in names}
            total = sum(weights.values())
            size = sum(self.bytes[name] for name in names)
            figures[kind] = {
                "rate": 4 * total * self.steps / float(np.sum(size)),
                "rate over training": _means(size, ends, 4 * total),
                "words a bin": _means(sum(self.words[name] * weights[name] for name in names)
                                      / total, ends),
                "union": _means(sum(self.unions[name] * weights[name] for name in names) / total,
                                ends)}
        figures["layers"] = {name: 4 * self.elements[name] * self.steps
                             / float(self.bytes[name].sum()) for name in self.elements}
        return figures


def _means(values: Any, ends: np.ndarray, over: float | None = None) -> list[float]:
    parts = [values[first:end].mean() for first, end in zip([0, *ends[:-1]], ends, strict=True)]
    return [float(f"{part if over is None else over / part:.5g}") for part in parts]
