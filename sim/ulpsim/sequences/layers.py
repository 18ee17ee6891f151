"""From layers over sequences to instructions.

A `Stream` makes the instructions of one stream of work, a block of positions at a time: one step
of several sequences, or all steps of one sequence. It owns a part of every memory that
instructions write: activation slots, accumulators, row scalars, lines of the weight scratchpad,
bytes of the segment WORKSPACE.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import SLOT_BYTES, CoreConfig
from ..formats import Precision
from ..fusion import CompileError
from ..isa import Function, Instruction, Pool, Segment, Source, Target
from .evaluation import MASK
from .memory import Constants, Place, Room, Weights, stored
from .network import Add, Attention, Constant, Layer, LayerNorm, Linear, Lstm, SequenceNetwork
from .streams import Step

__all__ = ["Share", "Stream", "add_constants"]

#: Largest window of a SPECIAL.
_MOST_WINDOW = 255
#: Vectors of an LSTM's state that are worked on at a time.
_PART = 2
_FUNCTIONS = {"none": Function.NONE, "relu": Function.NONE, "sigmoid": Function.SIGMOID,
              "tanh": Function.TANH}


@dataclasses.dataclass(frozen=True)
class Share:
    """What a stream may write: (first, count) of accumulators and of row scalars, and slots."""

    accumulators: tuple[int, int]
    rows: tuple[int, int]
    slots: tuple[int, int]


def add_constants(network: SequenceNetwork, constants: Constants) -> None:
    """Put all tensors that are the same for every sequence in their places."""
    for layer in network.layers:
        if isinstance(layer, Constant):
            constants.add_tensor(layer.name, "values", layer.values)
        elif isinstance(layer, Attention) and layer.causal:
            seen = np.tri(network.steps, dtype=bool)
            constants.add_tensor(layer.name, "mask", np.where(seen, 0.0, MASK))


@dataclasses.dataclass(frozen=True)
class _Columns:
    """A vector of outputs: what makes it, its parameters, and where it goes."""

    products: Sequence[tuple[Place, Weights]]
    parameters: int


class Stream:
    """One stream of work.

    Parameters
    ----------
    network, config
        What, for what.
    constants
        Shared with the other streams.
    share
        What this one may write.
    positions
        Positions of a block.
    by_step
        A block is one step of `positions` sequences; otherwise all steps of one.
    workspace
        First byte of its part of the segment WORKSPACE; `workspace_end` is where that ends.

    `steps` are the instructions so far. Raises CompileError naming the layer, what it needs and
    what there is.
    """

    def __init__(self, network: SequenceNetwork, config: CoreConfig, constants: Constants,
                 share: Share, positions: int, *, by_step: bool, workspace: int) -> None:
        self.network, self.config, self.constants, self.share = network, config, constants, share
        self.positions, self.by_step = positions, by_step
        self.workspace_end = workspace
        self.steps: list[Step] = []
        self.room = Room(*share.slots)
        self.step = 0
        self._half = 0
        self._tensors: dict[str, Place] = {}
        #: Memory that a layer keeps from block to block.
        self._kept: dict[str, Place] = {}
        self._lines: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._needs: dict[str, int] = {}

    # --- blocks

    def block(self, inputs: tuple[int, int], outputs: tuple[int, int], step: int) -> None:
        """All layers over one block.

        `inputs` and `outputs` are the first byte in their segments and the bytes from position to
        position; `step` is the block's, if it is one step of several sequences.
        """
        network = self.network
        self.step = step
        self._tensors = {}
        source = self._keep_input()
        self._emit(network.input_name, "LOAD", target=Target.ACTIVATIONS, segment=Segment.INPUT,
                   offset=inputs[0], **self._rows(network.input_name, source, "source", inputs[1]))
        self._tensors[network.input_name] = source
        for number, layer in enumerate(network.layers):
            self._layer(layer)
            later = {name for other in network.layers[number + 1:] for name in other.inputs}
            for name in {*layer.inputs, layer.name} - later - {network.output_name}:
                self._forget(name)
        result = self._tensors[network.output_name]
        self._emit(network.output_name, "STORE", segment=Segment.OUTPUT, offset=outputs[0],
                   **self._rows(network.output_name, result, "target", outputs[1]))
        self._forget(network.output_name)

    def _rows(self, name: str, place: Place, external: str, pitch: int) -> dict[str, Any]:
        """Fields for a tensor's rows, here and in external memory; one row if there is no gap."""
        width = self._width(name)
        if place.pitch == width and pitch == width * SLOT_BYTES:
            return {"length": self.positions * width, "address": place.address}
        return {"rows": self.positions, "length": width, "address": place.address,
                "pitch": place.pitch, f"{external}_pitch": pitch}

    def _width(self, name: str) -> int:
        """Slots of a position of a tensor."""
        return stored(self.network.channels[name], self.config)

    def _emit(self, label: str, name: str, needs: tuple[int, ...] = (), **fields: Any) -> None:
        self.steps.append(Step(label, Instruction(name, **fields), needs))

    # --- where tensors lie

    def _take(self, layer: str, width: int, positions: int | None = None, *,
              pitch: int | None = None) -> Place:
        """A new place for `positions` times `width` slots."""
        pitch = width if pitch is None else pitch
        size = pitch * (self.positions if positions is None else positions)
        return Place(self.room.take(layer, size), pitch, self.config.column_lanes)

    def _give_back(self, place: Place, positions: int | None = None) -> None:
        self.room.give_back(
            place.address, place.pitch * (self.positions if positions is None else positions))

    def _forget(self, name: str) -> None:
        """Give back a tensor's memory, if it is the tensor's alone."""
        place = self._tensors.pop(name, None)
        if place is not None and name not in self._needs and not any(
                kept.address <= place.address < kept.address + kept.pitch * self.positions
                for kept in self._kept.values()):
            self._give_back(place)

    def _lstm_of(self, name: str) -> Lstm | None:
        """The LSTM in whose memory a tensor lies, in front of the state: the first to read it."""
        readers = self.network.readers(name)
        if any(isinstance(layer, Lstm) and layer.name == name for layer in self.network.layers):
            return None     # it lies behind another one's input
        return next((layer for layer in readers if isinstance(layer, Lstm)), None)

    def _keep_input(self) -> Place:
        """The network's input, in memory of its own so that it can be loaded early."""
        name = self.network.input_name
        if name not in self._kept:
            for layer in self.network.layers:
                if isinstance(layer, Lstm):
                    self._state(layer)
            self._kept[name] = self._target(name)
        return self._kept[name]

    def _target(self, name: str) -> Place:
        """The place of a layer's result."""
        lstm = self._lstm_of(name)
        if lstm is not None:
            return self._state(lstm)[0]
        return self._take(name, self._width(name))

    def _state(self, layer: Lstm) -> tuple[Place, Place, Place]:
        """Places of an LSTM's input, output and cell; the first two share rows, if they can."""
        name, source = layer.name, layer.inputs[0]
        hidden = self._width(name)
        if name not in self._kept:
            width = self._width(source) if self._lstm_of(source) is layer else 0
            both = self._take(name, width + hidden)
            cell = self._take(name, hidden)
            self._kept[name], self._kept[f"{name}: cell"] = both, cell
            for place, offset in ((both, width), (cell, 0)):
                self._emit(name, "FILL", rows=self.positions, length=hidden,
                           address=place.address + offset, pitch=place.pitch)
        both, cell = self._kept[name], self._kept[f"{name}: cell"]
        return both, dataclasses.replace(both, address=both.address + both.pitch - hidden), cell

    def _shared(self, layer: str, key: str, channels: int) -> tuple[Place, int]:
        """A tensor of `Constants`, with the load that brings it."""
        address, load = self.constants.tensor(layer, key)
        return Place(address, stored(channels, self.config), self.config.column_lanes), load

    # --- instructions

    def _chunks(self, most: int) -> Iterator[tuple[int, int]]:
        """(first, count) of positions."""
        for first in range(0, self.positions, most):
            yield first, min(most, self.positions - first)

    def _accumulators(self) -> int:
        """The first accumulator of a half of this stream's; the halves take turns."""
        first, count = self.share.accumulators
        self._half = 1 - self._half
        return first + self._half * (count // 2)

    @property
    def _capacity(self) -> int:
        return self.share.accumulators[1] // 2

    def _project(self, label: str, columns: Sequence[_Columns], target: Place, *,
                 residual: Place | None = None, needs: tuple[int, ...] = (),
                 **special: Any) -> None:
        """Products of all positions with vectors of weights, and the passes that drain them.

        Neighbouring vectors with the same parameters are drained together.
        """
        most = min(self.positions, self._capacity)
        for first, count in self._chunks(most):
            place = 0
            while place < len(columns):
                group = [columns[place]]
                for other in columns[place + 1:]:
                    if (other.parameters != group[0].parameters
                            or (len(group) + 1) * count > self._capacity):
                        break
                    group.append(other)
                self._drain(label, group, (first, count), target.part(first, place),
                            None if residual is None else residual.part(first, place), needs,
                            special)
                place += len(group)

    def _drain(self, label: str, group: Sequence[_Columns], positions: tuple[int, int],
               target: Place, residual: Place | None, needs: tuple[int, ...],
               special: dict[str, Any]) -> None:
        first, count = positions
        accumulator = self._accumulators()
        for i, vector in enumerate(group):
            for j, (source, weights) in enumerate(vector.products):
                self._emit(label, "MATMUL", () if weights.load is None else (weights.load,),
                           precision=Precision.FP16, accumulate=int(j > 0), depth=weights.depth,
                           weights=weights.line, address=source.part(first).address,
                           run_length=weights.depth, count_2=count, stride_2=source.pitch,
                           accumulator=accumulator + i * count)
        if "row" in special:
            # A row scalar for each position, the first one's from here on.
            special = {**special, "row": special["row"] + first}
        self._emit(label, "SPECIAL", needs, **{
            "float_accumulator": 1, "parameters": group[0].parameters, "accumulator": accumulator,
            "count_1": count, "count_2": len(group), "accumulator_stride_1": 1,
            "accumulator_stride_2": count, **_strides(target), **_residual(residual), **special})

    def _elements(self, label: str, source: Place, target: Place, vectors: int, *,
                  residual: Place | None = None, positions: int | None = None,
                  needs: tuple[int, ...] = (), **special: Any) -> None:
        """A pass over the stored elements of all positions."""
        self._emit(label, "SPECIAL", needs, **{
            "source": Source.ACTIVATIONS, "accumulator": source.address,
            "count_1": positions or self.positions, "count_2": vectors,
            "accumulator_stride_1": source.pitch, "accumulator_stride_2": source.vector_pitch,
            "parameters": self.constants.columns(label), **_strides(target),
            **_residual(residual), **special})

    def _reduce(self, label: str, source: Place, vectors: int, pool: Pool, row: int, *,
                positions: int, squared: bool = False, scale: ArrayLike = 1.0) -> None:
        """A row scalar for each position."""
        if vectors > _MOST_WINDOW:
            raise CompileError(label, f"a row must have at most {_MOST_WINDOW} vectors of the "
                               f"core's {self.config.column_lanes} outputs, not {vectors}")
        fields: dict[str, Any] = {}
        if squared:
            fields = {"residual": 1, "product": 1, "residual_address": source.address,
                      "residual_stride_1": source.pitch,
                      "residual_window_stride_1": source.vector_pitch}
        self._emit(label, "SPECIAL", source=Source.ACTIVATIONS, accumulator=source.address,
                   count_1=positions, accumulator_stride_1=source.pitch, window_1=vectors,
                   window_stride_1=source.vector_pitch, pool=pool, reduce=1, reduced_row=row,
                   parameters=self.constants.columns(label, scale), **fields)

    def _scalars(self, label: str, row: int, positions: int, function: Function = Function.NONE,
                 *, scale: float = 1.0, bias: float = 0.0) -> None:
        """function(row scalar * scale + bias), in its place."""
        self._emit(label, "SPECIAL", source=Source.ROWS, row=row, reduced_row=row, reduce=1,
                   pool=Pool.MAXIMUM, count_1=positions, function=function,
                   parameters=self.constants.columns(label, scale, bias))

    # --- layers

    def _layer(self, layer: Layer) -> None:
        match layer:
            case Constant():
                # Of a block of one step all positions read the same row.
                place, load = self._shared(layer.name, "values", layer.outputs)
                if self.by_step:
                    place = dataclasses.replace(place.part(self.step), pitch=0)
                self._tensors[layer.name], self._needs[layer.name] = place, load
            case Linear():
                self._linear(layer)
            case Add():
                target = self._target(layer.name)
                self._elements(layer.name, self._tensors[layer.inputs[0]], target,
                               self._width(layer.name) // self.config.column_lanes,
                               residual=self._tensors[layer.inputs[1]],
                               needs=self._needs_of(layer.inputs[1]))
                self._tensors[layer.name] = target
            case LayerNorm():
                self._layer_norm(layer)
            case Lstm():
                self._lstm(layer)
            case Attention():
                self._attention(layer)

    def _needs_of(self, name: str) -> tuple[int, ...]:
        return (self._needs[name],) if name in self._needs else ()

    def _vectors(self, values: NDArray) -> list[NDArray]:
        """Values [channels] by vectors of outputs, with zeros behind them."""
        lanes = self.config.column_lanes
        padded = np.zeros(stored(len(values), self.config))
        padded[:len(values)] = values
        return [padded[first:first + lanes] for first in range(0, len(padded), lanes)]

    def _linear(self, layer: Linear) -> None:
        source = self._tensors[layer.inputs[0]]
        weights = self.constants.weights(layer.name, "weights", [layer.weights])
        columns = [_Columns([(source, w)], self.constants.columns(layer.name, 1.0, bias))
                   for w, bias in zip(weights, self._vectors(layer.bias), strict=True)]
        added = layer.inputs[1:]
        residual = self._tensors[added[0]] if added else None
        target = self._target(layer.name)
        self._project(layer.name, columns, target, residual=residual,
                      needs=self._needs_of(added[0]) if added else (),
                      function=_FUNCTIONS[layer.function], relu=int(layer.function == "relu"))
        self._tensors[layer.name] = target

    def _layer_norm(self, layer: LayerNorm) -> None:
        name, channels = layer.name, self.network.channels[layer.name]
        lanes = self.config.column_lanes
        if channels % lanes:
            raise CompileError(name, f"channels must be a multiple of the core's {lanes} outputs "
                               f"for their sums, not {channels}")
        row, rows = self.share.rows
        if self.positions > rows:
            raise CompileError(name, f"positions of a block must be at most the {rows} row scalars "
                               f"of one stream of sequences, not {self.positions}")
        vectors, source = channels // lanes, self._tensors[layer.inputs[0]]
        centred, target = self._take(name, channels), self._target(name)
        self._reduce(name, source, vectors, Pool.SUM, row, positions=self.positions,
                     scale=-1 / channels)
        self._elements(name, source, centred, vectors, row_bias=1, row=row)
        self._reduce(name, centred, vectors, Pool.SUM, row, positions=self.positions,
                     scale=1 / channels, squared=True)
        self._scalars(name, row, self.positions, Function.RECIPROCAL_SQUARE_ROOT,
                      bias=layer.epsilon)
        self._elements(name, centred, target, vectors, row_scale=1, row=row)
        if layer.scale is not None or layer.bias is not None:
            scales = self._vectors(np.ones(channels) if layer.scale is None else layer.scale)
            biases = self._vectors(np.zeros(channels) if layer.bias is None else layer.bias)
            for i, (scale, bias) in enumerate(zip(scales, biases, strict=True)):
                part = target.part(0, i)
                self._elements(name, part, part, 1,
                               parameters=self.constants.columns(name, scale, bias))
        self._give_back(centred)
        self._tensors[name] = target

    def _lstm(self, layer: Lstm) -> None:
        name, config = layer.name, self.config
        source = self._tensors[layer.inputs[0]]
        _, hidden, cell = self._state(layer)
        width = self._width(name)
        vectors = width // config.column_lanes
        joined = (hidden.address == source.address + self._width(layer.inputs[0])
                  and hidden.pitch == source.pitch)
        size = layer.outputs
        # The order that the window of the cell wants: forget, input; the candidate behind them.
        order = {"forget": 1, "input": 0, "candidate": 2, "output": 3}
        gates = self._take(name, len(order) * width)
        places = {gate: Place(gates.address + i * width * self.positions, width,
                              config.column_lanes) for i, gate in enumerate(order)}
        for gate, number in order.items():
            rows = slice(number * size, (number + 1) * size)
            parts = [layer.input_weights[rows], layer.recurrent_weights[rows]]
            if joined:
                weights = [[(source, w)] for w in self.constants.weights(name, gate, parts)]
            else:
                both = [self.constants.weights(name, f"{gate}, {i}", [part])
                        for i, part in enumerate(parts)]
                weights = [[(source, x), (hidden, h)] for x, h in zip(*both, strict=True)]
            columns = [_Columns(products, self.constants.columns(name, 1.0, bias))
                       for products, bias in zip(weights, self._vectors(layer.bias[rows]),
                                                 strict=True)]
            self._project(name, columns, places[gate], function=Function.TANH
                          if gate == "candidate" else Function.SIGMOID)
        # cell = forget * cell + input * candidate, a window of two products. In parts, so that
        # the other stream's accumulators need not wait for all of it.
        for first in range(0, vectors, _PART):
            count = min(_PART, vectors - first)
            part = {gate: place.part(0, first) for gate, place in places.items()}
            old, result = cell.part(0, first), hidden.part(0, first)
            self._elements(
                name, part["forget"], old, count, residual=old, product=1, window_1=2,
                window_stride_1=part["input"].address - part["forget"].address, pool=Pool.SUM,
                residual_window_stride_1=part["candidate"].address - old.address)
            self._elements(name, old, part["forget"], count, function=Function.TANH)
            self._elements(name, part["output"], result, count, residual=part["forget"],
                           product=1)
        self._give_back(gates)
        self._tensors[name] = hidden

    def _attention(self, layer: Attention) -> None:
        name, config, steps = layer.name, self.config, self.positions
        lanes, outputs = config.column_lanes, layer.outputs
        size = outputs // layer.heads
        for what, number in (("steps", steps), ("outputs of a head", size)):
            if number % lanes:
                raise CompileError(name, f"{what} must be a multiple of the core's {lanes} "
                                   f"outputs, not {number}")
        row, rows = self.share.rows
        together = min(layer.heads, rows // (2 * steps))
        if not together:
            raise CompileError(name, f"steps must be at most {rows // 2}, half of the {rows} row "
                               f"scalars of one stream of sequences, not {steps}")
        source = self._tensors[layer.inputs[0]]
        plain = self.constants.columns(name)

        def projected(key: str, array: NDArray, target: Place) -> None:
            self._project(name, [_Columns([(source, w)], plain)
                                 for w in self.constants.weights(name, key, [array])], target)

        # A pitch of one more than a multiple of 8 lets the array read the keys transposed.
        keys = self._take(name, outputs, pitch=outputs + 1)
        projected("key", layer.key_weights, keys)
        transposed = Place(self.room.take(name, outputs * steps), lanes, outputs * lanes)
        self._transpose(name, keys, transposed, outputs)
        self._give_back(keys)
        key_weights = self._as_weights(name, "keys", transposed, outputs, steps // lanes)
        self.room.give_back(transposed.address, outputs * steps)
        # Values are written as weights stand: vector after vector of outputs.
        values = Place(self.room.take(name, outputs * steps), lanes, steps * lanes)
        projected("value", layer.value_weights, values)
        value_weights = self._as_weights(name, "values", values, steps, outputs // lanes)
        self.room.give_back(values.address, outputs * steps)
        query, target = self._take(name, outputs), self._target(name)
        projected("query", layer.query_weights, query)

        mask, needs = None, ()
        if layer.causal:
            mask, load = self._shared(name, "mask", steps)
            needs = (load,)
        scale = self.constants.columns(name, math.log2(math.e) / math.sqrt(size))
        for first in range(0, layer.heads, together):
            heads = range(first, min(layer.heads, first + together))
            scores = self._take(name, steps, len(heads) * steps)
            for i, head in enumerate(heads):
                part = query.part(0, head * size // lanes)
                self._project(name, [
                    _Columns([(part, Weights(w.line + head * size, size))], scale)
                    for w in key_weights], scores.part(i * steps), residual=mask, needs=needs)
            sums = row + len(heads) * steps
            self._softmax(name, scores, steps // lanes, row, sums, len(heads) * steps)
            for i, head in enumerate(heads):
                vector = head * size // lanes
                self._project(name, [
                    _Columns([(scores.part(i * steps), w)], plain)
                    for w in value_weights[vector:vector + size // lanes]],
                    target.part(0, vector), row_scale=1, row=sums + i * steps)
            self._give_back(scores, len(heads) * steps)
        self._give_back(query)
        self._tensors[name] = target

    def _softmax(self, name: str, scores: Place, vectors: int, row: int, sums: int,
                 positions: int) -> None:
        """Powers in the place of scores, and the reciprocals of their sums as row scalars."""
        self._reduce(name, scores, vectors, Pool.MAXIMUM, row, positions=positions)
        self._scalars(name, row, positions, scale=-1.0)
        self._elements(name, scores, scores, vectors, positions=positions, row_bias=1, row=row,
                       function=Function.EXPONENTIAL)
        self._reduce(name, scores, vectors, Pool.SUM, sums, positions=positions)
        self._scalars(name, sums, positions, Function.RECIPROCAL)

    def _transpose(self, name: str, source: Place, target: Place, channels: int) -> None:
        """Vectors of neighbouring positions for each channel: `target` has the channels in the
        place of positions, and the blocks of positions in that of vectors.

        The array multiplies what it reads, position after position of a block along K, by the
        identity.
        """
        lanes = self.config.column_lanes
        identity = self.constants.identity(name)
        together = max(1, self._capacity // channels)
        blocks = self.positions // lanes
        most = min(channels, self._capacity)
        for block in range(0, blocks, together):
            count = min(together, blocks - block)
            for channel in range(0, channels, most):
                width = min(most, channels - channel)
                accumulator = self._accumulators()
                self._emit(name, "MATMUL", (identity.load,) if identity.load is not None else (),
                           precision=Precision.FP16, depth=lanes, weights=identity.line,
                           address=source.part(block * lanes).address + channel, run_length=1,
                           run_pitch=source.pitch, count_1=count, stride_1=lanes * source.pitch,
                           count_2=width, stride_2=1, accumulator=accumulator)
                part = target.part(channel, block)
                self._emit(name, "SPECIAL", float_accumulator=1, accumulator=accumulator,
                           parameters=self.constants.columns(name), count_1=count, count_2=width,
                           accumulator_stride_1=width, accumulator_stride_2=1,
                           address=part.address, stride_1=part.vector_pitch, stride_2=part.pitch)

    def _as_weights(self, name: str, key: str, place: Place, depth: int,
                    vectors: int) -> list[Weights]:
        """Bring what lies as weights do to the weight scratchpad, by way of external memory."""
        name_of, lanes = f"{name}: {key}", self.config.column_lanes
        length = depth * vectors * lanes
        if name_of not in self._lines:
            self._lines[name_of] = self.constants.reserve_lines(name, depth * vectors)
            self._bytes[name_of] = self.workspace_end
            self.workspace_end += length * SLOT_BYTES
        line, offset = self._lines[name_of], self._bytes[name_of]
        self._emit(name, "STORE", segment=Segment.WORKSPACE, offset=offset, length=length,
                   address=place.address)
        self._emit(name, "LOAD", target=Target.WEIGHTS, segment=Segment.WORKSPACE, offset=offset,
                   length=length, address=line * lanes)
        return [Weights(line + i * depth, depth) for i in range(vectors)]


def _strides(target: Place) -> dict[str, Any]:
    return {"address": target.address, "stride_1": target.pitch, "stride_2": target.vector_pitch}


def _residual(place: Place | None) -> dict[str, Any]:
    if place is None:
        return {}
    return {"residual": 1, "residual_address": place.address, "residual_stride_1": place.pitch,
            "residual_stride_2": place.vector_pitch}
