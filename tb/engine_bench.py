"""The compression engine beside a memory: what its tests are made of."""

import numpy as np
import pytest
from test_adacomp_model import KINDS, gradient_like
from ulpcore.compression.engine_rtl import EngineRun, run_engine
from ulpsim import dlfloat, float32
from ulpsim.compression.adacomp import LARGEST_BIN
from ulpsim.compression.engine import Command, Completion, Engine, Operation

SIZES = (1, 7, 50, 64, 65, 500, 512, 4096, LARGEST_BIN)
DEFAULT = {"lanes": 4, "bus_bytes": 8}
NIGHTLY = [{"lanes": 1, "bus_bytes": 4}, {"lanes": 1, "bus_bytes": 16, "largest_bin": 64},
           {"lanes": 8, "bus_bytes": 64, "largest_bin": 4096},
           {"lanes": 16, "bus_bytes": 16, "burst_beats": 4, "outstanding": 1},
           {"lanes": 4, "bus_bytes": 32, "burst_beats": 64, "outstanding": 2}]
CONFIGS = [DEFAULT, *(pytest.param(c, marks=pytest.mark.nightly) for c in NIGHTLY)]
ALIGNMENT = 64


def name_of(config: object) -> str | None:
    return (f"{config['lanes']}-lanes-{config['bus_bytes']}-bytes" if isinstance(config, dict)
            else None)


configurations = pytest.mark.parametrize("config", CONFIGS, ids=name_of)


class Layout:
    """Memory full of random bytes, in which regions are laid out one behind another with gaps."""

    def __init__(self, rng: np.random.Generator, size: int = 1 << 19) -> None:
        self.rng = rng
        self.memory = rng.integers(0, 256, size, np.uint8)
        self.next = 0

    def region(self, size: int) -> int:
        at = self.next + ALIGNMENT * int(self.rng.integers(0, 3))
        self.next = -(-(at + size) // ALIGNMENT) * ALIGNMENT
        assert self.next <= len(self.memory)
        return at

    def put(self, values: np.ndarray, at: int | None = None) -> int:
        at = self.region(values.nbytes) if at is None else at
        self.memory[at:at + values.nbytes] = np.ascontiguousarray(values).view(np.uint8)
        return at


def golden(memory: np.ndarray, commands: list[Command], config: dict, **options
           ) -> tuple[list[Completion], np.ndarray]:
    """The golden model's reports, and its memory at the end."""
    final = memory.copy()
    engine = Engine(final, bus_bytes=config["bus_bytes"],
                    largest_bin=config.get("largest_bin", LARGEST_BIN), **options)
    return [engine.run(command) for command in commands], final


def check(memory: np.ndarray, commands: list[Command], config: dict, **options) -> EngineRun:
    """The RTL's reports and memory are those of the golden model."""
    reports, final = golden(memory, commands, config)
    run = run_engine(memory, commands, **config, **options)
    for i, (ours, theirs) in enumerate(zip(run.completions, reports, strict=True)):
        assert ours == theirs, f"command {i}: {commands[i]}"
    differ = np.flatnonzero(run.memory != final)
    assert len(differ) == 0, f"{len(differ)} bytes differ, the first at {differ[:4]}"
    return run


def random_layer(rng: np.random.Generator, layout: Layout, largest_bin: int, kind: str | None = None
                 ) -> Command:
    """A layer in memory and how it is compressed; buffers are still to be given."""
    bin_size = int(rng.choice([size for size in SIZES if size <= largest_bin]))
    elements = int(rng.choice([1, 3, 16, 50, 333, 1000, 2500]))
    gradient = gradient_like(rng, elements, kind or str(rng.choice(KINDS)))
    half = bool(rng.random() < 0.4)
    if half:
        gradient = np.where(rng.random(elements) < 0.05, np.uint16(0x7FFF),
                            dlfloat.encode_array(np.nan_to_num(gradient).astype(np.float64)))
        gradient = gradient.astype(np.uint16)
    spread = int(rng.choice([1, 1 << 10, 1 << 16, 1 << 18]))
    choose = bool(rng.random() < 0.15)
    exact = not choose and bool(rng.random() < 0.5)
    scale = 0 if choose or exact else float32.encode(int(rng.integers(0, 1 << 18)) / 65536)
    return Command(
        Operation.COMPRESS, elements, layout.put(gradient), 0, 0,
        residue=layout.put(rng.integers(-spread, spread + 1, elements).astype(np.int32)),
        layer=int(rng.integers(0, 4096)), step=int(rng.integers(0, 1024)), bin_size=bin_size,
        factor=int(rng.integers(1, 32)), point=16, exact=exact, scale=scale, choose=choose,
        dlfloat16=half)
