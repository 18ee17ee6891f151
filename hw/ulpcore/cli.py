"""The console command `ulpcore`; its sub-commands are the jobs."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ulpboards.command import add_build, add_device, add_flash, add_simulate
from ulpsim import isa, registers
from ulpsim.cluster_registers import MOST_CORES
from ulpsim.config import NAMED, cluster_core, load_config

from .bitstream import BuildError
from .compression.command import add_arguments as add_compression_arguments
from .explore import add_arguments as add_explore_arguments
from .explore import explore
from .interconnect.command import TOPOLOGIES
from .interconnect.command import add_arguments as add_cluster_arguments
from .simulation import LINT_WAIVERS, SimulationError, verilator_command

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; the exit code. Errors of the user are one line on stderr, code 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.action(options)
    except (ValueError, SimulationError, BuildError, OSError) as error:
        print(f"ulpcore {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ulpcore", description="An open, mixed-precision deep-learning core.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, action, text, *, config=True):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        if config:
            sub.add_argument("--config", default="edge", metavar="NAME|FILE.toml",
                             help=f"{', '.join(NAMED)} or a TOML file (default: edge)")
        return sub

    def add_cluster(sub):
        sub.add_argument("--cluster", type=int, metavar="N",
                         help="N cores, 2 to 16, with exchange units, network and one memory port")
        sub.add_argument("--topology", choices=TOPOLOGIES, default="ring",
                         help="of the cluster's network (default: ring, one way)")

    sub = command("generate", _generate, "Write the Verilog of a core, or of a cluster of them.")
    sub.add_argument("--output", type=Path, default=Path("build"), metavar="FOLDER",
                     help="where to write NAME.v (default: build)")
    add_cluster(sub)

    sub = command("compile", _compile, "Compile a network to a program and its parameters.")
    sub.add_argument("network", type=Path, metavar="NETWORK.json",
                     help="a network in the form of docs/networks.md or docs/sequences.md, arrays "
                     "in a .npz beside it")
    sub.add_argument("--batch", type=int, metavar="N",
                     help="images or sequences a run (default: as many as pay)")
    sub.add_argument("--latency", type=int, default=16, metavar="CYCLES",
                     help="latency of the memory, for the predicted cycles (default: 16)")
    sub.add_argument("--output", type=Path, default=Path("build"), metavar="FOLDER",
                     help="where to write NAME.program, NAME.parameters and NAME.asm")

    sub = command("run", _run, "Run networks on the RTL over real images and compare every word "
                  "and cycle with the golden model.")
    sub.add_argument("network", type=Path, nargs="*", metavar="NETWORK.json",
                     help="networks to run (default: the Fashion-MNIST networks whose formats the "
                     "core has, and the character models)")
    sub.add_argument("--images", type=int, metavar="N", help="images a network (default: 32)")
    sub.add_argument("--data", type=Path, metavar="FOLDER|FILE.npz",
                     help="images: a .npz with images and labels, or the folder of the Debian "
                     "package dataset-fashion-mnist (default: the embedded sample)")
    sub.add_argument("--sequences", type=int, metavar="N",
                     help="windows of text a character model (default: 64)")
    sub.add_argument("--text", type=Path, metavar="FILE",
                     help="text for the character models (default: the embedded sample)")
    sub.add_argument("--latency", type=int, default=16, metavar="CYCLES",
                     help="latency of the memory (default: 16)")

    add_device(sub)

    sub = command("build", _build, "Make the bitstream for a board.", config=False)
    add_build(sub)
    sub = command("flash", _flash, "Load a bitstream into a board.", config=False)
    add_flash(sub)
    sub = command("simulate-board", _simulate_board, "Run a board in simulation, its serial port a "
                  "pseudo-terminal whose name is printed.", config=False)
    add_simulate(sub)

    sub = command("compress", _compress, "Compress gradients in files with AdaComp: packets, rate "
                  "and error; with --rtl also through the RTL, every bit compared.", config=False)
    add_compression_arguments(sub)

    sub = command("cluster", _cluster, "Let learners train on real images and exchange compressed "
                  "gradients through a cluster in RTL, every bit compared.", config=False)
    add_cluster_arguments(sub)
    sub = command("explore", explore, "Training steps on many accelerators: which interconnect, "
                  "with and without gradient compression.", config=False)
    add_explore_arguments(sub)

    command("instructions", _instructions, "Print the instruction set as Markdown.", config=False)
    command("registers", _registers, "Print the register map as Markdown.", config=False)
    sub = command("lint", _lint, "Check the generated Verilog with Verilator's lint.")
    sub.add_argument("--compression", action="store_true",
                     help="of gradient compression (encoders, decoder, scale, engines), not a core")
    sub.add_argument("--interconnect", action="store_true",
                     help="of the interconnect (a cluster, guard, sender and receiver), not a core")
    add_cluster(sub)
    sub = command("report", _report, "Synthesise for the ECP5: area by block.")
    sub.add_argument("--html", type=Path, metavar="FILE",
                     help="write a page of what was measured before instead: area, clock, energy")
    sub.add_argument("--route", action="store_true",
                     help="also place and route for the clock frequency (tens of minutes)")
    sub.add_argument("--seed", type=int, default=1, help="nextpnr's seed (default: 1)")
    sub.add_argument("--target", type=float, default=80.0, metavar="MHZ",
                     help="clock frequency that nextpnr aims at (default: 80)")
    return parser


def _verilog(options: argparse.Namespace) -> tuple[str, str, list[str]]:
    """Name, text and repeated elements of the core, or of the cluster."""
    from .core import Core
    from .interconnect.command import make_topology
    from .interconnect.core_cluster import CoreCluster
    from .verilog import generate

    config = load_config(options.config)
    if options.cluster is None:
        return config.name, *generate(Core(config=config), name=config.name)
    if not 2 <= options.cluster <= MOST_CORES:
        raise ValueError(f"cores of a cluster must be from 2 to {MOST_CORES}, not "
                         f"{options.cluster}")
    topology = make_topology(options.topology, options.cluster)
    name = f"{config.name}_{options.topology}{options.cluster}"
    cluster = CoreCluster(config=cluster_core(config), topology=topology)
    return name, *generate(cluster, name=name)


def _generate(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    name, text, elements = _verilog(options)
    seconds = round(time.perf_counter() - start, 1)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{name}.v"
    path.write_text(text)
    summary = {"file": str(path), "module": name, "bytes": len(text),
               "modules": text.count("\nmodule "), "seconds": seconds,
               "repeated elements": elements}
    if options.json:
        print(json.dumps(summary))
    else:
        print(f"{path}: module {name}, {summary['modules']} modules, {len(text)} bytes, "
              f"{seconds} s")
    return 0


def _compile(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from ulpsim.breakdown import CAUSES, breakdown
    from ulpsim.compiler import compile_network
    from ulpsim.cycles import predict
    from ulpsim.driver import place
    from ulpsim.network import load_network
    from ulpsim.sequences.compiler import compile_sequences
    from ulpsim.sequences.network import is_sequence_network, load_sequence_network

    config = load_config(options.config)
    if is_sequence_network(options.network):
        compiled = compile_sequences(load_sequence_network(options.network), config, options.batch)
        batch = f"{compiled.batch} sequences"
    else:
        compiled = compile_network(load_network(options.network), config, options.batch)
        batch = f"{compiled.batch} images"
    options.output.mkdir(parents=True, exist_ok=True)
    stem = options.output / options.network.stem
    stem.with_suffix(".program").write_bytes(isa.encode_program(compiled.program))
    stem.with_suffix(".parameters").write_bytes(compiled.parameters)
    stem.with_suffix(".asm").write_text(isa.disassemble(compiled.program) + "\n")
    placement = place(compiled)
    prediction = predict(compiled.program, config, program_address=placement.program,
                         segments=placement.segments, latency=options.latency)
    table = breakdown(prediction, compiled.program, compiled.labels, config)
    name = compiled.network.name
    summary = {"network": name, "config": config.name, "batch": compiled.batch,
               "instructions": len(compiled.program), "forward_bias": compiled.forward_bias,
               "parameter_bytes": len(compiled.parameters),
               "files": [str(stem.with_suffix(s)) for s in (".program", ".parameters", ".asm")],
               "cycles": prediction.cycles, "latency": options.latency, "breakdown": table}
    if options.json:
        print(json.dumps(summary))
        return 0
    print(f"{name} for {config.name}: {len(compiled.program)} instructions for {batch}, "
          f"{len(compiled.parameters)} parameter bytes")
    causes = [cause for cause in CAUSES if any(cause in row for row in table.values())]
    grid = Table(title=f"{prediction.cycles} cycles for {batch}, memory latency "
                 f"{options.latency}: what the array does, or waits for")
    grid.add_column("layer")
    for cause in (*causes, "all"):
        grid.add_column(cause, justify="right")
    for label, row in table.items():
        grid.add_row(label, *(str(row.get(c, 0)) for c in causes), str(sum(row.values())))
    grid.add_section()
    grid.add_row("all", *(str(sum(row.get(c, 0) for row in table.values())) for c in causes),
                 str(prediction.cycles))
    Console().print(grid)
    print("wrote " + ", ".join(summary["files"]))
    return 0


def _run(options: argparse.Namespace) -> int:
    from .demonstration import network_path, run_networks

    config, networks = load_config(options.config), [network_path(n) for n in options.network]
    if options.device:
        from ulpboards.run import run_on_board

        return run_on_board(config, networks or [network_path(Path("fashion-int2"))],
                            options.images, options.data, port=options.device,
                            baud=options.baud, as_json=options.json)
    return run_networks(config, networks, options.images,
                        options.data, options.latency, as_json=options.json,
                        sequences=options.sequences, text=options.text)


def _build(options: argparse.Namespace) -> int:
    from ulpboards.command import build

    return build(options)


def _flash(options: argparse.Namespace) -> int:
    from ulpboards.command import flash

    return flash(options)


def _simulate_board(options: argparse.Namespace) -> int:
    from ulpboards.command import simulate

    return simulate(options)


def _cluster(options: argparse.Namespace) -> int:
    from .interconnect.command import run_learners

    return run_learners(options)


def _compress(options: argparse.Namespace) -> int:
    from .compression.command import compress_files

    return compress_files(options)


def _instructions(options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps({row.name: {"opcode": row.opcode, "fields": row.layout()}
                          for row in isa.INSTRUCTIONS}))
    else:
        print(isa.documentation(), end="")
    return 0


def _registers(options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps({register.name: register.offset for register in registers.REGISTERS}))
    else:
        print(registers.documentation(), end="")
    return 0


def _lint(options: argparse.Namespace) -> int:
    from .compression.rtl import blocks as compression_blocks
    from .interconnect.cluster import blocks as interconnect_blocks
    from .verilog import generate

    blocks = [*(compression_blocks() if options.compression else ()),
              *(interconnect_blocks() if options.interconnect else ())]
    if blocks:
        texts = {name: generate(block, name=name)[0] for name, block in blocks}
    else:
        name, text, _ = _verilog(options)
        texts = {name: text}
    verilator, environment = verilator_command()
    clean, outputs = True, []
    for name, text in texts.items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"{name}.v").write_text(text)
            result = subprocess.run(
                [*verilator, "--lint-only", "-Wall", *(f"-Wno-{kind}" for kind in LINT_WAIVERS),
                 "--top-module", name, f"{name}.v"],
                cwd=folder, env=environment, capture_output=True, text=True, check=False)
        clean &= result.returncode == 0
        output = (result.stdout + result.stderr).strip()
        outputs.append(output)
        if not options.json:
            if output:
                print(output)
            verdict = "warnings" if result.returncode else "no warning"
            print(f"{name}: {verdict}; waived are {', '.join(LINT_WAIVERS)}")
    if options.json:
        print(json.dumps({"clean": clean, "waived": LINT_WAIVERS,
                          "output": "\n".join(filter(None, outputs))}))
    return 0 if clean else 1


def _report(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from .core import Core
    from .synthesis import measure

    config = load_config(options.config)
    if options.html is not None:
        from .report import report_page

        options.html.write_text(report_page(config), encoding="utf-8")
        print(json.dumps({"file": str(options.html)}) if options.json else f"wrote {options.html}")
        return 0
    with Console(stderr=True).status("") as status:
        figures = measure(Core(config=config), name=config.name, progress=status.update,
                          seeds=[options.seed] if options.route else [],
                          target_mhz=options.target)
    if options.json:
        print(json.dumps(figures))
        return 0
    table = Table(title=f"{config.name} on the {figures['device']}")
    for heading in ("block", "COMB", "FF", "DSP", "BRAM"):
        table.add_column(heading, justify="left" if heading == "block" else "right")
    for name, area in figures["areas"].items():
        table.add_row(name, *(str(value) for value in area.values()))
    Console().print(table)
    for routed in figures["routed"]:
        print(f"routed, seed {routed['seed']}: {routed['fmax']} MHz, {routed['comb']} COMB, "
              f"{routed['flip_flops']} FF, {routed['multipliers']} DSP, "
              f"{routed['block_rams']} BRAM")
    return 0


if __name__ == "__main__":
    sys.exit(main())
