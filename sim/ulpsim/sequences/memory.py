"""What a program over sequences keeps in the core's memories, and where.

`Constants` is what all streams of work share and nothing changes: weights, column parameters and
tensors that are the same for every sequence, laid down in the segment PARAMETERS. `Room` hands
out the slots of one stream's part of the activation scratchpad and takes them back.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import dlfloat, float32
from ..config import SLOT_BYTES, CoreConfig
from ..fusion import CompileError
from ..isa import Instruction, Segment, Target
from ..rules import PARAMETER_SLOTS

__all__ = ["Constants", "Place", "Room", "Weights", "stored"]


def stored(channels: int, config: CoreConfig) -> int:
    """Channels with the zeros behind them: whole vectors of the array's outputs."""
    return -(-channels // config.column_lanes) * config.column_lanes


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor's positions lie in the activation scratchpad.

    Position p has its vectors at address + p * pitch + vector * vector_pitch.
    """

    address: int
    pitch: int
    vector_pitch: int

    def part(self, position: int, vector: int = 0) -> "Place":
        """The place from another position and vector on."""
        return dataclasses.replace(self, address=self.address + position * self.pitch
                                   + vector * self.vector_pitch)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights [K, N] of one vector of outputs, with the line where they stand."""

    line: int
    depth: int
    load: int | None = None


class Constants:
    """Weights, column parameters and constant tensors of a program.

    `data` are the contents of the segment PARAMETERS but for the column parameters, which stand
    behind it; `loads` the instructions that bring pieces of it, by number.
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.data = bytearray()
        self.loads: list[tuple[str, Instruction]] = []
        self.lines = 0
        self.slots = 0
        self._columns: list[bytes] = []
        self._tensors: dict[tuple[str, str], tuple[int, int]] = {}
        self._weights: dict[tuple[str, str], list[Weights]] = {}
        self._identity: Weights | None = None

    def weights(self, layer: str, key: str, parts: list[NDArray]) -> list[Weights]:
        """Weights of a layer for every vector of outputs; once for the same layer and key.

        `parts` [outputs, channels] follow on each other along K, each filled up as it is stored.
        """
        if (layer, key) not in self._weights:
            self._weights[layer, key] = self._lay_down(layer, parts)
        return self._weights[layer, key]

    def _lay_down(self, layer: str, parts: list[NDArray]) -> list[Weights]:
        config, outputs = self.config, len(parts[0])
        width = stored(outputs, config)
        lines = np.zeros((sum(stored(part.shape[1], config) for part in parts), width), np.uint16)
        first = 0
        for part in parts:
            lines[first:first + part.shape[1], :outputs] = dlfloat.encode_array(part).T
            first += stored(part.shape[1], config)
        result = []
        for column in range(0, width, config.column_lanes):
            line = self.reserve_lines(layer, len(lines))
            self.loads.append((layer, self._load(
                lines[:, column:column + config.column_lanes], Target.WEIGHTS,
                line * config.column_lanes)))
            result.append(Weights(line, len(lines), len(self.loads) - 1))
        return result

    def _load(self, slots: NDArray[np.uint16], target: Target, address: int) -> Instruction:
        offset = len(self.data)
        self.data += slots.astype("<u2").tobytes()
        return Instruction("LOAD", target=target, segment=Segment.PARAMETERS, offset=offset,
                           length=slots.size, address=address)

    def reserve_lines(self, layer: str, count: int) -> int:
        """The first of so many lines of the weight scratchpad, which must hold all at once."""
        first, self.lines = self.lines, self.lines + count
        if self.lines > self.config.weight_lines:
            raise CompileError(layer, f"weights must fit the weight scratchpad with those of the "
                               f"layers before it: they need {self.lines} lines, the core has "
                               f"{self.config.weight_lines}")
        return first

    def identity(self, layer: str) -> Weights:
        """The identity as weights, for whichever layer asks first."""
        if self._identity is None:
            self._identity = self._lay_down(layer, [np.eye(self.config.column_lanes)])[0]
        return self._identity

    def tensor(self, layer: str, key: str) -> tuple[int, int]:
        """Address and load of a tensor that has been added."""
        return self._tensors[layer, key]

    def add_tensor(self, layer: str, key: str, values: NDArray) -> None:
        """Put a tensor [positions, channels] into the activation scratchpad, behind the last."""
        width = stored(values.shape[1], self.config)
        codes = np.zeros((len(values), width), np.uint16)
        codes[:, :values.shape[1]] = dlfloat.encode_array(values)
        address = self.slots
        self.slots += codes.size
        if self.slots > self.config.activation_slots:
            raise CompileError(layer, f"constants must fit the activation scratchpad: they need "
                               f"{self.slots} slots, the core has {self.config.activation_slots}")
        self.loads.append((layer, self._load(codes, Target.ACTIVATIONS, address)))
        self._tensors[layer, key] = address, len(self.loads) - 1

    def columns(self, layer: str, scale: ArrayLike = 1.0, bias: ArrayLike = 0.0) -> int:
        """The first column of parameters of one vector; the residual's scale is one.

        Vectors with the same parameters share them.
        """
        table = np.zeros((self.config.column_lanes, 4), "<u4")
        for i, values in enumerate((scale, bias, 1.0)):
            table[:, i] = float32.encode_array(values)
        data = table.tobytes()
        if data not in self._columns:
            self._columns.append(data)
        last = len(self._columns) * self.config.column_lanes
        if last > self.config.parameter_columns:
            raise CompileError(layer, f"biases and scales must fit the parameter memory with those "
                               f"of the layers before it: they need {last} columns, the core has "
                               f"{self.config.parameter_columns}")
        return self._columns.index(data) * self.config.column_lanes

    def parameters(self) -> tuple[bytes, Instruction]:
        """All contents of the segment PARAMETERS, and the load of the column parameters."""
        columns = b"".join(self._columns)
        load = Instruction(
            "LOAD", target=Target.PARAMETERS, segment=Segment.PARAMETERS, offset=len(self.data),
            length=len(self._columns) * self.config.column_lanes * PARAMETER_SLOTS)
        assert len(columns) == load["length"] * SLOT_BYTES
        return bytes(self.data) + columns, load


class Room:
    """Slots from `first` to `end` of the activation scratchpad: first fit."""

    def __init__(self, first: int, end: int) -> None:
        self._free = [(first, end)]
        self.size = end - first

    def take(self, layer: str, size: int) -> int:
        """The first of so many slots. Raises CompileError."""
        for i, (first, end) in enumerate(self._free):
            if end - first >= size:
                self._free[i] = (first + size, end)
                return first
        raise CompileError(layer, f"needs {size} slots of the activation scratchpad beside the "
                           f"tensors that are still read; of the {self.size} that there are for "
                           f"one stream of sequences, "
                           f"{max((end - first for first, end in self._free), default=0)} are free")

    def give_back(self, first: int, size: int) -> None:
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._free, (first, first + size)]):
            if merged and merged[-1][1] == low:
                merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        self._free = [part for part in merged if part[0] < part[1]]
