"""Parameters of a core: one dataclass, checked as a whole, derived values computed once.

Both the models in `ulpsim` and the hardware in `ulpcore` read their sizes from here and
from nowhere else.
"""

import dataclasses
import hashlib
import tomllib
from functools import cached_property
from pathlib import Path

from .compression.adacomp import LARGEST_BIN
from .formats import Precision
from .interconnect.packets import WIDTHS
from .isa import INSTRUCTION_BYTES, Fold, Unit

__all__ = ["NAMED", "SLOT_BITS", "SLOT_BYTES", "CoreConfig", "cluster_core",
           "load_config"]

SLOT_BITS = 16
SLOT_BYTES = 2
#: Elements a cycle that encoders are built for, and none.
_ENCODERS = (0, 1, 4, 8, 16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """One core.

    Parameters
    ----------
    name
        Appears in the Verilog's module name and in reports.
    rows
        Slots along K that the array multiplies at a time; at most `residues`.
    columns, lanes
        The array has `columns` columns of processing elements with `lanes` slots each, that is
        `columns * lanes` outputs (N) at a time, at least 8.
    formats
        The precisions that the slots can multiply. Only what is named is built.
    fold
        Groups that the columns can form, each with a part of K of its own: 1, 2 or 4. The sums are
        then added as the accumulators are drained.
    multiply_add_stages
        Clock cycles from the inputs of a slot to its partial sum.
    accumulator_depth
        Vectors of `columns * lanes` 32-bit partial sums held.
    activation_bytes, weight_bytes
        Sizes of the activation scratchpad and of the weight scratchpad.
    parameter_columns
        Columns for which scale, bias, residual scale and upper bound can be held.
    instruction_memory
        Instructions held; programs of any length pass through, fetched ahead in blocks.
    queue_depth
        Instructions waiting in front of each unit.
    special_lanes
        Elements that the special-function unit can take in each cycle: N / 4, N / 2 or N. Beyond
        N / 4 it does where several vectors lie together (`cycles_special.vectors_at_once`).
    special_functions
        Whether that unit has what goes beyond draining accumulators: functions, elementwise
        products, sources in the scratchpad, and row scalars (`accumulator_depth` of them). It
        takes FP16 among the formats.
    bus_bytes
        Width of the AXI4 data bus: from 4 to 64, and no more than N.
    burst_beats
        Longest AXI4 burst.
    outstanding_reads
        AXI4 read bursts under way at once.
    exchange
        Elements that the AdaComp encoder of the exchange unit takes in each cycle: 1, 4, 8 or 16.
        With 0 there is no such unit. A core that has one brings its compression engine with it,
        and a port for the collective engine of a cluster's node.
    largest_bin
        Elements of the largest bin that this encoder takes.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, what was required and what came.
    """

    name: str = "edge"
    rows: int = 8
    columns: int = 8
    lanes: int = 1
    formats: tuple[Precision, ...] = (
        Precision.FP16,
        Precision.INT8,
        Precision.INT4,
        Precision.INT2,
    )
    fold: int = 1
    multiply_add_stages: int = 4
    accumulator_depth: int = 512
    activation_bytes: int = 64 * 1024
    weight_bytes: int = 64 * 1024
    parameter_columns: int = 512
    instruction_memory: int = 256
    queue_depth: int = 16
    special_lanes: int = 2
    special_functions: bool = False
    bus_bytes: int = 4
    burst_beats: int = 64
    outstanding_reads: int = 4
    exchange: int = 0
    largest_bin: int = LARGEST_BIN

    #: Slots of a vector lie apart modulo this, so in different banks; the most rows, and the least
    #: outputs.
    residues = 8
    #: Cycles in which each user of the scratchpad's shared port has its turn once.
    phases = 4
    #: Instructions that are fetched at a time.
    fetch_block = 16

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isidentifier()):
            raise ValueError(f"name must be a string and an identifier, not {self.name!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int or field.type == "int":
                if isinstance(value, bool) or not isinstance(value, int):
                    raise TypeError(f"{field.name} must be an integer, not {value!r}")
                if value < 1 and field.name != "exchange":
                    raise ValueError(f"{field.name} must be at least 1, not {value}")
        if self.exchange not in _ENCODERS:
            raise ValueError(f"exchange must be one of {', '.join(map(str, _ENCODERS))}, not "
                             f"{self.exchange}")
        formats = tuple(self.formats)
        if not formats:
            raise ValueError("formats must name at least one precision")
        for precision in formats:
            if not isinstance(precision, Precision):
                known = ", ".join(p.name for p in Precision)
                raise TypeError(f"formats must hold members of Precision ({known}), "
                                f"not {precision!r}")
        if len(set(formats)) != len(formats):
            raise ValueError(f"formats must name each precision once, not {formats!r}")
        object.__setattr__(self, "formats", tuple(p for p in Precision if p in formats))
        for p in formats:
            if p.is_fp8 and Precision.FP16 not in formats:
                raise ValueError(f"formats must name FP16 beside {p.name}, whose products it adds, "
                                 f"not {', '.join(p.name for p in formats)} alone")
        if not isinstance(self.special_functions, bool):
            raise TypeError(f"special_functions must be True or False, "
                            f"not {self.special_functions!r}")
        if self.special_functions and not self.has_float:
            raise ValueError("special_functions must be False without FP16 among the formats, "
                             "not True")
        self._require_powers_of_two()
        self._require_shape()

    def _require_powers_of_two(self) -> None:
        for name in ("rows", "columns", "lanes", "fold", "accumulator_depth", "activation_bytes",
                     "weight_bytes", "parameter_columns", "instruction_memory", "special_lanes",
                     "bus_bytes", "burst_beats", "outstanding_reads", "largest_bin"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value}")

    def _require_shape(self) -> None:
        if not 2 <= self.rows <= self.residues:
            raise ValueError(f"rows must be from 2 to {self.residues}, the banks from which the "
                             f"scratchpad gathers a vector, not {self.rows}")
        if self.column_lanes < self.residues:
            raise ValueError(f"columns * lanes must be at least {self.residues}, not "
                             f"{self.columns} * {self.lanes} = {self.column_lanes}")
        if not 2 <= self.multiply_add_stages <= 6:
            raise ValueError(f"multiply_add_stages must be from 2 to 6, "
                             f"not {self.multiply_add_stages}")
        widest = min(self.column_lanes, INSTRUCTION_BYTES)
        if not 4 <= self.bus_bytes <= widest:
            raise ValueError(f"bus_bytes must be from 4 to {widest}, the outputs of the array and "
                             f"the bytes of an instruction, not {self.bus_bytes}")
        if self.special_lanes not in (rates := [self.quarter << i for i in range(3)]):
            raise ValueError(
                f"special_lanes must be {rates[0]}, {rates[1]} or {rates[2]}, a quarter, a half or "
                f"all of columns * lanes, not {self.special_lanes}")
        most = min(4, self.columns, self.banks // self.residues)
        if self.fold > most:
            raise ValueError(
                f"fold must be at most {most}: 4, the {self.columns} columns, and the rounds over "
                f"{self.residues} slots that {self.banks} banks give, not {self.fold}")
        if self.burst_beats > 256:
            raise ValueError(f"burst_beats must be at most AXI4's 256, not {self.burst_beats}")
        if self.accumulator_depth < 2 * self.minimum_tile_period:
            raise ValueError(
                f"accumulator_depth must be at least twice the minimum tile period, "
                f"{2 * self.minimum_tile_period}, not {self.accumulator_depth}")
        limits = {"accumulator_depth": 1 << 12, "activation_bytes": SLOT_BYTES << 20,
                  "weight_bytes": SLOT_BYTES << 20, "parameter_columns": 1 << 12,
                  "instruction_memory": 1 << 12}
        for name, limit in limits.items():
            if getattr(self, name) > limit:
                raise ValueError(f"{name} must be at most {limit}, what the instruction's fields "
                                 f"can address, not {getattr(self, name)}")
        if self.largest_bin > LARGEST_BIN:
            raise ValueError(f"largest_bin must be at most {LARGEST_BIN}, not {self.largest_bin}")
        for name, least in (("activation_bytes", 1024), ("weight_bytes", 1024),
                            ("parameter_columns", self.column_lanes),
                            ("instruction_memory", 2 * self.fetch_block)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units that run instructions."""
        return tuple(unit for unit in Unit if unit is not Unit.EXCHANGE or self.exchange)

    @cached_property
    def fingerprint(self) -> int:
        """32 bits of a hash of all parameters but the name: cores that are built alike share it."""
        values = {**dataclasses.asdict(self), "formats": sorted(p.name for p in self.formats)}
        del values["name"]
        text = repr(sorted(values.items()))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    @cached_property
    def column_lanes(self) -> int:
        """Outputs (N) of the array."""
        return self.columns * self.lanes

    @cached_property
    def quarter(self) -> int:
        """A quarter of the outputs: what the special-function unit takes of a vector in a cycle.

        As many columns are in a line of the parameter memory.
        """
        return self.column_lanes // self.phases

    @cached_property
    def special_vectors(self) -> int:
        """Vectors that the special-function unit can take at a time: 1, 2 or 4."""
        return self.special_lanes // self.quarter

    @cached_property
    def bus_slots(self) -> int:
        """Slots of a beat."""
        return self.bus_bytes // SLOT_BYTES

    @cached_property
    def banks(self) -> int:
        """Banks of the activation scratchpad: slots that an access of its shared port can touch.

        One access takes all outputs of the array at once, and in its turns what the bus delivers.
        """
        return max(self.column_lanes, self.phases * self.bus_slots)

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        """The ways in which columns can be grouped."""
        return tuple(fold for fold in Fold if fold.groups <= self.fold)

    @cached_property
    def has_float(self) -> bool:
        return any(p.is_float for p in self.formats)

    @cached_property
    def has_integer(self) -> bool:
        return any(not p.is_float for p in self.formats)

    @cached_property
    def has_fp8(self) -> bool:
        return any(p.is_fp8 for p in self.formats)

    @cached_property
    def product_latency(self) -> int:
        """Cycles from an activation in an element of the array to its product; two more where
        the products of a slot's two FP8 elements are added."""
        return 4 if self.has_fp8 else 2

    @cached_property
    def halved_formats(self) -> tuple[Precision, ...]:
        """Formats of which the array's outputs fill one half of a slot: BINARY beside 8 outputs."""
        return tuple(p for p in self.formats if p.per_slot > self.column_lanes)

    @cached_property
    def row_scalars(self) -> int:
        """Scalars of rows that the special-function unit holds."""
        return self.accumulator_depth if self.special_functions else 0

    @cached_property
    def activation_slots(self) -> int:
        return self.activation_bytes // SLOT_BYTES

    @cached_property
    def weight_slots(self) -> int:
        return self.weight_bytes // SLOT_BYTES

    @cached_property
    def weight_lines(self) -> int:
        """Lines of `column_lanes` slots in the weight scratchpad: one row of a tile each."""
        return self.weight_slots // self.column_lanes

    @cached_property
    def partial_sum_bits(self) -> int:
        """Width of the partial sums in the array: no wider than `rows` slots can make them."""
        widths = [16] if self.has_float else []
        for p in self.formats:
            if not p.is_float:
                # Both factors unsigned, or odd.
                largest = self.rows * p.per_slot * ((1 << p.bits) - 1) ** 2
                widths.append(largest.bit_length() + 1)
        return max(widths)

    @cached_property
    def accumulate_latency(self) -> int:
        """Cycles from the read of an accumulator until a read sees the sum written back."""
        return 7 if self.has_float else 2

    @cached_property
    def minimum_tile_period(self) -> int:
        """Fewest cycles from one tile of weights to the next.

        A row's weights can be replaced once the swap has passed it. The swap travels
        `multiply_add_stages` cycles a row, the replacing weights one, so the last row decides.
        """
        swap = (self.rows - 1) * (self.multiply_add_stages - 1) + 2
        return max(swap, self.rows, self.accumulate_latency)


EDGE = CoreConfig(name="edge", formats=tuple(Precision), special_functions=True)
NANO = CoreConfig(
    name="nano",
    rows=4,
    formats=(Precision.INT8, Precision.INT4, Precision.INT2),
    multiply_add_stages=3,
    accumulator_depth=256,
    activation_bytes=16 * 1024,
    weight_bytes=16 * 1024,
    parameter_columns=128,
    instruction_memory=64,
)
RAPID = CoreConfig(
    name="rapid",
    formats=tuple(Precision),
    lanes=8,
    fold=4,
    activation_bytes=1024 * 1024,
    weight_bytes=1024 * 1024,
    parameter_columns=2048,
    special_lanes=64,
    special_functions=True,
    bus_bytes=64,
    outstanding_reads=8,
)
NAMED = {config.name: config for config in (EDGE, NANO, RAPID)}


def cluster_core(config: CoreConfig) -> CoreConfig:
    """The core of a cluster: the same with an exchange unit and a bus of at least 8 bytes, which is
    the network's narrowest link.

    Raises ValueError for a bus that is wider than the widest link.
    """
    narrowest, widest = min(WIDTHS) // 8, max(WIDTHS) // 8
    if config.bus_bytes > widest:
        raise ValueError(f"bus_bytes of a core in a cluster must be at most {widest}, the widest "
                         f"link, not {config.bus_bytes} as {config.name!r} has")
    return dataclasses.replace(config, exchange=config.exchange or 1,
                               bus_bytes=max(narrowest, config.bus_bytes))


def load_config(source: str | Path) -> CoreConfig:
    """The named configuration, or the one in a TOML file whose keys are `CoreConfig`'s fields.

    `formats` is a list of names there. A file may start from a named configuration with the key
    `base`. Raises ValueError naming the file, the key and what was required.
    """
    if str(source) in NAMED:
        return NAMED[str(source)]
    path = Path(source)
    if path.suffix != ".toml":
        raise ValueError(f"configuration must be one of {', '.join(NAMED)} or a .toml file, "
                         f"not {str(source)!r}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"configuration {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"configuration {path} is not TOML: {error}") from error
    base = table.pop("base", None)
    if base is not None and base not in NAMED:
        raise ValueError(f"configuration {path}: base must be one of {', '.join(NAMED)}, "
                         f"not {base!r}")
    fields = {field.name for field in dataclasses.fields(CoreConfig)}
    for key in table:
        if key not in fields:
            raise ValueError(f"configuration {path}: there is no parameter {key!r}; "
                             f"there are {', '.join(sorted(fields))}")
    if "formats" in table:
        try:
            table["formats"] = tuple(Precision[name] for name in table["formats"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"configuration {path}: formats must be a list of "
                             f"{', '.join(p.name for p in Precision)}, "
                             f"not {table['formats']!r}") from error
    table.setdefault("name", path.stem)
    try:
        if base is not None:
            return dataclasses.replace(NAMED[base], **table)
        return CoreConfig(**table)
    except (TypeError, ValueError) as error:
        raise ValueError(f"configuration {path}: {error}") from error
