"""`ulpcore run --device`: networks on a board, every word compared with the golden model."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from ulpcore.comparison import Comparison
from ulpcore.demonstration import (
    NetworkRun,
    load_images,
    network_codes,
    network_row,
    network_table,
)
from ulpcore.link.memory import OnChipMemory
from ulpsim.compiler import Compiled, compile_network
from ulpsim.config import NAMED, CoreConfig
from ulpsim.cycles import predict
from ulpsim.driver import Bus, CoreError, Driver, ModelBus, place
from ulpsim.formats import FORMATS, Precision
from ulpsim.isa import INSTRUCTION_BYTES, Segment
from ulpsim.link.client import LinkBus, LinkError
from ulpsim.network import Network, Stored, load_network
from ulpsim.registers import BY_NAME, Control, Status

from .serial_port import open_port

__all__ = ["compare_on_bus", "prepare", "run_on_board"]

#: Seconds after which a run that has not ended is given up; the core's watchdog comes first.
_PATIENCE = 300.0
_PATTERN = 0xA5
#: Bytes of which regions begin at multiples: less than usual, since memory on a device is small.
_ALIGNMENT = 64


def for_core(network: Network, config: CoreConfig) -> Network:
    """The network with an output that the core can store: INT8 where it has no FP16."""
    if network.stored[network.output_name].format.precision in config.formats:
        return network
    if Precision.INT8 not in config.formats:
        return network
    return network.with_output(Stored(FORMATS["INT8"], 0.25))


def prepare(bus: LinkBus, config: CoreConfig) -> None:
    """Make sure that the board has this core, and bring it to rest.

    Raises LinkError with what to do if it has another.
    """
    found = bus.identity.configuration
    if found != config.fingerprint:
        known = next((f" ({c.name})" for c in NAMED.values() if c.fingerprint == found), "")
        raise LinkError(f"the board's core is {found:#010x}{known}, not {config.fingerprint:#010x} "
                        f"({config.name}) that the program is for: give its --config, or flash the "
                        f"board with the bitstream of `ulpcore build --config {config.name}`")
    bus.write_register(BY_NAME["CONTROL"].offset, Control.RESET | Control.CLEAR)
    ends = time.monotonic() + _PATIENCE
    while bus.read_register(BY_NAME["STATUS"].offset) & Status.BUSY:
        _require_time(ends)


def _require_time(ends: float) -> None:
    if time.monotonic() > ends:
        raise LinkError(f"the core did not come to rest in {_PATIENCE:g} s: power the board off "
                        "and on")


def _compiled(network: Network, config: CoreConfig, memory_bytes: int, images: int) -> Compiled:
    """For the largest batch, of no more images than there are, that the board's memory holds."""
    needed = 0
    for batch in [batch for batch in (4, 2) if batch <= images] + [1]:
        compiled = compile_network(network, config, batch)
        needed = place(compiled, alignment=_ALIGNMENT).end
        if needed <= memory_bytes:
            return compiled
    raise LinkError(f"{network.name} needs {needed} bytes of memory, and the board has "
                    f"{memory_bytes}: build it with more --memory, or take a smaller network")


def compare_on_bus(network: Network, config: CoreConfig, codes: np.ndarray, bus: Bus, *,
                   memory_bytes: int, latency: int | None = OnChipMemory.LATENCY,
                   progress: Callable[[int], None] = lambda images: None) -> NetworkRun:
    """Run images (codes of the network's input) on a core and on the interpreter, and compare.

    Every word of OUTPUT after each run is compared, and at the end those of all segments and of
    the program, read back from the core's memory; and of every run the cycles, beside memory of
    `latency` cycles (None: they are not compared). Raises LinkError when the core cannot be
    reached or what is needed does not fit.
    """
    network = for_core(network, config)
    compiled = _compiled(network, config, memory_bytes, len(codes))
    placement = place(compiled, alignment=_ALIGNMENT)
    golden_bus = ModelBus(config, placement.end)
    regions = {s: placement.segments[s] for s in (Segment.OUTPUT, Segment.WORKSPACE)}
    for one in (bus, golden_bus):
        for address, size in regions.values():
            one.write_memory(address, bytes([_PATTERN]) * size)
    ends = [time.monotonic() + _PATIENCE]
    driver = Driver(bus, compiled, wait=lambda: _require_time(ends[0]), alignment=_ALIGNMENT)
    golden = Driver(golden_bus, compiled, alignment=_ALIGNMENT)
    outputs, expected, cycles, faults, words = [], [], [], [], 0

    def differing(address: int, size: int) -> int:
        there, here = (np.frombuffer(one.read_memory(address, size + -size % 4), "<u4")
                       for one in (bus, golden_bus))
        return int(np.count_nonzero(there != here))

    for first in range(0, len(codes), compiled.batch):
        images = codes[first:first + compiled.batch]
        ends[0] = time.monotonic() + _PATIENCE
        expected.append(golden.run(images))
        try:
            outputs.append(driver.run(images))
        except CoreError as error:
            faults.append(f"run {first // compiled.batch}: {error}")
            outputs.append(np.zeros_like(expected[-1]))
        cycles.append(driver.cycles)
        words += differing(*regions[Segment.OUTPUT])
        progress(len(images))
    words += differing(placement.program, len(compiled.program) * INSTRUCTION_BYTES)
    for segment, region in placement.segments.items():
        if segment is not Segment.OUTPUT:
            words += differing(*region)
    predicted = cycles if latency is None else [predict(
        compiled.program, config, program_address=placement.program, segments=placement.segments,
        latency=latency).cycles] * len(cycles)
    return NetworkRun(
        network, compiled, len(codes), np.concatenate(outputs), np.concatenate(expected),
        tuple(cycles), tuple(predicted),
        Comparison(words, sum(abs(a - b) for a, b in zip(cycles, predicted, strict=True)),
                   tuple(faults)))


def run_on_board(config: CoreConfig, paths: Sequence[Path], count: int | None, data: Path | None,
                 *, port: str, baud: int, as_json: bool, timeout: float = 0.25) -> int:
    """Run networks on the board at a serial port, and print the table; 0 if all agrees, else 1.

    Nothing is printed of a network before all of its words have come and been compared.
    """
    networks = [load_network(path) for path in paths]
    images, labels = load_images(data, count)
    console = Console(stderr=True)
    runs, seconds = [], []
    with open_port(port, baud) as transport:
        with console.status(f"{port}: looking for a board"):
            bus = LinkBus(transport, timeout=timeout)
            prepare(bus, config)
        with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                      TimeElapsedColumn(), console=console) as progress:
            for network in networks:
                task = progress.add_task(f"{network.name}: on the board", total=len(images))
                began = time.monotonic()
                run = compare_on_bus(
                    network, config, network_codes(network, images), bus,
                    memory_bytes=bus.identity.memory_bytes,
                    progress=lambda more, task=task: progress.update(task, advance=more))
                verdict = "agrees" if run.comparison.agree else "DIFFERS"
                progress.update(task, description=f"{network.name}: {verdict}")
                runs.append(run)
                seconds.append(round(time.monotonic() - began, 3))
    rows = [network_row(run, config, labels, None) for run in runs]
    clock = bus.identity.clock_hz / 1e6
    if as_json:
        print(json.dumps({"config": config.name, "port": port, "clock_mhz": clock,
                          "requests_repeated": bus.repeated, "seconds": seconds,
                          "networks": rows}))
    else:
        Console(width=None if Console().is_terminal else 160).print(network_table(
            rows, f"{config.name} on the board at {port}, {clock:g} MHz; "
            f"{bus.repeated} requests were repeated"))
    for run in runs:
        for fault in run.comparison.faults:
            console.print(f"[red]{run.network.name}: {fault}")
    return 0 if all(run.comparison.agree for run in runs) else 1
