"""AdaComp as a communication hook of PyTorch's DistributedDataParallel.

It is an extra, `pip install ulpcore[torch]`:

    state = AdaCompState(model)
    replica = DistributedDataParallel(model)
    replica.register_comm_hook(state, adacomp_hook)

Each rank is a learner. A layer, parameters whose names are equal up to the last dot, is compressed
by `Learner` as soon as backward has come to all of its parameters, in whatever buckets they are;
with the last bucket of a step every rank's packets go to every rank, and `Round` adds them in the
order of ranks. The gradient is that sum over the number of ranks, divided in FP32: replicas that
were equal stay so to the bit.

A step has one exchange because packets are small: their number costs more than their bytes.

A layer whose gradient is zero throughout on a rank is not compressed there: it sends an empty
packet and its residue waits. So nothing is sent of a layer that no rank has used, whose gradient
DistributedDataParallel would not take (`find_unused_parameters`). Of a layer that is used in part,
what is left in the residue of an unused parameter may be sent, and is then lost.
"""

import dataclasses
import logging
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch  # pyright: ignore[reportMissingImports]
    import torch.distributed as dist  # pyright: ignore[reportMissingImports]
    from torch.distributed import (  # pyright: ignore[reportMissingImports]
        GradBucket,  # pyright: ignore[reportPrivateImportUsage]
    )
    from torch.nn.parallel import (  # pyright: ignore[reportMissingImports]
        DistributedDataParallel,
    )
except ImportError as missing:
    raise ImportError(f"{missing.name} is not installed: the communication hook needs "
                      "`pip install ulpcore[torch]`", name=missing.name) from missing

from .adacomp import Settings
from .learner import Learner, LearnerLayer, bin_size_for, layers_of
from .packets import LAYERS, LEARNERS, Header, PacketCause, Round, empty_packet, split

__all__ = ["AdaCompState", "adacomp_hook"]

_logger = logging.getLogger(__name__)


class AdaCompState:
    """What the hook keeps of a model from step to step: residues, scales, counters.

    Parameters
    ----------
    model
        The module, or the DistributedDataParallel around it. Parameters that need no gradient have
        no part in it; those that do must be in it all.
    bin_size
        Elements in a bin; by default 50 for layers whose first parameter has three dimensions or
        more, else 500.
    factor
        The soft threshold, a multiple of 1/4 from 1/4 to 31/4.
    point
        Residues are multiples of 2^-point; by default each layer's by its first gradient that is
        not zero.
    one_pass
        Use the scale of the step before, as hardware does that passes over a layer only once.
    process_group
        By default the one of all ranks. It must be that of DistributedDataParallel.

    Attributes
    ----------
    steps
        Steps that have been exchanged.
    bytes_sent
        All bytes of this rank's packets. (The exchange itself pads those of all ranks to one
        length and sends 24 bytes beside them.)
    refused
        Gradients of this rank that were not taken since they were NaN-Inf or had no 32 bits beside
        the residue.
    incomplete
        Names of the layers of which, in the last step, any rank did not take a gradient; the same
        on all ranks. NaN-Inf does not pass through the hook, so this is what tells of it, as to
        the scaler of a loss.

    Raises ValueError for settings out of range, a model without parameters that need a gradient,
    one of more than 4096 layers, more than 1024 ranks.
    """

    def __init__(self, model: torch.nn.Module, *, bin_size: int | None = None,
                 factor: float | Fraction = 2, point: int | None = None, one_pass: bool = False,
                 process_group: dist.ProcessGroup | None = None) -> None:
        self._set_up({"bin_size": bin_size, "factor": factor, "point": point,
                      "one_pass": one_pass}, process_group)
        self.attach(model)

    def _set_up(self, settings: dict[str, Any], process_group: dist.ProcessGroup | None) -> None:
        bin_size, factor, point = (settings[name] for name in ("bin_size", "factor", "point"))
        Settings(1 if bin_size is None else bin_size, factor,
                 Settings.point if point is None else point)
        self._settings, self.process_group = settings, process_group
        self.ranks = dist.get_world_size(process_group)
        if self.ranks > LEARNERS:
            raise ValueError(f"ranks must be at most {LEARNERS}, not {self.ranks}")
        self.learner = Learner(dist.get_rank(process_group), factor=factor,
                               one_pass=settings["one_pass"])
        self.bytes_sent = self.refused = 0
        self.incomplete: frozenset[str] = frozenset()
        self._layers: list[_Layer] = []
        self._kept: dict[str, Any] | None = None
        self._undo: list[tuple[LearnerLayer, NDArray[np.int32], int | None]] = []

    @property
    def steps(self) -> int:
        return self.learner.step

    @property
    def rate(self) -> float:
        """Bytes of dense FP32 gradients over those of the packets, of all steps so far."""
        elements = sum(layer.elements for layer in self._layers)
        return 4 * elements * self.steps / self.bytes_sent if self.bytes_sent else 0.0

    def attach(self, model: torch.nn.Module) -> None:
        """Take the parameters of a model; needed after unpickling, which leaves them out."""
        if isinstance(model, DistributedDataParallel):
            model = model.module
        parameters = {name: parameter for name, parameter in model.named_parameters()
                      if parameter.requires_grad}
        layers = layers_of(parameters)
        if not 1 <= len(layers) <= LAYERS:
            raise ValueError(f"model must have from 1 to {LAYERS} layers with parameters that need "
                             f"a gradient, not {len(layers)}")
        for name, parameter in parameters.items():
            if not parameter.is_floating_point() or not parameter.numel():
                raise ValueError(f"parameter {name} must be real and have elements, not "
                                 f"{parameter.dtype} {tuple(parameter.shape)}")
        self._layers = [_Layer(number, name, {member: parameters[member] for member in members},
                               self._settings["bin_size"])
                        for number, (name, members) in enumerate(layers.items())]
        self._places = {id(parameter): (layer, name) for layer in self._layers
                        for name, parameter in layer.parameters.items()}
        self._begin()
        if self._kept is not None:
            self.load_state_dict(self._kept)

    def state_dict(self) -> dict[str, Any]:
        """What this rank has to keep beside model and optimiser; each rank has its own."""
        return {"ranks": self.ranks, "bytes_sent": self.bytes_sent, "refused": self.refused,
                "learner": {name: torch.from_numpy(array.copy())
                            for name, array in self.learner.state().items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of the same rank and model.

        Bin sizes and the factor are those of this object; residues and their points the state's.
        Raises ValueError for a state of another rank, number of ranks or model: what its residues
        hold, and has not been sent yet, would be lost.
        """
        learner = Learner(factor=self.learner.factor, one_pass=self.learner.one_pass)
        learner.load({name: tensor.numpy().copy() for name, tensor in state["learner"].items()})
        if (learner.number, state["ranks"]) != (self.learner.number, self.ranks):
            raise ValueError(f"state must be of rank {self.learner.number} of {self.ranks}, not of "
                             f"rank {learner.number} of {state['ranks']}")
        layers = {layer.name: layer for layer in self._layers}
        for name, kept in learner.layers.items():
            if name not in layers:
                raise ValueError(f"state must be of the layers {', '.join(layers)}, not of {name}")
            layer = layers[name]
            if len(kept.residue) != layer.elements:
                raise ValueError(f"residue of {name} must have {layer.elements} elements, not "
                                 f"{len(kept.residue)}")
            kept.number = layer.number
            kept.settings = Settings(layer.bin_size, learner.factor, kept.settings.point)
        self._undo.clear()
        self._begin()
        self._kept, self.learner = None, learner
        self.bytes_sent, self.refused = state["bytes_sent"], state["refused"]

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: all but the process group and the parameters."""
        return {"settings": self._settings,
                "state": self.state_dict() if self._kept is None else self._kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From pickle: with the process group of all ranks, and to be given a model (`attach`)."""
        self._set_up(state["settings"], None)
        self._kept = state["state"]

    def _begin(self) -> None:
        # What a step has changed that came to no end was not sent.
        for kept, residue, mean in self._undo:
            kept.residue, kept.mean = residue, mean
        self._undo.clear()
        self._gradients = {layer.name: np.zeros(layer.elements, np.float32)
                           for layer in self._layers}
        self._missing = {layer.name: set(layer.parameters) for layer in self._layers}
        self._packets: list[bytes] = []
        self._not_taken = 0
        self._buckets: list[_Bucket] = []

    def take(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """What the hook does with a bucket."""
        if not self._layers:
            raise RuntimeError("state must have a model: `attach` gives it one after unpickling")
        if bucket.index() == 0:
            self._begin()
        try:
            future = self._gather(bucket)
            if bucket.is_last():
                self._finish()
        # Whatever ends a step, an interrupt too, the next one must begin with no part of it.
        except BaseException:
            self._begin()
            raise
        return future

    def _gather(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        targets = []
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            if id(parameter) not in self._places:
                raise RuntimeError("state must be of the model that is trained: it has no "
                                   f"parameter {tuple(parameter.shape)} that needs a gradient")
            layer, name = self._places[id(parameter)]
            values = gradient.detach().to("cpu", torch.float32).reshape(-1)
            self._gradients[layer.name][layer.slices[name]] = values.numpy()
            targets.append((gradient, layer, name))
            missing = self._missing[layer.name]
            missing.discard(name)
            if not missing:
                self._compress(layer)
        buffer = bucket.buffer()
        future = torch.futures.Future(devices=[buffer.device] if buffer.is_cuda else None)
        self._buckets.append(_Bucket(buffer, targets, future))
        return future

    def _compress(self, layer: "_Layer") -> None:
        gradient, learner = self._gradients[layer.name], self.learner
        if not gradient.any():
            self._packets.append(empty_packet(layer.bin_size, layer=layer.number,
                                              learner=learner.number, step=learner.step))
            return
        kept = learner.layer(layer.name, gradient, layer.bin_size, self._settings["point"],
                             number=layer.number)
        self._undo.append((kept, kept.residue, kept.mean))
        ours, packets = learner.compress(kept, gradient)
        self._packets += packets
        self._not_taken += ours.refused

    def _finish(self) -> None:
        missing = sorted(name for names in self._missing.values() for name in names)
        if missing:
            raise RuntimeError("all parameters of the state must come in a step; missing: "
                               + ", ".join(missing))
        stream = b"".join(self._packets)
        received = [_by_layer(one, rank) for rank, one in enumerate(self._exchange(stream))]
        incomplete = set()
        averages = {}
        for layer in self._layers:
            dense = np.zeros(layer.elements, np.uint32)
            receiver = Round(dense, layer=layer.number, step=self.steps, learners=self.ranks)
            for rank, packets in enumerate(received):
                for packet in packets.get(layer.number, ()):
                    cause = receiver.add(packet)
                    if cause is not PacketCause.NONE:
                        raise RuntimeError(f"packet of layer {layer.name} from rank {rank} is "
                                           f"refused: its {cause.name.lower()} is wrong")
                    if Header.decode(packet[:16]).incomplete:
                        incomplete.add(layer.name)
            if not receiver.done:
                raise RuntimeError(f"rank {receiver.learner} must send all packets of layer "
                                   f"{layer.name}; its last one is missing")
            averages[layer.name] = torch.from_numpy(dense.view(np.float32)
                                                    / np.float32(self.ranks))
        for bucket in self._buckets:
            for target, layer, name in bucket.targets:
                average = averages[layer.name][layer.slices[name]]
                target.copy_(average.reshape(target.shape))
            bucket.future.set_result(bucket.buffer)
        self.incomplete = frozenset(incomplete)
        if incomplete:
            _logger.warning("step %d: gradients of %s were not taken: NaN-Inf or too large",
                            self.steps, ", ".join(sorted(incomplete)))
        self._undo.clear()
        self.bytes_sent += len(stream)
        self.refused += self._not_taken
        self.learner.step += 1
        self._begin()

    def _exchange(self, stream: bytes) -> list[bytes]:
        """Every rank's bytes, in the order of ranks."""
        device = self._buckets[0].buffer.device
        layout = repr([(layer.name, layer.elements, layer.bin_size) for layer in self._layers])
        mine = torch.tensor([len(stream), self.steps, zlib.crc32(layout.encode())], device=device)
        everyone = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(everyone, mine, group=self.process_group)
        numbers = [one.tolist() for one in everyone]
        for rank, (_, step, fingerprint) in enumerate(numbers):
            if (step, fingerprint) != (numbers[0][1], numbers[0][2]):
                raise RuntimeError("all ranks must be at the same step, with the same layers and "
                                   f"bin sizes; rank 0 is at step {numbers[0][1]}, rank {rank} at "
                                   f"step {step}, their layers are "
                                   + ("equal" if fingerprint == numbers[0][2] else "not equal"))
        padded = torch.zeros(max(count for count, _, _ in numbers), dtype=torch.uint8,
                             device=device)
        padded[:len(stream)] = torch.frombuffer(bytearray(stream), dtype=torch.uint8)
        streams = [torch.empty_like(padded) for _ in range(self.ranks)]
        dist.all_gather(streams, padded, group=self.process_group)
        return [one[:count].cpu().numpy().tobytes()
                for one, (count, _, _) in zip(streams, numbers, strict=True)]


class _Layer:
    """A layer of the model: its number in packets, and where its parameters stand in it."""

    def __init__(self, number: int, name: str, parameters: dict[str, torch.nn.Parameter],
                 bin_size: int | None) -> None:
        self.number, self.name, self.parameters = number, name, parameters
        self.slices: dict[str, slice] = {}
        self.elements = 0
        for member, parameter in parameters.items():
            self.slices[member] = slice(self.elements, self.elements + parameter.numel())
            self.elements += parameter.numel()
        first = next(iter(parameters.values()))
        self.bin_size = bin_size_for(tuple(first.shape)) if bin_size is None else bin_size


@dataclasses.dataclass
class _Bucket:
    """A bucket that waits for its average: its buffer, each parameter's part of it."""

    buffer: torch.Tensor
    targets: list[tuple[torch.Tensor, _Layer, str]]
    future: torch.futures.Future


def _by_layer(stream: bytes, rank: int) -> dict[int, list[bytes]]:
    packets: dict[int, list[bytes]] = {}
    try:
        for packet in split(stream):
            packets.setdefault(Header.decode(packet[:16]).layer, []).append(packet)
    except ValueError as error:
        raise RuntimeError(f"packets of rank {rank} cannot be read: {error}") from error
    return packets


def adacomp_hook(state: AdaCompState, bucket: GradBucket
                 ) -> torch.futures.Future[torch.Tensor]:
    """The hook: `DistributedDataParallel.register_comm_hook(state, adacomp_hook)`.

    Raises RuntimeError in backward, on the rank that sees it, if parameters are not those of the
    state, ranks are not at the same step of the same layers, or packets are refused; residues are
    then as they were before the step.
    """
    return state.take(bucket)
