"""The instruction set: one table, from which everything that speaks it comes.

`INSTRUCTIONS` is the only place where an instruction, a field, its position or its meaning is
written down. The encoder, the decoder, the assembler and the disassembler below, the RTL decoder
(`ulpcore.decoder`) and `docs/instruction-set.md` are derived from it.

An instruction is one word of 512 bits (64 bytes, little-endian). Its first 32 bits are the same
for all: the opcode, how many tokens to take from each unit before starting, and to which units to
give one when done. The fields follow without gaps in the order of the table; the rest is zero.
"""

import dataclasses
import enum
import re
from collections.abc import Iterable, Sequence

from .formats import Precision
from .interconnect.collective import Operation

__all__ = [
    "HEADER",
    "INDEX_BITS",
    "INSTRUCTIONS",
    "INSTRUCTION_BITS",
    "INSTRUCTION_BYTES",
    "MOST_INSTRUCTIONS",
    "OPCODES",
    "Cause",
    "Field",
    "Fold",
    "Function",
    "Instruction",
    "InstructionType",
    "Pool",
    "Segment",
    "Source",
    "Target",
    "Unit",
    "assemble",
    "decode",
    "decode_program",
    "disassemble",
    "documentation",
    "encode",
    "encode_program",
]

INSTRUCTION_BITS = 512
INSTRUCTION_BYTES = INSTRUCTION_BITS // 8
#: Bits of an instruction's place in a program, and the most instructions that one can have.
INDEX_BITS = 20
MOST_INSTRUCTIONS = (1 << INDEX_BITS) - 1


class Unit(enum.Enum):
    """The units that run instructions, each in its own queue's order.

    A core has the first four; EXCHANGE is an option (`CoreConfig.units`).
    """

    LOAD = 0
    EXECUTE = 1
    SPECIAL = 2
    STORE = 3
    EXCHANGE = 4


class Target(enum.Enum):
    """Memories that LOAD can write."""

    ACTIVATIONS = 0
    WEIGHTS = 1
    PARAMETERS = 2


class Segment(enum.Enum):
    """Regions of external memory, each a base and a size in the core's registers."""

    PARAMETERS = 0
    INPUT = 1
    OUTPUT = 2
    WORKSPACE = 3


class Pool(enum.Enum):
    """What the special-function unit does with the elements of a window."""

    NONE = 0
    MAXIMUM = 1
    SUM = 2


class Source(enum.Enum):
    """Where the special-function unit takes its elements from."""

    ACCUMULATORS = 0
    ACTIVATIONS = 1
    ROWS = 2


class Function(enum.Enum):
    """Functions of the special-function unit; EXPONENTIAL is two to the power of its argument."""

    NONE = 0
    SIGMOID = 1
    TANH = 2
    EXPONENTIAL = 3
    RECIPROCAL = 4
    RECIPROCAL_SQUARE_ROOT = 5


class Fold(enum.Enum):
    """Groups that the columns of the array form, each with a part of K of its own; see `fold`."""

    ONE = 0
    TWO = 1
    FOUR = 2

    @property
    def groups(self) -> int:
        return 1 << self.value


class Cause(enum.Enum):
    """Why the core stopped; the value is what the cause register holds."""

    NONE = 0
    ILLEGAL_INSTRUCTION = 1
    PROGRAM_LENGTH = 2
    MISALIGNED_ADDRESS = 3
    ACTIVATION_RANGE = 4
    WEIGHT_RANGE = 5
    PARAMETER_RANGE = 6
    ACCUMULATOR_RANGE = 7
    SEGMENT_RANGE = 8
    SEGMENT_READ_ONLY = 9
    UNSUPPORTED_FORMAT = 10
    BUS_SLAVE_ERROR = 11
    BUS_DECODE_ERROR = 12
    TOKEN_OVERFLOW = 13
    DEADLOCK = 14
    WATCHDOG = 15
    UNSUPPORTED_FUNCTION = 16
    ROW_RANGE = 17
    COMPRESSION = 18
    COLLECTIVE = 19


@dataclasses.dataclass(frozen=True)
class Field:
    """One field: an unsigned number of `width` bits, or a member of `choices`.

    One that is left out has its `least` value, or that of the field `like`.
    """

    name: str
    width: int
    meaning: str
    least: int = 0
    choices: type[enum.Enum] | None = None
    like: str | None = None


@dataclasses.dataclass(frozen=True)
class InstructionType:
    """One row of the table."""

    name: str
    opcode: int
    unit: Unit | None
    meaning: str
    fields: tuple[Field, ...] = ()

    def layout(self) -> dict[str, tuple[int, int]]:
        """(first bit, width) of every field, the header's included."""
        positions, first = {}, 0
        for field in (*HEADER, *self.fields):
            positions[field.name] = (first, field.width)
            first += field.width
        return positions


def _token_fields(units: Iterable[Unit]) -> Iterable[Field]:
    for u in units:
        yield Field(f"wait_{u.name.lower()}", 4,
                    f"tokens to take from the {u.name.lower()} unit before starting")
    for u in units:
        yield Field(f"post_{u.name.lower()}", 1,
                    f"give the {u.name.lower()} unit a token when done")


_BASIC_UNITS = tuple(unit for unit in Unit if unit is not Unit.EXCHANGE)
HEADER = (
    Field("opcode", 4, "which instruction this is"),
    *_token_fields(_BASIC_UNITS),
    # Reserved bits of a core without this unit.
    *_token_fields((Unit.EXCHANGE,)),
    Field("reserved", 3, "must be zero"),
)

_LAYER = (
    Field("layer", 12, "number of the layer"),
    Field("step", 10, "register STEP plus this, modulo 1024, is the number of the step"))
_GRADIENT = (
    Field("elements", 32, "elements of the layer", least=1),
    Field("gradient_segment", 2, "segment of the gradient", choices=Segment),
    Field("gradient", 32, "first byte of the gradient"))
_BUFFER = (
    Field("buffer_segment", 2, "segment of the packets", choices=Segment),
    Field("buffer", 32, "first byte of the packets' buffer"),
    Field("capacity", 32, "bytes of a learner's buffer"))

_LOOPS = tuple(Field(f"count_{i}", 12, f"iterations of output loop {i} (0 is the outermost)",
                     least=1) for i in range(3))

INSTRUCTIONS = (
    InstructionType("HALT", 0, None, "End of the program: wait until every unit is idle, then "
                    "report done."),
    InstructionType(
        "LOAD", 1, Unit.LOAD,
        "Copy `rows` rows of `length` slots from external memory to a scratchpad. Row i starts at "
        "byte `offset + i * source_pitch` of the segment and goes to slot `address + i * pitch`. "
        "Offset and source pitch are multiples of the bus width. For the weights, address, length "
        "and pitch are multiples of a line (columns x lanes slots); for the parameters, of a "
        "column (8 slots: scale, bias, residual scale and upper bound, FP32 each, or on a core "
        "without floating point integers) times a quarter of the outputs (columns x lanes).",
        (Field("target", 2, "memory to write", choices=Target),
         Field("segment", 2, "segment to read", choices=Segment),
         Field("offset", 32, "first byte in the segment"),
         Field("source_pitch", 32, "bytes from row to row in the segment"),
         Field("rows", 16, "number of rows", least=1),
         Field("length", 20, "slots in a row", least=1),
         Field("address", 20, "first slot in the target"),
         Field("pitch", 20, "slots from row to row in the target"))),
    InstructionType(
        "FILL", 2, Unit.LOAD,
        "Write zero to `rows` rows of `length` slots of the activation scratchpad; row i starts "
        "at slot `address + i * pitch`.",
        (Field("rows", 16, "number of rows", least=1),
         Field("length", 20, "slots in a row", least=1),
         Field("address", 20, "first slot"),
         Field("pitch", 20, "slots from row to row"))),
    InstructionType(
        "MATMUL", 3, Unit.EXECUTE,
        "Multiply activations by weights into the accumulators. For every output vector (i0, i1, "
        "i2) with m = (i0 * count_1 + i1) * count_2 + i2: accumulator[accumulator + m] = (its old "
        "value if `accumulate`, else 0) + sum over k < depth of activation slot (address + sum of "
        "i * stride + (k div run_length) * run_pitch + k mod run_length) times weight line "
        "(weights + k div ratio), of whose slots part k mod ratio counts, from the lowest bits on. "
        "The ratio is that of the bits of an activation and of a weight: weights are of the "
        "activations' precision, or of narrower integers or BINARY beside integers; FP8 goes with "
        "FP8 of either kind. K is taken in tiles of `rows` slots; lines of the last tile beyond "
        "depth are not multiplied. With more than one run, run_pitch - run_length must be a "
        "multiple of 8. With `fold` the columns form 2 or 4 groups, F, and K is taken in tiles of "
        "F x rows slots: the columns of group g multiply slots g * rows to (g + 1) * rows - 1 of "
        "each, and a group's own slots, counted in order, take the place of k in what is said of "
        "weight lines. run_pitch - run_length must then be a multiple of 8 F.",
        (Field("precision", 4, "precision of the activations", choices=Precision),
         Field("weight_precision", 4, "precision of the weights", choices=Precision,
               like="precision"),
         Field("activation_signed", 1, "activations are signed (0 if they are not integers)"),
         Field("weight_signed", 1, "weights are signed (0 if they are not integers)"),
         Field("weight_odd", 1, "a weight's code c stands for 2 c + 1 (signed integers only)"),
         Field("accumulate", 1, "add to what the accumulators hold"),
         Field("depth", 16, "slots along K", least=1),
         Field("weights", 20, "first line in the weight scratchpad"),
         Field("address", 20, "first activation slot"),
         Field("run_length", 16, "activation slots in one contiguous run", least=1),
         Field("run_pitch", 20, "slots from run to run"),
         *_LOOPS,
         *(Field(f"stride_{i}", 20, f"slots from one iteration of loop {i} to the next")
           for i in range(3)),
         Field("accumulator", 12, "first accumulator"),
         Field("fold", 2, "groups of columns", choices=Fold))),
    InstructionType(
        "SPECIAL", 4, Unit.SPECIAL,
        "Take elements through the special functions to the activation scratchpad. For every "
        "output vector (i0, i1, i2), with r = i0 * count_1 + i1, and every element of its window "
        "(j0, j1): the source, which is an accumulator or a slot at "
        "accumulator + sum of i * accumulator_stride + sum of j * window_stride, or row scalar "
        "row + r for all columns, converted to FP32; times the column's scale, plus its bias (row "
        "scalar row + r in the place of either, if `row_scale`, `row_bias`). Then, if `residual`, "
        "the element at residual_address + sum of i * residual_stride + sum of j * "
        "residual_window_stride, times the residual scale, is added; with `product` the result is "
        "multiplied by that element instead. Or, without a residual, the function is taken. "
        "Then ReLU, the upper bound, and the pool over the window. The result is converted to the "
        "output format and written to slots address + sum of i * stride; or, with `reduce`, the "
        "columns are combined as the pool combines elements, (0 with 1) with (2 with 3), and so "
        "on, and the FP32 result becomes row scalar reduced_row + r. With `fold` the groups' "
        "accumulators are added first, the first column of each, the second of each, and so on: "
        "all that follows, residual and result too, has the columns of one group. Where a slot "
        "holds twice as many elements as the array has outputs, the vector is its lower half, and "
        "a result's upper half becomes 0; with `upper` it is the upper half, and the lower one "
        "stays.",
        (Field("float_accumulator", 1, "the accumulators hold FP32, not INT32"),
         Field("relu", 1, "maximum with 0"),
         Field("clip", 1, "minimum with the column's upper bound"),
         Field("residual", 1, "add the residual, or multiply by it"),
         Field("pool", 2, "what to do over the window (NONE only with a window of one element)",
               choices=Pool),
         Field("output_precision", 4, "precision of the result", choices=Precision),
         Field("output_signed", 1, "result is signed (0 if it is no integer)"),
         Field("residual_precision", 4, "precision of the residual", choices=Precision),
         Field("residual_signed", 1, "residual is signed (0 if it is no integer)"),
         Field("parameters", 12, "first column in the parameter memory, a multiple of a "
               "quarter of the outputs"),
         Field("accumulator", 20, "first accumulator, or slot of the source"),
         *_LOOPS,
         Field("window_0", 8, "rows of the window", least=1),
         Field("window_1", 8, "columns of the window", least=1),
         *(Field(f"accumulator_stride_{i}", 20, f"accumulators, or slots, from one iteration of "
                 f"loop {i} to the next") for i in range(3)),
         *(Field(f"window_stride_{i}", 20, f"accumulators, or slots, from one step of window loop "
                 f"{i} to the next") for i in range(2)),
         Field("address", 20, "first output slot"),
         *(Field(f"stride_{i}", 20, f"output slots from one iteration of loop {i} to the next")
           for i in range(3)),
         Field("residual_address", 20, "first residual slot"),
         *(Field(f"residual_stride_{i}", 20, f"residual slots from one iteration of loop {i} to "
                 "the next") for i in range(3)),
         *(Field(f"residual_window_stride_{i}", 20, f"residual slots from one step of window loop "
                 f"{i} to the next") for i in range(2)),
         Field("source", 2, "where the elements come from", choices=Source),
         Field("source_precision", 4, "precision of a source in the scratchpad",
               choices=Precision),
         Field("source_signed", 1, "such a source is signed (0 if it is no integer)"),
         Field("product", 1, "multiply by the residual"),
         Field("function", 4, "function (NONE with a residual)", choices=Function),
         Field("row_scale", 1, "scale by the row scalar"),
         Field("row_bias", 1, "add the row scalar as bias"),
         Field("reduce", 1, "combine the columns to a row scalar (with a pool only)"),
         Field("row", 12, "first row scalar to read"),
         Field("reduced_row", 12, "first row scalar to write"),
         Field("fold", 2, "groups of columns that are added (ONE with another source or `reduce`)",
               choices=Fold),
         Field("upper", 1, "of slots that vectors fill by halves, the upper one (0 if there is "
               "none)"))),
    InstructionType(
        "STORE", 5, Unit.STORE,
        "Copy `rows` rows of `length` slots from the activation scratchpad to external memory. "
        "Row i starts at slot `address + i * pitch` and goes to byte `offset + i * target_pitch` "
        "of the segment. Offset and target pitch are multiples of the bus width; so is the row's "
        "length.",
        (Field("segment", 2, "segment to write: OUTPUT or WORKSPACE", choices=Segment),
         Field("offset", 32, "first byte in the segment"),
         Field("target_pitch", 32, "bytes from row to row in the segment"),
         Field("rows", 16, "number of rows", least=1),
         Field("length", 20, "slots in a row", least=1),
         Field("address", 20, "first slot in the scratchpad"),
         Field("pitch", 20, "slots from row to row in the scratchpad"))),
    InstructionType(
        "COMPRESS", 6, Unit.EXCHANGE,
        "Pass one step of a layer through AdaComp, from memory to memory: gradient and residue to "
        "packets and the new residue, as docs/compression.md has it. Packets go to the beginning "
        "of the buffer or, with `append`, behind those of the COMPRESS before. Residue and buffer "
        "lie in OUTPUT or WORKSPACE; what is an address, and the capacity, is a multiple of the "
        "bus width.",
        (Field("append", 1, "packets go behind those of the COMPRESS before"),
         Field("exact", 1, "the scale is the mean of this step: two passes"),
         Field("choose", 1, "choose elements for CLT-k; all stay in the residue"),
         Field("dlfloat16", 1, "gradients are codes of DLFloat16, else FP32"),
         *_LAYER,
         Field("learner", 10, "number of the learner"),
         *_GRADIENT,
         Field("residue_segment", 2, "segment of the residue", choices=Segment),
         Field("residue", 32, "first byte of the residue"),
         *_BUFFER,
         Field("bin_size", 15, "elements of a bin"),
         Field("factor", 5, "soft threshold in quarters"),
         Field("point", 8, "a unit of the residue is 2^-point (two's complement)"),
         Field("scale", 32, "scale, FP32, without `exact`"))),
    InstructionType(
        "DECODE", 7, Unit.EXCHANGE,
        "Add the packets of a layer of all learners, in their order, to a dense FP32 gradient in "
        "OUTPUT or WORKSPACE. Packets are at the beginning of the learners' buffers or, with "
        "`append`, behind the layer of the DECODE before. What is an address, the capacity and "
        "the pitch are multiples of the bus width.",
        (Field("append", 1, "go on behind the layer of the DECODE before"),
         Field("clear", 1, "zeros to the gradient first"),
         *_LAYER,
         Field("learner", 10, "number of the first learner"),
         Field("last_learner", 10, "number of the last learner"),
         *_GRADIENT, *_BUFFER,
         Field("pitch", 32, "bytes from a learner's buffer to the next one's"))),
    InstructionType(
        "COLLECTIVE", 8, Unit.EXCHANGE,
        "Exchange memory with the other nodes of the network, as docs/cluster.md has it. All "
        "nodes must say the same operation, round and root. The region lies in OUTPUT or "
        "WORKSPACE; address, pitch and table are multiples of the bus width.",
        (Field("operation", 2, "what to do", choices=Operation),
         Field("packed", 1, "`bytes` are those that the COMPRESS before has put into its buffer "
               "(ALL_GATHER and BROADCAST)"),
         Field("round", 6, "register ROUND plus this, modulo 64, is the number of the round"),
         Field("root", 8, "BROADCAST: whose region it is"),
         Field("segment", 2, "segment of the region and of the table", choices=Segment),
         Field("address", 32, "first byte of the buffers, vector or region"),
         Field("bytes", 32, "bytes of this node's chunk, of the vector, or of the root's region"),
         Field("pitch", 32, "bytes from a buffer or piece to the next one, or of the region"),
         Field("table", 32, "ALL_GATHER: first byte of the table of lengths"),
         Field("patience", 32, "cycles without progress after which the instruction fails"))),
)
OPCODES = {row.opcode: row for row in INSTRUCTIONS}
_BY_NAME = {row.name: row for row in INSTRUCTIONS}


class Instruction:
    """One instruction: a row of the table with values for its fields.

    Parameters
    ----------
    name
        A name of the table.
    values
        Field values; integers, or members of the field's choices. What is left out has
        the field's least value, or that of the field that it is `like`.

    Raises
    ------
    ValueError
        For an unknown instruction or field, or a value that the field cannot hold.
    """

    def __init__(self, name: str, **values: int | enum.Enum) -> None:
        if name not in _BY_NAME:
            raise ValueError(f"instruction must be one of {', '.join(_BY_NAME)}, not {name!r}")
        self.type = _BY_NAME[name]
        self.values: dict[str, int] = {}
        fields = {f.name: f for f in (*HEADER, *self.type.fields)
                  if f.name not in ("opcode", "reserved")}
        for key in values:
            if key not in fields:
                raise ValueError(f"{name} has no field {key!r}; it has {', '.join(fields)}")
        for key, field in fields.items():
            left_out = self.values[field.like] if field.like else field.least
            self.values[key] = _field_value(name, field, values.get(key, left_out))

    @property
    def name(self) -> str:
        return self.type.name

    @property
    def unit(self) -> Unit | None:
        return self.type.unit

    def __getitem__(self, field: str) -> int:
        return self.values[field]

    def choice(self, field: str) -> enum.Enum:
        """The member of its enumeration that the field holds."""
        row = next(f for f in self.type.fields if f.name == field)
        assert row.choices is not None
        return row.choices(self.values[field])

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Instruction) and self.type is other.type
                and self.values == other.values)

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.values.items())))

    def __repr__(self) -> str:
        return disassemble([self])


def _field_value(name: str, field: Field, value: int | enum.Enum) -> int:
    if isinstance(value, enum.Enum):
        if field.choices is None or not isinstance(value, field.choices):
            raise ValueError(f"{name}.{field.name} must be a number, not {value!r}")
        number: int = value.value
    else:
        number = int(value)
    if not field.least <= number < 1 << field.width:
        raise ValueError(f"{name}.{field.name} must be from {field.least} to "
                         f"{(1 << field.width) - 1}, not {number}")
    if field.choices is not None and number not in [c.value for c in field.choices]:
        names = ", ".join(f"{c.value} ({c.name})" for c in field.choices)
        raise ValueError(f"{name}.{field.name} must be one of {names}, not {number}")
    return number


def encode(instruction: Instruction) -> bytes:
    """The 64 bytes of one instruction."""
    word = instruction.type.opcode
    for field, (first, _) in instruction.type.layout().items():
        if field not in ("opcode", "reserved"):
            word |= instruction.values[field] << first
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def decode(data: bytes, units: Iterable[Unit] = tuple(Unit)) -> Instruction:
    """The instruction in 64 bytes, on a core with these units.

    Raises ValueError, naming what is wrong, for a wrong length, an unknown opcode, a field out of
    its range or a reserved bit that is set, those of tokens of a unit that is not there among them:
    exactly the words at which the hardware stops with ILLEGAL_INSTRUCTION.
    """
    if len(data) != INSTRUCTION_BYTES:
        raise ValueError(f"an instruction must be {INSTRUCTION_BYTES} bytes, not {len(data)}")
    word = int.from_bytes(data, "little")
    opcode = word & 0xF
    missing = set(Unit) - set(units)
    opcodes = [row.opcode for row in INSTRUCTIONS if row.unit not in missing]
    if opcode not in opcodes:
        raise ValueError(f"opcode must be one of {', '.join(map(str, opcodes))}, not {opcode}")
    row = OPCODES[opcode]
    reserved = {"reserved", *(field.name for field in _token_fields(missing))}
    values, used = {}, 0
    for field, (first, width) in row.layout().items():
        mask = (1 << width) - 1
        if field not in reserved:
            used |= mask << first
        if field not in ("opcode", "reserved"):
            values[field] = (word >> first) & mask
    if word & ~used:
        raise ValueError(f"reserved bits of {row.name} must be zero, not {word & ~used:#x}")
    return Instruction(row.name, **values)


def encode_program(program: Iterable[Instruction]) -> bytes:
    """All instructions' bytes, one after the other."""
    return b"".join(map(encode, program))


def decode_program(data: bytes) -> list[Instruction]:
    """The instructions in `data`; ValueError names the index of one that is malformed."""
    if len(data) % INSTRUCTION_BYTES:
        raise ValueError(f"a program must be a multiple of {INSTRUCTION_BYTES} bytes, "
                         f"not {len(data)}")
    program = []
    for first in range(0, len(data), INSTRUCTION_BYTES):
        try:
            program.append(decode(data[first:first + INSTRUCTION_BYTES]))
        except ValueError as error:
            raise ValueError(f"instruction {first // INSTRUCTION_BYTES}: {error}") from error
    return program


def disassemble(program: Sequence[Instruction]) -> str:
    """One line an instruction: its name and each field that differs from its least value."""
    lines = []
    for instruction in program:
        words = [instruction.name]
        for field in (*HEADER, *instruction.type.fields):
            value = instruction.values.get(field.name, field.least)
            if field.choices is not None:
                words.append(f"{field.name}={field.choices(value).name}")
            elif value != field.least:
                words.append(f"{field.name}={value}")
        lines.append(" ".join(words))
    return "\n".join(lines)


def assemble(text: str) -> list[Instruction]:
    """The program written in `text`, in the form that `disassemble` prints.

    Numbers may be decimal or 0x hexadecimal; `#` starts a comment. ValueError names the line.
    """
    program = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            program.append(_assemble_line(words))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return program


def _assemble_line(words: list[str]) -> Instruction:
    name = words[0].upper()
    if name not in _BY_NAME:
        raise ValueError(f"instruction must be one of {', '.join(_BY_NAME)}, not {words[0]!r}")
    fields = {f.name: f for f in (*HEADER, *_BY_NAME[name].fields)}
    values: dict[str, int | enum.Enum] = {}
    for word in words[1:]:
        match = re.fullmatch(r"(\w+)=(\w+)", word)
        if not match:
            raise ValueError(f"a field must be written name=value, not {word!r}")
        key, text = match.groups()
        if key in values:
            raise ValueError(f"{name}.{key} must stand once")
        choices = fields[key].choices if key in fields else None
        if choices is not None and text in choices.__members__:
            values[key] = choices[text]
        else:
            try:
                values[key] = int(text, 0)
            except ValueError:
                allowed = f"a number or one of {', '.join(choices.__members__)}" if choices else \
                    "a number"
                raise ValueError(f"{name}.{key} must be {allowed}, not {text!r}") from None
    return Instruction(name, **values)


def documentation() -> str:
    """The instruction set as Markdown, for `docs/instruction-set.md`."""
    lines = [
        "# Instruction set",
        "",
        "Printed by `ulpcore instructions` from the table in `sim/ulpsim/isa.py`.",
        "",
        f"An instruction is {INSTRUCTION_BITS} bits ({INSTRUCTION_BYTES} bytes, little-endian). "
        "Fields stand one after the other without gaps; all bits after the last are zero. A word "
        "with an unknown opcode, a field out of its range or a reserved bit set stops the core "
        "with ILLEGAL_INSTRUCTION.",
        "",
        "## Header, the same for every instruction",
        "",
        *_field_table(HEADER, 0),
        "",
        "On a core without an exchange unit (`exchange` of its configuration is 0) the fields of "
        "its tokens are reserved bits, and its instructions unknown opcodes.",
    ]
    header_bits = sum(f.width for f in HEADER)
    for row in INSTRUCTIONS:
        unit = f"the {row.unit.name.lower()} unit" if row.unit else "the sequencer"
        lines += ["", f"## {row.name} (opcode {row.opcode}), run by {unit}", "", row.meaning]
        if row.fields:
            lines += ["", *_field_table(row.fields, header_bits)]
    lines += ["", "## Causes", "", "| code | cause |", "|---|---|"]
    lines += [f"| {c.value} | {c.name} |" for c in Cause]
    return "\n".join(lines) + "\n"


def _field_table(fields: Iterable[Field], first: int) -> list[str]:
    lines = ["| bits | field | meaning |", "|---|---|---|"]
    for field in fields:
        last = first + field.width - 1
        bits = f"{last}:{first}" if field.width > 1 else f"{first}"
        meaning = field.meaning
        if field.choices is not None:
            meaning += ": " + ", ".join(f"{c.value} {c.name}" for c in field.choices)
        elif field.least:
            meaning += f" (at least {field.least})"
        lines.append(f"| {bits} | `{field.name}` | {meaning} |")
        first += field.width
    return lines
