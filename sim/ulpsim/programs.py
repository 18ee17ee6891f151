"""Random programs, for regressions of the hardware against the interpreter.

`random_program` draws a small network, compiles it (for a core like the given one, but at times
with less memory, so that weights are streamed and K is cut) and puts extreme numbers among its
weights and parameters; or it draws single instructions with any fields that the core accepts.
Programs end within a few thousand cycles and never read what they have not written, so that what
they leave in external memory does not depend on what ran before.

`covering_programs` draws programs of both kinds until they hit every bin of `coverage`.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import fp8
from .compiler import CompileError, compile_network
from .config import SLOT_BYTES, CoreConfig
from .coverage import Bin, bins_of, crosses, instruction_bins, network_bins, required
from .cycles_special import special_cycles
from .formats import FORMATS, FORWARD_BIAS, Format, Precision, multipliable
from .isa import Cause, Fold, Function, Instruction, Pool, Segment, Source, Target, encode_program
from .network import Network, Shape
from .rules import PARAMETER_SLOTS, check
from .tokens import Memory, accesses, with_tokens

__all__ = ["RandomProgram", "covering_programs", "random_network", "random_program"]

#: Codes of DLFloat16 at the edges: zeros, NaN-Inf, smallest, largest, one, next to one.
_EDGE_CODES = (0x0000, 0x8000, 0x7FFF, 0xFFFF, 0x0001, 0x8001, 0x7FFE, 0xFFFE, 0x3E00, 0x3DFF,
               0x0200, 0x7E00)
#: Codes of FP8 at the edges: zeros, NaN-Inf, smallest, largest.
_FP8_EDGE_CODES = (0x00, 0x80, 0x7F, 0xFF, 0x01, 0x81, 0x7E, 0xFE)
_PAGE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class RandomProgram:
    """A program with the external memory that it runs beside.

    `memory` holds bytes from address `base` on: first the program, then the segments, whose
    (address, size) are in `segments`. `forward_bias` is for the register FORWARD_BIAS. `network` is
    what it was compiled from, if it was.
    """

    description: str
    program: list[Instruction]
    base: int
    memory: NDArray[np.uint8]
    segments: dict[Segment, tuple[int, int]]
    forward_bias: int = FORWARD_BIAS
    network: Network | None = None

    def bins(self, config: CoreConfig) -> set[Bin]:
        """The bins of `coverage` that it hits."""
        return bins_of(config, self.program, self.segments, self.network)


def random_program(seed: int, config: CoreConfig, base: int = 0) -> RandomProgram:
    """The program that belongs to a seed; the same for the same core.

    `base` is the address at which its memory starts, a multiple of 64.
    """
    if base % _PAGE:
        raise ValueError(f"base must be a multiple of {_PAGE}, not {base}")
    rng = np.random.default_rng(seed)
    if rng.random() < 0.6:
        return _network_program(rng, config, base)
    return _instruction_program(rng, config, base)


def covering_programs(seed: int, config: CoreConfig, base: int = 0, *,
                      instructions_alone: bool = False) -> list[RandomProgram]:
    """Random programs, one after the other in memory, that hit every bin of `coverage`.

    With `instructions_alone` those that need neither networks nor several programs are enough.

    Raises RuntimeError, naming the bins, if some cannot be drawn.
    """
    rng = np.random.default_rng([seed, 2])
    programs: list[RandomProgram] = []
    found: set[Bin] = set()
    alone, every = ([(group, values) for group, bins in required(
        config, instructions_alone=only).items() for values in bins] for only in (True, False))

    def missing(bins: list[Bin]) -> list[Bin]:
        return [one for one in bins if one not in found]

    def add(program: RandomProgram) -> None:
        nonlocal base
        programs.append(program)
        found.update(program.bins(config))
        base += len(program.memory)

    while wanted := missing(alone):
        add(_InstructionWriter(rng, config).write(base, wanted))
    if instructions_alone:
        return programs
    # What is left comes by chance: networks of certain shapes, tokens, places in memory.
    for _ in range(4000):
        wanted = missing(every)
        if not wanted:
            return programs
        network = random_network(rng, config)
        if not found.issuperset(network_bins(network)):
            program = _compiled(rng, network, config, config, base)
            if program is not None:
                add(program)
        elif not any(group.startswith("networks") for group, _ in wanted):
            add(_instruction_program(rng, config, base))
    raise RuntimeError(f"no random program has {', '.join(map(str, missing(every)))}")


def _place(description: str, program: list[Instruction], contents: dict[Segment, bytes],
           base: int, forward_bias: int, network: Network | None = None) -> RandomProgram:
    parts = [encode_program(program), *(contents.get(segment, b"") for segment in Segment)]
    addresses, end = [], base
    for part in parts:
        addresses.append(end)
        end += -(-len(part) // _PAGE) * _PAGE
    memory = np.zeros(end - base, np.uint8)
    for address, part in zip(addresses, parts, strict=True):
        memory[address - base:address - base + len(part)] = np.frombuffer(part, np.uint8)
    segments = {segment: (address, len(part)) for segment, address, part
                in zip(Segment, addresses[1:], parts[1:], strict=True)}
    return RandomProgram(description, program, base, memory, segments, forward_bias, network)


# --- networks

def _network_program(rng: np.random.Generator, config: CoreConfig, base: int) -> RandomProgram:
    smaller = config
    if rng.random() < 0.5:
        depth = max(64, 1 << (2 * config.minimum_tile_period - 1).bit_length())
        smaller = dataclasses.replace(
            config, weight_bytes=min(config.weight_bytes, 1024 << int(rng.integers(3))),
            accumulator_depth=min(config.accumulator_depth, depth << int(rng.integers(2))),
            parameter_columns=min(config.parameter_columns,
                                  config.column_lanes << int(rng.integers(3))))
    for _ in range(100):
        program = _compiled(rng, random_network(rng, config), smaller, config, base)
        if program is not None:
            return program
    raise RuntimeError("no random network fits this core")


def _compiled(rng: np.random.Generator, network: Network, smaller: CoreConfig, config: CoreConfig,
              base: int) -> RandomProgram | None:
    """The program of a network; None if it cannot be compiled, or runs for too long."""
    try:
        compiled = compile_network(network, smaller, int(rng.integers(1, 4)))
    except CompileError:
        return None
    if _work(compiled.program, config) > 2400:
        return None
    images = random_codes(rng, network.input.format, (compiled.batch, *network.input_shape))
    parameters = np.frombuffer(compiled.parameters, "<u2").copy()
    if rng.random() < 0.5:
        # Zeros stay: they are what padding rests on.
        chosen = (rng.random(len(parameters)) < 0.02) & (parameters != 0)
        parameters[chosen] = np.where(rng.random(chosen.sum()) < 0.5,
                                      rng.choice(_EDGE_CODES, chosen.sum()),
                                      rng.integers(0, 1 << 16, chosen.sum()))
    contents = {Segment.PARAMETERS: parameters.tobytes(),
                Segment.INPUT: compiled.pack_input(images),
                Segment.OUTPUT: b"\xa5" * compiled.segment_bytes[Segment.OUTPUT]}
    operators = "+".join(layer.op for layer in network.layers)
    return _place(f"network of {operators}", compiled.program, contents, base,
                  compiled.forward_bias, network)


def _work(program: list[Instruction], config: CoreConfig) -> int:
    """About how many cycles the busiest unit works."""
    work: dict[Any, int] = {}
    for i in program:
        cycles = 0
        if i.name in ("MATMUL", "SPECIAL"):
            vectors = i["count_0"] * i["count_1"] * i["count_2"]
            if i.name == "MATMUL":
                cycles = -(-i["depth"] // config.rows) * max(vectors, config.minimum_tile_period)
            else:
                cycles = special_cycles(config, i, 0)
        elif i.name != "HALT":
            cycles = i["rows"] * -(-i["length"] // config.bus_slots)
        work[i.unit] = work.get(i.unit, 0) + cycles
    return max(work.values())


def random_codes(rng: np.random.Generator, kind: Format, shape: Any) -> NDArray[np.int64]:
    """Codes of a format: any; in floating point mostly magnitudes near one, at times with a few
    edges."""
    if not kind.precision.is_float:
        return rng.integers(kind.lowest, kind.highest + 1, shape)
    if kind.precision.is_fp8:
        spec = fp8.of(kind)
        exponents = spec.bias + rng.integers(-5, 5, shape)
        codes = rng.integers(0, 2, shape) << 7 \
            | exponents.clip(0, (1 << spec.exponent_bits) - 1) << spec.fraction_bits \
            | rng.integers(0, 1 << spec.fraction_bits, shape)
        edges = (rng.random(shape) < rng.choice([0.0, 0.01])) | (codes & fp8.NAN == fp8.NAN)
        return np.where(edges, rng.choice(_FP8_EDGE_CODES, shape), codes)
    codes = rng.integers(0, 2, shape) << 15 | rng.integers(26, 36, shape) << 9 \
        | rng.integers(0, 512, shape)
    edges = rng.random(shape) < rng.choice([0.0, 0.01])
    return np.where(edges, rng.choice(_EDGE_CODES, shape), codes)


def random_network(rng: np.random.Generator, config: CoreConfig) -> Network:
    """A small network over the core's formats: every operator, shapes that divide nothing.

    BINARY is among the weights, not among the tensors, whose shapes it would have to suit.
    Raises ValueError for a core that has no other format.
    """
    return _NetworkWriter(rng, config).write()


class _NetworkWriter:
    """Draws layers, keeping account of the stored tensors that later ones may read."""

    def __init__(self, rng: np.random.Generator, config: CoreConfig) -> None:
        self.rng = rng
        self.precisions = config.formats
        self.tensors = [p for p in config.formats if p is not Precision.BINARY]
        if not self.tensors:
            raise ValueError("formats of a core for random networks must name one that their "
                             f"tensors can have, not BINARY alone as {config.name!r}")
        self.bias = FORWARD_BIAS
        if Precision.E4M3 in config.formats and self.chance(0.5):
            self.bias = int(rng.integers(4, 16))
        self.layers: list[dict[str, Any]] = []
        self.stored: list[tuple[str, Shape, Format, float]] = []

    def format(self) -> Format:
        precision = self.tensors[self.rng.integers(len(self.tensors))]
        return Format(precision, not precision.is_integer or self.chance(0.5), bias=self.bias)

    def weight_format(self, activations: Precision, any_format: bool) -> Format:
        """One whose weights can be multiplied by such activations; if not any, one with a zero."""
        partners = [p for p in self.precisions if multipliable(activations, p)
                    and (any_format or p is not Precision.BINARY)]
        precision = partners[self.rng.integers(len(partners))]
        signed = not precision.is_integer or self.chance(0.5)
        odd = any_format and precision.is_integer and signed and self.chance(0.3)
        return Format(precision, signed, odd, self.bias)

    def usual(self, kind: Format) -> float:
        """A number of usual magnitude, that even many times over has a code."""
        if kind.precision is Precision.E4M3:
            return 2.0 ** (12 - kind.bias)
        return 4.0 if kind.precision.is_float else kind.highest / 2

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def write(self) -> Network:
        rng = self.rng
        height, width, channels = (int(rng.integers(1, most)) for most in (10, 10, 20))
        shape = height, width, channels
        kind = self.format()
        image = {"name": "image", "height": shape[0], "width": shape[1], "channels": shape[2],
                 "format": kind.name, "step": 1.0}
        self.stored.append(("image", shape, kind, 1.0))
        for _ in range(rng.integers(1, 4)):
            self.chain()
        return Network.from_description({"name": "random", "forward_bias": self.bias,
                                         "input": image, "layers": self.layers})

    def add(self, op: str, **values: Any) -> str:
        name = f"{op}{len(self.layers)}"
        self.layers.append({"name": name, "op": op, **values})
        return name

    def chain(self) -> None:
        """Layers from the newest stored tensor to the next one."""
        rng = self.rng
        name, shape, kind, step = self.stored[-1]
        size = self.usual(kind)
        first = len(self.layers)
        if self.chance(0.15) or (max(shape[:2]) == 1 and self.chance(0.5)):
            outputs = int(rng.integers(1, 20))
            weights, step = self.weights((outputs, int(np.prod(shape))), kind, size)
            name = self.add("fully_connected", input=name, **weights)
            shape = (1, 1, outputs)
        elif self.chance(0.85):
            same = any(other[1] == shape for other in self.stored[:-1]) and self.chance(0.5)
            padding = [int(n) for n in rng.integers(0, 3, 2)]
            kernel = [int(rng.integers(1, 1 + min(3, shape[i] + 2 * padding[i])))
                      for i in range(2)]
            stride = [int(n) for n in rng.integers(1, 3, 2)]
            outputs, dilation, groups = int(rng.integers(1, 20)), [1, 1], 1
            if self.chance(0.25):
                most = [(shape[i] + 2 * padding[i] - 1) // max(1, kernel[i] - 1)
                        for i in range(2)]
                dilation = [int(rng.integers(1, 1 + max(1, min(3, n)))) for n in most]
            if same or self.chance(0.3):
                padding, kernel, stride, outputs = [1, 1], [3, 3], [1, 1], shape[2]
                dilation = [1, 1]
            if self.chance(0.25):
                groups = int(rng.choice([n for n in range(1, shape[2] + 1) if shape[2] % n == 0]))
                outputs = groups * -(-outputs // groups)
            weights, step = self.weights((outputs, *kernel, shape[2] // groups), kind, size,
                                         groups)
            name = self.add("convolution", input=name, stride=stride, padding=padding,
                            dilation=dilation, groups=groups, **weights)
            height, width = ((shape[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1)
                             // stride[i] + 1 for i in range(2))
            shape = height, width, outputs
        others = [other for other in self.stored if other[1] == shape]
        if others and self.chance(0.6):
            name = self.add("add", inputs=[name, others[rng.integers(len(others))][0]])
        if self.chance(0.4):
            name = self.add("relu", input=name)
        elif self.chance(0.4):
            name = self.add("clip", input=name, alpha=float(rng.uniform(0.2, 2) * step * 40))
        if min(shape[:2]) >= 2 and self.chance(0.4):
            window = [int(rng.integers(1, min(4, shape[i]) + 1)) for i in range(2)]
            stride = [int(n) for n in rng.integers(1, 4, 2)]
            name = self.add(("max_pool", "average_pool")[rng.integers(2)], input=name,
                            size=window, stride=stride)
            height, width = ((shape[i] - window[i]) // stride[i] + 1 for i in range(2))
            shape = height, width, shape[2]
        if len(self.layers) == first:
            name = self.add("relu", input=name)
        result = self.format()
        # A step under which the results neither vanish nor all saturate.
        reach = 40 * step / self.usual(result)
        if result.precision.is_integer:
            reach /= 2
        elif result.precision is not Precision.E4M3:
            reach = 1.0
        step = float(reach * rng.uniform(0.3, 1.5))
        self.layers[-1]["output"] = {"format": result.name, "step": step}
        self.stored.append((name, shape, result, step))

    def weights(self, shape: tuple[int, ...], kind: Format, size: float,
                groups: int = 1) -> tuple[dict[str, Any], float]:
        """Description of weights, and the step at which results of 40 are usual."""
        weight_format = self.weight_format(kind.precision, groups == 1)
        depth = float(np.prod(shape[1:]))
        if kind.precision.is_float:
            spread = self.usual(weight_format) / 4
            codes: Any = (spread * self.rng.normal(size=shape)).astype(np.float32)
        else:
            codes = self.rng.integers(weight_format.lowest, weight_format.highest + 1, shape)
            spread = weight_format.highest / 2 + 0.5
            spread *= 2 if weight_format.odd else 1
        usual = np.sqrt(depth) * spread * max(size, 0.5) * self.stored[-1][3]
        step = self.rng.choice([-1.0, 1.0], shape[0]) * self.rng.uniform(0.5, 2, shape[0]) / usual
        bias = self.rng.normal(size=shape[0])
        return {"weights": codes, "weight_format": weight_format.name, "weight_step": 40 * step,
                "bias": 10 * bias}, 1.0


# --- single instructions

def _instruction_program(rng: np.random.Generator, config: CoreConfig,
                         base: int) -> RandomProgram:
    """Instructions with random fields over memories that are all loaded first."""
    return _InstructionWriter(rng, config).write(base)


class _InstructionWriter:
    """Keeps to small parts of the memories: `slots`, `lines`, `columns`, `vectors` and `rows`."""

    def __init__(self, rng: np.random.Generator, config: CoreConfig) -> None:
        self.rng, self.config = rng, config
        scale = config.column_lanes // config.residues
        self.slots, self.lines, self.columns, self.vectors = 1024 * scale, 64, 16 * scale, 64
        self.rows = 16
        self.columns = min(self.columns, config.parameter_columns)
        self.bytes = self.slots * SLOT_BYTES
        # Random programs must not depend on what a core holds at first: stay within these.
        self.view = dataclasses.replace(
            config, activation_bytes=self.slots * SLOT_BYTES, accumulator_depth=self.vectors,
            weight_bytes=self.lines * config.column_lanes * SLOT_BYTES,
            parameter_columns=max(self.columns, config.column_lanes))
        self.segments = {segment: (0, self.bytes) for segment in Segment}

    def below(self, bound: int) -> int:
        return int(self.rng.integers(bound))

    def write(self, base: int, wanted: list[Bin] | None = None) -> RandomProgram:
        """A program; if there are bins that are `wanted`, one whose instructions hit some."""
        rng, config = self.rng, self.config
        program = self.beginning()
        length = len(program) + int(rng.integers(8, 24))
        while len(program) < length and wanted != []:
            try:
                more = self.any_instruction() if wanted is None else self.hitting(wanted)
            except ValueError:
                continue
            if all(map(self.allowed, more)):
                program += more
                if wanted is not None:
                    hit = bins_of(config, program[-3:], self.segments)
                    wanted = [b for b in wanted if b not in hit]
        program.append(Instruction("STORE", segment=Segment.WORKSPACE, length=self.slots,
                                   address=0, rows=1))
        program.append(Instruction("HALT"))
        program = with_tokens(program, config)
        inputs = random_codes(rng, FORMATS["FP16"], self.bytes // 2)
        if rng.random() < 0.5:
            inputs = rng.integers(0, 1 << 16, self.bytes // 2)
        numbers = rng.normal(size=self.bytes // 4).astype("<f4") * rng.choice([1, 1e-3, 1e3])
        parameters = numbers.view("<u2").copy()
        parameters[rng.random(len(parameters)) < 0.02] = rng.choice(_EDGE_CODES)
        contents = {Segment.PARAMETERS: parameters.tobytes(),
                    Segment.INPUT: inputs.astype("<u2").tobytes(),
                    Segment.OUTPUT: bytes(self.bytes), Segment.WORKSPACE: bytes(self.bytes)}
        bias = int(rng.integers(16)) if Precision.E4M3 in config.formats else FORWARD_BIAS
        return _place(f"{len(program)} instructions", program, contents, base, bias)

    def any_instruction(self) -> list[Instruction]:
        kinds = [self.load, self.fill, self.matmul, self.matmul, self.matmul, self.special,
                 self.special, self.store]
        return [kinds[self.below(len(kinds))]()]

    def hitting(self, wanted: list[Bin]) -> list[Instruction]:
        """Instructions to hit one of the bins; they may break rules of the core."""
        group, values = wanted[self.below(len(wanted))]
        draw = getattr(self, group.split(":")[0].lower())
        for cross in crosses():
            if cross.group == group:
                return [self.changed(draw(), cross.assignment(values))]
        for field in ("precision", "source"):
            if group.endswith(f"{field} after {field}"):
                return [self.changed(draw(), {field: value}) for value in values]
        if values == ("bursts",):
            beats = self.config.burst_beats + 1 + self.below(8)
            more = {"target": Target.ACTIVATIONS} if group.startswith("LOAD") else {}
            return [self.changed(draw(), {"length": beats * self.config.bus_slots, "rows": 1,
                                          **more})]
        before = draw()
        for _ in range(10_000):
            instruction = draw()
            if (group, values) in instruction_bins(self.config, instruction, before):
                return [before, instruction]
        raise RuntimeError(f"no random instruction has {group}: {values}")

    def changed(self, instruction: Instruction, values: dict[str, Any]) -> Instruction:
        return Instruction(instruction.name, **{**instruction.values, **values})

    def allowed(self, instruction: Instruction) -> bool:
        return check(self.view, self.segments, instruction) is Cause.NONE \
            and self.independent(instruction)

    def beginning(self) -> list[Instruction]:
        """Give every memory contents."""
        config = self.config
        lines = self.lines * config.column_lanes
        program = [
            Instruction("LOAD", segment=Segment.INPUT, length=self.slots, rows=1),
            Instruction("LOAD", segment=Segment.INPUT, target=Target.WEIGHTS, length=lines, rows=1,
                        offset=config.bus_bytes),
            Instruction("LOAD", segment=Segment.PARAMETERS, target=Target.PARAMETERS,
                        length=self.columns * PARAMETER_SLOTS, rows=1)]
        precision = config.formats[self.below(len(config.formats))]
        program.append(Instruction(
            "MATMUL", precision=precision, depth=config.rows + 1, run_length=config.rows + 1,
            count_2=self.vectors, stride_2=7, address=3))
        if config.special_functions:
            program.append(Instruction(
                "SPECIAL", float_accumulator=precision.is_float, reduce=1, pool=Pool.SUM,
                count_1=self.rows, accumulator_stride_1=1))
        return program

    def independent(self, instruction: Instruction) -> bool:
        """Whether a SPECIAL keeps what it writes away from what its other vectors read, and uses
        no other row scalars than there are."""
        if instruction.name != "SPECIAL":
            return True
        rows = instruction["count_0"] * instruction["count_1"]
        first, reduced = instruction["row"], instruction["reduced_row"]
        reads = (instruction.choice("source") is Source.ROWS or instruction["row_scale"]
                 or instruction["row_bias"])
        writes = instruction["reduce"]
        if (reads and first + rows > self.rows) or (writes and reduced + rows > self.rows):
            return False
        if reads and writes and abs(first - reduced) < rows and (
                first != reduced or instruction["count_2"] > 1):
            return False
        touched = [a for a in accesses(instruction, self.config)
                   if a.memory is Memory.ACTIVATIONS]
        return not any(np.intersect1d(a.words, b.words).size
                       for a in touched for b in touched if b.write and not a.write)

    def load(self) -> Instruction:
        target, word = list(Target)[self.below(3)], self.config.bus_bytes
        granule = {Target.ACTIVATIONS: 1, Target.WEIGHTS: self.config.column_lanes,
                   Target.PARAMETERS: PARAMETER_SLOTS * self.config.quarter}[target]
        length = granule * (1 + self.below(max(1, 80 // granule)))
        # What is read must not be what another instruction may be writing: see STORE.
        segment = (Segment.INPUT, Segment.PARAMETERS, Segment.WORKSPACE)[self.below(3)]
        if target is Target.PARAMETERS:
            segment = Segment.PARAMETERS
        return Instruction(
            "LOAD", target=target, segment=segment, offset=word * self.below(200),
            source_pitch=word * self.below(80), rows=1 + self.below(5), length=length,
            address=granule * self.below(max(1, self.slots // granule)),
            pitch=granule * self.below(max(1, 100 // granule)))

    def fill(self) -> Instruction:
        length = 1 + self.below(5 * self.config.banks)
        return Instruction("FILL", rows=1 + self.below(6), length=length,
                           address=self.below(self.slots), pitch=self.below(90))

    def store(self) -> Instruction:
        word = self.config.bus_bytes
        length = self.config.bus_slots * (1 + self.below(30))
        return Instruction(
            "STORE", segment=(Segment.OUTPUT, Segment.WORKSPACE)[self.below(2)],
            offset=word * self.below(300),
            target_pitch=SLOT_BYTES * length + word * self.below(10),
            rows=1 + self.below(5), length=length, address=self.below(self.slots),
            pitch=self.below(90))

    def counts(self) -> dict[str, int]:
        counts = [1 + self.below(4), 1 + self.below(6), 1 + self.below(6)]
        return {f"count_{i}": count for i, count in enumerate(counts)}

    def strides(self, name: str, most: int, loops: int = 3) -> dict[str, int]:
        return {f"{name}_{i}": self.below(most) for i in range(loops)}

    def matmul(self) -> Instruction:
        precision = self.config.formats[self.below(len(self.config.formats))]
        partners = [p for p in self.config.formats if multipliable(precision, p)]
        weight_precision = partners[self.below(len(partners))]
        weight_signed = int(weight_precision.is_integer and self.below(2))
        length = 1 + self.below(20)
        counts = self.counts()
        if self.rng.random() < 0.1:
            counts |= {"count_0": 1, "count_1": 1, "count_2": self.config.minimum_tile_period}
        fold = self.fold()
        return Instruction(
            "MATMUL", precision=precision, fold=fold, weight_precision=weight_precision,
            activation_signed=int(precision.is_integer and self.below(2)),
            weight_signed=weight_signed, weight_odd=int(weight_signed and self.below(2)),
            accumulate=self.below(2), depth=1 + self.below(40), weights=self.below(self.lines),
            address=self.below(self.slots), run_length=length,
            run_pitch=length + fold.groups * self.config.residues * self.below(6), **counts,
            **self.strides("stride", 60), accumulator=self.below(self.vectors))

    def fold(self) -> Fold:
        return self.config.folds[self.below(len(self.config.folds))] if self.config.fold > 1 \
            else Fold.ONE

    def special(self) -> Instruction:
        def some_format(name: str) -> dict[str, Any]:
            precision = self.config.formats[self.below(len(self.config.formats))]
            return {f"{name}_precision": precision,
                    f"{name}_signed": int(precision.is_integer and self.below(2))}

        pool = list(Pool)[self.below(3)]
        windows = [1, 1] if pool is Pool.NONE else [1 + self.below(3), 1 + self.below(3)]
        lanes = self.config.quarter
        values: dict[str, Any] = {}
        residual = self.below(2)
        if self.config.special_functions:
            values = {"source": list(Source)[self.below(3)], **some_format("source"),
                      "product": self.below(2), "row_scale": int(self.rng.random() < 0.3),
                      "row_bias": int(self.rng.random() < 0.3), "row": self.below(8),
                      "reduce": int(pool is not Pool.NONE and self.rng.random() < 0.3),
                      "reduced_row": self.below(8)}
            if not residual:
                values["function"] = list(Function)[self.below(len(Function))]
        values["fold"] = self.fold()
        instruction = Instruction(
            "SPECIAL", float_accumulator=self.below(2) if self.config.has_float else 0,
            relu=self.below(2), clip=self.below(2), residual=residual, pool=pool,
            **some_format("output"), **some_format("residual"),
            parameters=lanes * self.below(self.columns // lanes),
            accumulator=self.below(self.vectors // 2), **self.counts(),
            window_0=windows[0], window_1=windows[1], **self.strides("accumulator_stride", 12),
            **self.strides("window_stride", 6, 2), address=self.below(self.slots),
            **self.strides("stride", 50), residual_address=self.below(self.slots),
            **self.strides("residual_stride", 50),
            **self.strides("residual_window_stride", 20, 2), **values)
        if any(instruction[f"{name}_precision"] == p.value for p in self.config.halved_formats
               for name in ("output", "residual")):
            # Of what is not used it says nothing: such an instruction is not allowed.
            instruction.values["upper"] = self.below(2)
        if self.config.special_vectors > 1 and self.rng.random() < 0.6:
            self.draw_together(instruction)
        return instruction

    def draw_together(self, instruction: Instruction) -> None:
        """Let the vectors in the scratchpad lie as SPECIAL takes several at a time."""
        strides = {"output": "stride_2", "residual": "residual_stride_2"}
        if instruction["source"] == Source.ACTIVATIONS.value:
            strides["source"] = "accumulator_stride_2"
        for name, stride in strides.items():
            precision = Precision(instruction[f"{name}_precision"])
            slots = max(1, self.config.column_lanes // precision.per_slot)
            distances = max(1, (self.config.banks // slots).bit_length() - 1)
            instruction.values[stride] = slots << self.below(distances)
