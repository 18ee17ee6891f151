"""Where weights and column parameters lie in their memories, and when they are loaded.

Steps name the pieces that they use. In the order of the steps, each memory is a ring: a piece
that is not there is loaded behind the one loaded last, a few pieces ahead of its use, as soon as
the last use of what it replaces has come by. (A piece of the workspace never comes before the
first step of its layer: what is in front of that may write it.) Within a part of the program whose
pieces do not all fit, those that would be loaded most often get places of their own.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from .config import CoreConfig
from .fusion import CompileError
from .isa import Instruction, Segment, Target
from .rules import PARAMETER_SLOTS
from .steps import Piece, Step

__all__ = ["with_pieces"]

#: Pieces that are loaded ahead of the one in use.
_AHEAD = 4


@dataclasses.dataclass(kw_only=True)
class _Load:
    """A LOAD of a piece: to where, in front of which step, and the steps that use it."""

    piece: Piece
    address: int
    first: int
    last: int
    place: int = 0


def with_pieces(parts: Sequence[Sequence[Step]], config: CoreConfig) -> list[Step]:
    """All parts' steps, every use of weights and parameters with its address, and the LOADs.

    Raises CompileError if a piece is larger than its memory.
    """
    steps = [step for part in parts for step in part]
    before: dict[int, list[tuple[int, Step]]] = {}
    addresses: dict[int, int] = {}
    for target, size, room, slots in (
            (Target.WEIGHTS, config.weight_lines, "lines of the weight scratchpad",
             config.column_lanes),
            (Target.PARAMETERS, config.parameter_columns, "columns of parameters",
             PARAMETER_SLOTS)):
        uses, place = [], 0
        for part in parts:
            uses.append([(place + i, step.piece) for i, step in enumerate(part)
                         if step.piece is not None and step.piece.target is target])
            place += len(part)
        loads, places = _place(uses, size, room)
        addresses |= places
        for load in loads:
            piece = load.piece
            rows = {"length": piece.size * slots}
            if piece.pitch:
                rows = {"rows": piece.size, "length": slots, "pitch": slots,
                        "source_pitch": piece.pitch}
            before.setdefault(load.place, []).append((load.first, Step(
                piece.label, Instruction(
                    "LOAD", target=target, segment=piece.segment, offset=piece.offset,
                    address=load.address * slots, **rows))))
    result = []
    for place, step in enumerate(steps):
        result += [load for _, load in sorted(before.get(place, []), key=lambda x: x[0])]
        if step.piece is not None:
            field = "weights" if step.piece.target is Target.WEIGHTS else "parameters"
            step.instruction.values[field] = addresses[place]
        result.append(step)
    return result


def _place(parts: Sequence[Sequence[tuple[int, Piece]]], size: int,
           room: str) -> tuple[list[_Load], dict[int, int]]:
    """Addresses for uses (step, piece), in order, in a memory of `size`.

    Returns the loads and the address of every use.
    """
    loads: list[_Load] = []
    addresses: dict[int, int] = {}
    current: dict[Piece, _Load] = {}
    ring = 0
    for uses in parts:
        stays = _staying(uses, size)
        used = sum(piece.size for piece in stays)
        if ring < used or (_fit(uses, size) and not _fits_round(uses, ring, size)):
            ring = used
        for step, piece in uses:
            load = current.get(piece)
            if load is not None and piece in stays and load.address != stays[piece]:
                load = None
            if load is None:
                if piece in stays:
                    address = stays[piece]
                else:
                    if ring + piece.size > size:
                        ring = used
                    if ring + piece.size > size:
                        raise CompileError(piece.label, f"needs {piece.size} {room} at a time; "
                                           f"the core has {size - used}")
                    address, ring = ring, ring + piece.size
                current = {p: other for p, other in current.items()
                           if not _overlap(other, address, piece.size)}
                load = _Load(piece=piece, address=address, first=step, last=step)
                current[piece] = load
                loads.append(load)
            load.last = step
            addresses[step] = load.address
    begins: dict[str, int] = {}
    for step, piece in itertools.chain(*parts):
        begins.setdefault(piece.label, step)
    for i, load in enumerate(loads):
        # The first ones are in a hurry: what is needed later must not be in front of them.
        ahead = loads[i - min((i + 1) // 2, _AHEAD)].first
        free = max((other.last + 1 for other in loads[:i]
                    if _overlap(other, load.address, load.piece.size)), default=0)
        written = begins[load.piece.label] if load.piece.segment is Segment.WORKSPACE else 0
        load.place = max(ahead, free, written, loads[i - 1].place if i else 0)
    return loads, addresses


def _fit(uses: Sequence[tuple[int, Piece]], size: int) -> bool:
    """Whether all pieces have room together."""
    return sum(piece.size for piece in {piece for _, piece in uses}) <= size


def _fits_round(uses: Sequence[tuple[int, Piece]], ring: int, size: int) -> bool:
    """Whether all pieces have room from `ring` on, going round once."""
    address, room = ring, size
    for piece in dict.fromkeys(piece for _, piece in uses):
        if address + piece.size > size:
            room -= size - address
            address = 0
        address += piece.size
        room -= piece.size
    return room >= 0


def _staying(uses: Sequence[tuple[int, Piece]], size: int) -> dict[Piece, int]:
    """Addresses of the pieces that get places of their own."""
    times: dict[Piece, int] = {}
    last = None
    for _, piece in uses:
        if piece is not last:
            times[piece] = times.get(piece, 0) + 1
        last = piece
    # Those stay that would be loaded most often, as long as two of the others still fit.
    pieces = sorted(times, key=lambda piece: -times[piece])
    total = sum(piece.size for piece in pieces)
    stays: dict[Piece, int] = {}
    used = 0
    if total > size:
        for i, piece in enumerate(pieces):
            others = max((p.size for p in pieces[i + 1:]), default=0)
            if used + piece.size + 2 * others > size or times[piece] == 1:
                break
            stays[piece] = used
            used += piece.size
    return stays


def _overlap(load: _Load, address: int, size: int) -> bool:
    return load.address < address + size and address < load.address + load.piece.size
