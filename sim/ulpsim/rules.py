"""What the core finds wrong with an instruction: the rules that it must keep.

What the instructions do is told in the table of `isa.py`. `check` says which rule one breaks; the
functions behind it say what its fields mean, and serve `interpreter.Machine` too.

- An instruction is checked as a whole before it does anything. (On the core, MATMUL and SPECIAL
  may find an address out of range under way, and have written accumulators or activations by
  then; external memory is never written by an instruction that breaks a rule.) Of several rules
  that it breaks the first one of this list counts: ILLEGAL_INSTRUCTION, UNSUPPORTED_FORMAT,
  UNSUPPORTED_FUNCTION, MISALIGNED_ADDRESS, SEGMENT_READ_ONLY, SEGMENT_RANGE, WEIGHT_RANGE,
  PARAMETER_RANGE, ACCUMULATOR_RANGE, ACTIVATION_RANGE, ROW_RANGE. (Of the last three, SPECIAL on
  the core reports the one that it comes to first in the order of the vectors.)
- ILLEGAL_INSTRUCTION: a pair of precisions that the array cannot multiply
  (`formats.multipliable`), a sign of what is no integer, odd weights that are not signed, `upper`
  without a vector that fills half a slot.
- UNSUPPORTED_FORMAT: a precision of MATMUL, of SPECIAL's source, output or residual that is not
  among the core's `formats`, or accumulators of a kind that none of those makes; for SPECIAL with
  `fold` also one of which a slot holds more elements than a group has outputs.
- UNSUPPORTED_FUNCTION: more groups of columns than the core's `fold`; on a core without
  `special_functions` a SPECIAL with another source than the accumulators, a product, a function,
  or anything of row scalars.
- LOAD reads whole words of the bus, so a row that ends within one needs the rest of it in its
  segment too.
- COMPRESS, DECODE and COLLECTIVE are checked by `exchange.rules`; what their engines find wrong is
  a COMPRESSION or COLLECTIVE. On a core without an exchange unit they, and tokens of that unit, are
  ILLEGAL_INSTRUCTIONs. What an engine has written before it fails is said of it; COLLECTIVE takes
  the other nodes of a cluster (`cluster`).
- Of SPECIAL the fields of the residual are looked at only if `residual` is set, those of a
  source in the scratchpad only if it is ACTIVATIONS, those of the accumulators only if it is
  ACCUMULATORS, those of the output only without `reduce`. A function beside a residual,
  `reduce` without a pool, and `fold` beside `reduce` or another source than the accumulators are
  ILLEGAL_INSTRUCTIONs.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from . import exchange, fold
from .config import SLOT_BYTES, CoreConfig
from .formats import FORWARD_BIAS, Format, Precision, multipliable
from .isa import Cause, Fold, Function, Instruction, Pool, Segment, Source, Target, Unit
from .special import SpecialFunction

__all__ = ["PARAMETER_SLOTS", "Segments", "check", "loop_counts", "operand_format", "segment_of",
           "slots_of_vector", "special_function", "vector_count", "window_counts"]

#: Slots of one column in the parameter memory: scale, bias, residual scale, upper bound.
PARAMETER_SLOTS = 8

Segments = Mapping[Segment, tuple[int, int]]
Rules = Sequence[tuple[bool, Cause]]


def check(config: CoreConfig, segments: Segments, instruction: Instruction,
          nodes: int = 1) -> Cause:
    """The first rule that an instruction breaks on this core; NONE if none.

    `segments` are (base, size) in bytes; one that is missing is empty. `nodes` are those of the
    cluster that the core is in.
    """
    if instruction.unit is Unit.EXCHANGE:
        for broken, cause in exchange.rules(config.bus_bytes, segments, instruction, nodes):
            if broken:
                return cause
        return Cause.NONE
    rules = {"LOAD": _load_rules, "FILL": _fill_rules, "MATMUL": _matmul_rules,
             "SPECIAL": _special_rules, "STORE": _store_rules}.get(instruction.name)
    if rules is None:
        return Cause.NONE
    for broken, cause in rules(config, segments, instruction):
        if broken:
            return cause
    return Cause.NONE


def _end(instruction: Instruction, first: str, pitch: str, length: int) -> int:
    """Where the rows of a LOAD, FILL or STORE end."""
    return (instruction[first] + (instruction["rows"] - 1) * instruction[pitch] + length)


def _past(segments: Segments, instruction: Instruction, end: int) -> bool:
    _, size = segments.get(segment_of(instruction), (0, 0))
    return end > size


def segment_of(instruction: Instruction) -> Segment:
    return Segment(instruction["segment"])


def _load_rules(config: CoreConfig, segments: Segments, instruction: Instruction) -> Rules:
    target = Target(instruction["target"])
    granule, capacity, cause = {
        Target.ACTIVATIONS: (1, config.activation_slots, Cause.ACTIVATION_RANGE),
        Target.WEIGHTS: (config.column_lanes, config.weight_slots, Cause.WEIGHT_RANGE),
        Target.PARAMETERS: (PARAMETER_SLOTS * config.quarter,
                            PARAMETER_SLOTS * config.parameter_columns, Cause.PARAMETER_RANGE),
    }[target]
    row_bytes = -(-instruction["length"] * SLOT_BYTES // config.bus_bytes) * config.bus_bytes
    return (
        (any(instruction[f] % config.bus_bytes for f in ("offset", "source_pitch"))
         or any(instruction[f] % granule for f in ("address", "length", "pitch")),
         Cause.MISALIGNED_ADDRESS),
        (_past(segments, instruction, _end(instruction, "offset", "source_pitch", row_bytes)),
         Cause.SEGMENT_RANGE),
        (_end(instruction, "address", "pitch", instruction["length"]) > capacity, cause),
    )


def _fill_rules(config: CoreConfig, segments: Segments, instruction: Instruction) -> Rules:
    return ((_end(instruction, "address", "pitch", instruction["length"])
             > config.activation_slots, Cause.ACTIVATION_RANGE),)


def _store_rules(config: CoreConfig, segments: Segments, instruction: Instruction) -> Rules:
    row_bytes = instruction["length"] * SLOT_BYTES
    return (
        (any(instruction[f] % config.bus_bytes for f in ("offset", "target_pitch"))
         or row_bytes % config.bus_bytes != 0, Cause.MISALIGNED_ADDRESS),
        (segment_of(instruction) not in (Segment.OUTPUT, Segment.WORKSPACE),
         Cause.SEGMENT_READ_ONLY),
        (_past(segments, instruction, _end(instruction, "offset", "target_pitch", row_bytes)),
         Cause.SEGMENT_RANGE),
        (_end(instruction, "address", "pitch", instruction["length"]) > config.activation_slots,
         Cause.ACTIVATION_RANGE),
    )


def _matmul_rules(config: CoreConfig, segments: Segments, instruction: Instruction) -> Rules:
    precision = Precision(instruction["precision"])
    weight_precision = Precision(instruction["weight_precision"])
    fit = multipliable(precision, weight_precision)
    groups = Fold(instruction["fold"])
    lines = -(-fold.group_depth(instruction["depth"], config.rows, groups)
              * weight_precision.bits // precision.bits)
    depth, length, pitch = (instruction[f] for f in ("depth", "run_length", "run_pitch"))
    runs = -(-depth // length)
    # The last slot of K, or that of the last whole run, if runs lie closer than they are long.
    last_slot = (runs - 1) * pitch + (depth - 1) % length
    if runs > 1:
        last_slot = max(last_slot, (runs - 2) * pitch + length - 1)
    return (
        (not fit or _means_nothing(precision, bool(instruction["activation_signed"]))
         or _means_nothing(weight_precision, bool(instruction["weight_signed"]),
                           bool(instruction["weight_odd"])), Cause.ILLEGAL_INSTRUCTION),
        (precision not in config.formats or weight_precision not in config.formats,
         Cause.UNSUPPORTED_FORMAT),
        (groups not in config.folds, Cause.UNSUPPORTED_FUNCTION),
        (runs > 1 and (pitch - length) % (config.residues * groups.groups) != 0,
         Cause.MISALIGNED_ADDRESS),
        (instruction["weights"] + lines > config.weight_lines, Cause.WEIGHT_RANGE),
        (instruction["accumulator"] + vector_count(instruction) > config.accumulator_depth,
         Cause.ACCUMULATOR_RANGE),
        (_last(instruction, "address", "stride_{}") + last_slot >= config.activation_slots,
         Cause.ACTIVATION_RANGE),
    )


def _means_nothing(precision: Precision, signed: bool, odd: bool = False) -> bool:
    """Whether these fields say of a precision what is not among its formats."""
    return (signed and not precision.is_integer) or (odd and not signed)


def _special_rules(config: CoreConfig, segments: Segments, instruction: Instruction) -> Rules:
    function, source = special_function(instruction), Source(instruction["source"])
    window = instruction["window_0"] * instruction["window_1"]
    used = {"source": function.source, "residual": function.residual,
            "output": None if function.reduce else function.output}
    precisions = {name: kind.precision for name, kind in used.items() if kind is not None}
    reads_rows = (source is Source.ROWS or instruction["row_scale"] or instruction["row_bias"])
    groups = Fold(instruction["fold"])
    vector = config.column_lanes // groups.groups
    rules = [
        (any(_means_nothing(p, bool(instruction[f"{name}_signed"]))
             for name, p in precisions.items()), Cause.ILLEGAL_INSTRUCTION),
        (function.pool is Pool.NONE and (window > 1 or function.reduce),
         Cause.ILLEGAL_INSTRUCTION),
        (function.residual is not None and function.function is not Function.NONE,
         Cause.ILLEGAL_INSTRUCTION),
        (groups is not Fold.ONE and (source is not Source.ACCUMULATORS or function.reduce),
         Cause.ILLEGAL_INSTRUCTION),
        (bool(instruction["upper"])
         and not any(p in config.halved_formats for p in precisions.values()),
         Cause.ILLEGAL_INSTRUCTION),
        (any(p not in config.formats for p in precisions.values())
         or (groups in config.folds[1:] and any(p.per_slot > vector for p in precisions.values()))
         or (source is Source.ACCUMULATORS and not (
             config.has_float if function.float_accumulator else config.has_integer)),
         Cause.UNSUPPORTED_FORMAT),
        (groups not in config.folds, Cause.UNSUPPORTED_FUNCTION),
        (not config.special_functions and (
            source is not Source.ACCUMULATORS or function.function is not Function.NONE
            or (function.residual is not None and function.product) or bool(reads_rows)
            or function.reduce), Cause.UNSUPPORTED_FUNCTION),
        (instruction["parameters"] % config.quarter != 0, Cause.MISALIGNED_ADDRESS),
        (instruction["parameters"] + config.column_lanes > config.parameter_columns,
         Cause.PARAMETER_RANGE),
        (source is Source.ACCUMULATORS
         and _last(instruction, "accumulator", "accumulator_stride_{}", "window_stride_{}")
         >= config.accumulator_depth, Cause.ACCUMULATOR_RANGE),
    ]
    for kind, first, stride, window_stride in (
            (function.source, "accumulator", "accumulator_stride_{}", "window_stride_{}"),
            (used["output"], "address", "stride_{}", ""),
            (function.residual, "residual_address", "residual_stride_{}",
             "residual_window_stride_{}")):
        if kind is not None:
            rules.append((_last(instruction, first, stride, window_stride)
                          + slots_of_vector(config, kind, groups) > config.activation_slots,
                          Cause.ACTIVATION_RANGE))
    for rows, first in ((reads_rows, "row"), (function.reduce, "reduced_row")):
        rules.append((bool(rows) and instruction[first] + _rows(instruction)
                      > config.row_scalars, Cause.ROW_RANGE))
    return rules


def operand_format(instruction: Instruction, name: str, bias: int, prefix: str = "") -> Format:
    """The format that the fields `prefix`precision and `name`_signed (and _odd) describe."""
    precision = Precision(instruction[f"{prefix}precision"])
    return Format(precision, not precision.is_integer or bool(instruction[f"{name}_signed"]),
                  name == "weight" and bool(instruction["weight_odd"]), bias)


def special_function(instruction: Instruction, bias: int = FORWARD_BIAS) -> SpecialFunction:
    def format_of(name: str) -> Format:
        return operand_format(instruction, name, bias, f"{name}_")

    source = Source(instruction["source"])
    return SpecialFunction(
        output=format_of("output"),
        float_accumulator=source is Source.ROWS or bool(instruction["float_accumulator"]),
        source=format_of("source") if source is Source.ACTIVATIONS else None,
        relu=bool(instruction["relu"]),
        clip=bool(instruction["clip"]),
        residual=format_of("residual") if instruction["residual"] else None,
        product=bool(instruction["product"]),
        function=Function(instruction["function"]),
        pool=Pool(instruction["pool"]),
        reduce=bool(instruction["reduce"]))


def slots_of_vector(config: CoreConfig, elements: Format, groups: Fold) -> int:
    """Slots of one vector of the array's outputs, or of those of a group, that it touches."""
    return -(-config.column_lanes // groups.groups // elements.precision.per_slot)


def loop_counts(instruction: Instruction) -> list[int]:
    return [instruction[f"count_{i}"] for i in range(3)]


def window_counts(instruction: Instruction) -> list[int]:
    return [instruction[f"window_{i}"] for i in range(2)]


def vector_count(instruction: Instruction) -> int:
    return int(np.prod(loop_counts(instruction), dtype=object))


def _rows(instruction: Instruction) -> int:
    """Row scalars that a SPECIAL takes or makes."""
    return instruction["count_0"] * instruction["count_1"]


def _last(instruction: Instruction, first: str, stride: str, window_stride: str = "") -> int:
    """The address of the last iteration of all loops."""
    last = instruction[first]
    for i, count in enumerate(loop_counts(instruction)):
        last += (count - 1) * instruction[stride.format(i)]
    if window_stride:
        for i, count in enumerate(window_counts(instruction)):
            last += (count - 1) * instruction[window_stride.format(i)]
    return last
