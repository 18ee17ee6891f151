"""The compression engine: gradients in memory to packets in memory, and packets to their sum.

The definition of what `ulpcore.compression.engine` does to memory and reports, byte for byte; how
long it takes is not said here. Commands are carried out one after another, each as a whole.

COMPRESS passes one step of one layer through AdaComp (`adacomp`), its residue in place, and
appends the packets to a buffer, back to back in pieces of 4 bytes: the packets of all layers of a
step are one run of bytes. DECODE adds the packets of one layer of all learners, each of which has
such a buffer, to a dense gradient in the order of the learners (`packets.Round`).

A command that fails says why and where. Unless it is the bus that fails

- a COMPRESS has then changed nothing, neither residue nor buffer: the residue plus what is in the
  buffer is what it was before. It can be given again.
- a DECODE has then added the packets before the one that was refused, and nothing of that one. It
  can be given again, with `clear`: the buffers are read from where the layer before has ended.

What a failing memory leaves of a layer's residue, of the buffer behind the layers before it, or of
the dense gradient, is not defined.
"""

import dataclasses
import enum
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .adacomp import LARGEST_BIN, POINTS, EncoderCause, Settings, compress_array, scale_to_units
from .packets import LARGEST_PACKET, Header, PacketCause, Round, packets_of

__all__ = ["LARGEST_ROUND", "Command", "Completion", "Engine", "EngineCause", "Operation", "Place"]

#: Learners in a round.
LARGEST_ROUND = 256
_SMALLEST_PACKET = 16
_ADDRESSES = 1 << 32


class Operation(enum.IntEnum):
    """What a command does."""

    COMPRESS = 0
    DECODE = 1


class EngineCause(enum.IntEnum):
    """Why a command failed; of several causes the first one counts."""

    NONE = 0
    ELEMENTS = 1        #: no elements
    LEARNERS = 2        #: none, more than 256, or others than those of the round that is continued
    MISALIGNED = 3      #: an address, or a buffer's capacity or pitch, is no multiple of the bus
    RANGE = 4           #: beyond the last address
    OVERFLOW = 5        #: the packets do not fit the buffer
    ENCODER = 6         #: the encoder refuses the layer; `detail` is the EncoderCause
    PACKET = 7          #: a packet of `learner` was refused; `detail` is the PacketCause
    SLAVE_ERROR = 8     #: the bus answered SLVERR
    DECODE_ERROR = 9    #: the bus answered DECERR
    STOPPED = 10        #: it was told to stop, in RTL only


class Place(enum.IntEnum):
    """Where a command failed: which of its regions of memory."""

    NONE = 0
    GRADIENT = 1
    RESIDUE = 2
    PACKETS = 3


@dataclasses.dataclass(frozen=True)
class Command:
    """One step of one layer.

    Attributes
    ----------
    operation
    layer, step, learner
        As in packets. DECODE: the first learner.
    last_learner
        DECODE only; learners are `learner` to `last_learner`.
    elements
    gradient
        Byte address. COMPRESS: gradients, FP32 or with `dlfloat16` codes of 16 bits. DECODE: the
        dense gradient, FP32, that is added to.
    residue
        COMPRESS: byte address of int32 in units of 2^-point, read and written.
    buffer, capacity, pitch
        Byte address and bytes of the packet buffer; of DECODE: of the first learner, the others
        `pitch` bytes apart.
    append
        COMPRESS: the packets go behind those of the COMPRESS before, else to the beginning of the
        buffer. DECODE: the packets are those behind the layer of the DECODE before, else those at
        the beginning of the buffers. Buffers and learners must stay the same.
    clear
        DECODE: the dense gradient is zero before.
    bin_size, factor, point
        As in `Settings`, the factor in quarters.
    exact
        The scale is the mean of this step, for which the layer is passed over twice. Else `scale`,
        FP32: in one pass the mean of the step before, or zero to send nothing.
    choose
        CLT-k's leader: what is sent says which elements are chosen, all of them stay in the residue
        (`cyclic`). `scale` must be 0; `exact` has no meaning.
    """

    operation: Operation
    elements: int
    gradient: int
    buffer: int
    capacity: int
    layer: int = 0
    step: int = 0
    learner: int = 0
    last_learner: int = 0
    residue: int = 0
    pitch: int = 0
    append: bool = False
    clear: bool = False
    bin_size: int = 0
    factor: int = 0
    point: int = 0
    scale: int = 0
    exact: bool = False
    dlfloat16: bool = False
    choose: bool = False


@dataclasses.dataclass(frozen=True)
class Completion:
    """What came of a command.

    Attributes
    ----------
    cause, detail, place
        NONE; or why it failed, and where.
    layer
        Of the command.
    learner
        Of the command; if a packet is the cause, whose it was.
    packets
        Written, or added.
    bytes
        COMPRESS: what the buffer holds, from its beginning; after OVERFLOW what it would have to.
        DECODE: of the packets added.
    scale, mean
        COMPRESS: FP32 bits of what was sent, and of the exact mean of this step, which is the scale
        of the next one if it is to have one pass.
    incomplete
        A gradient of this layer was not taken; DECODE: by any of the learners.

    All but the first fields are 0 if the command failed, but for `bytes` after OVERFLOW.
    """

    cause: EngineCause = EngineCause.NONE
    detail: int = 0
    place: Place = Place.NONE
    layer: int = 0
    learner: int = 0
    packets: int = 0
    bytes: int = 0
    scale: int = 0
    mean: int = 0
    incomplete: bool = False


class _FailedError(Exception):
    def __init__(self, cause: EngineCause, place: Place = Place.NONE, detail: int = 0,
                 **others: int) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {"cause": cause, "place": place, "detail": detail, **others}


class Engine:
    """The engine beside its memory.

    Parameters
    ----------
    memory
        uint8, from address 0 on; it is changed in place. Beyond it the bus answers DECERR.
    bus_bytes
        Bytes of a beat, to which addresses are aligned.
    largest_bin
        Of the encoder.
    error
        First byte, bytes, and the cause of accesses to them.
    """

    def __init__(self, memory: NDArray[np.uint8], *, bus_bytes: int = 4,
                 largest_bin: int = LARGEST_BIN,
                 error: tuple[int, int, EngineCause] = (0, 0, EngineCause.SLAVE_ERROR)) -> None:
        if memory.dtype != np.uint8 or memory.ndim != 1 or len(memory) % bus_bytes:
            raise ValueError("memory must be a vector of uint8 whose length is a multiple of "
                             f"{bus_bytes}, not {memory.dtype} of shape {memory.shape}")
        self.memory, self.bus_bytes, self.largest_bin = memory, bus_bytes, largest_bin
        self.error = error
        #: Bytes of the packet buffer in use; bytes of each learner's that have been decoded.
        self.used = 0
        self.cursors: list[int] = []

    def run(self, command: Command) -> Completion:
        """Carry out a command."""
        about: dict[str, Any] = {"layer": command.layer, "learner": command.learner}
        try:
            self._check(command)
            done = (self._compress(command) if command.operation is Operation.COMPRESS
                    else self._decode(command))
        except _FailedError as failed:
            return Completion(**(about | failed.fields))
        return Completion(**about, **done)

    def _check(self, command: Command) -> None:
        """The first rule that a command breaks."""
        compresses = command.operation is Operation.COMPRESS
        if command.elements == 0:
            raise _FailedError(EngineCause.ELEMENTS)
        learners = 1 if compresses else command.last_learner - command.learner + 1
        if not 1 <= learners <= LARGEST_ROUND or (
                not compresses and command.append and learners != len(self.cursors)):
            raise _FailedError(EngineCause.LEARNERS)
        size = 2 if compresses and command.dlfloat16 else 4
        pitch = 0 if compresses else command.pitch
        regions = {
            Place.GRADIENT: ([command.gradient], command.gradient + size * command.elements),
            Place.RESIDUE: ([command.residue], command.residue + 4 * command.elements),
            Place.PACKETS: ([command.buffer, command.capacity, pitch],
                            command.buffer + (learners - 1) * pitch + command.capacity)}
        if not compresses:
            del regions[Place.RESIDUE]
        for place, (aligned, _) in regions.items():
            if any(value % self.bus_bytes for value in aligned):
                raise _FailedError(EngineCause.MISALIGNED, place)
        for place, (_, end) in regions.items():
            if end > _ADDRESSES:
                raise _FailedError(EngineCause.RANGE, place)

    def _compress(self, command: Command) -> dict:
        settings = self._settings(command)
        gradient = self._view(command.gradient, command.elements,
                              "<u2" if command.dlfloat16 else "<f4", Place.GRADIENT)
        residue = self._view(command.residue, command.elements, "<i4", Place.RESIDUE)
        ours = compress_array(residue, gradient, settings,
                              None if command.exact or command.choose else command.scale,
                              choose=command.choose)
        packets = packets_of(ours, command.bin_size, layer=command.layer, learner=command.learner,
                             step=command.step)
        used = self.used if command.append else 0
        run = b"".join(packets)
        if used + len(run) > command.capacity:
            raise _FailedError(EngineCause.OVERFLOW, Place.PACKETS, bytes=used + len(run))
        buffer = self._view(command.buffer + used, len(run), "u1", Place.PACKETS)
        residue[:] = ours.residue
        buffer[:] = np.frombuffer(run, np.uint8)
        self.used = used + len(run)
        return {"packets": len(packets), "bytes": self.used, "scale": ours.scale,
                "mean": ours.mean, "incomplete": ours.refused > 0}

    def _settings(self, command: Command) -> Settings:
        """What the encoder is told. Raises if it refuses it."""
        cause = EncoderCause.NONE
        if not 1 <= command.bin_size <= self.largest_bin:
            cause = EncoderCause.BIN_SIZE
        elif command.factor == 0:
            cause = EncoderCause.FACTOR
        elif command.point not in POINTS:
            cause = EncoderCause.POINT
        elif command.choose or not command.exact:
            try:
                if scale_to_units(command.scale, command.point) and command.choose:
                    cause = EncoderCause.SCALE
            except ValueError:
                cause = EncoderCause.SCALE
        if cause is not EncoderCause.NONE:
            raise _FailedError(EngineCause.ENCODER, detail=cause)
        return Settings(command.bin_size, Fraction(command.factor, 4), command.point)

    def _decode(self, command: Command) -> dict:
        dense = self._view(command.gradient, command.elements, "<u4", Place.GRADIENT)
        if command.clear:
            dense[:] = 0
        learners = command.last_learner - command.learner + 1
        cursors = list(self.cursors) if command.append else [0] * learners
        round_ = Round(dense, layer=command.layer, step=command.step,
                       learners=command.last_learner + 1)
        round_.learner = command.learner
        done = {"packets": 0, "bytes": 0, "incomplete": False}
        while not round_.done:
            learner = round_.learner
            index = learner - command.learner
            packet = self._packet(command, index, cursors[index])
            cause = round_.add(packet) if packet else PacketCause.LENGTH
            if cause is not PacketCause.NONE:
                raise _FailedError(EngineCause.PACKET, detail=cause, learner=learner)
            cursors[index] += len(packet)
            done["packets"] += 1
            done["bytes"] += len(packet)
            done["incomplete"] |= Header.decode(packet[:16]).incomplete
        self.cursors = cursors
        return done

    def _packet(self, command: Command, index: int, cursor: int) -> bytes:
        """The packet at a place of a learner's buffer; empty if it does not end within it."""
        room = command.capacity - cursor
        if room < _SMALLEST_PACKET:
            return b""
        at = command.buffer + index * command.pitch + cursor
        header = Header.decode(self._view(at, _SMALLEST_PACKET, "u1", Place.PACKETS).tobytes())
        if header.count > LARGEST_PACKET or header.size > room:
            return b""
        return self._view(at, header.size, "u1", Place.PACKETS).tobytes()

    def _view(self, first: int, count: int, kind: str, place: Place) -> NDArray:
        """Some memory. Raises if the bus does not answer for all of it."""
        size = count * np.dtype(kind).itemsize
        error_first, error_bytes, cause = self.error
        if first < error_first + error_bytes and error_first < first + size:
            raise _FailedError(cause, place)
        if first + size > len(self.memory):
            raise _FailedError(EngineCause.DECODE_ERROR, place)
        return self.memory[first:first + size].view(kind)
