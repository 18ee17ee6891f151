"""The core: every block, connected; twins `ulpsim.interpreter` and `ulpsim.cycles`."""

from typing import Any

from amaranth.hdl import Module, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig

from .accumulators import Accumulators
from .array import Array
from .bus import AXI4Lite, AXI4Read, AXI4Write
from .compression.engine import CompressionEngine
from .exchange import Exchange
from .execute import Execute
from .fold import GroupSums
from .interconnect.arbitration import ReadArbiter, WriteArbiter
from .interconnect.collective_command import CollectiveCommand, CollectiveCompletion
from .load import Load
from .registers import Registers
from .scratchpad import (
    ActivationScratchpad,
    ParameterMemory,
    PhaseCounter,
    WeightScratchpad,
    require_config,
)
from .sequencer import Sequencer
from .special import Special
from .store import Store
from .unit import connect_unit
from .verilog import once

__all__ = ["Core"]


class _Copy(wiring.Component):
    """A register of its own module, which synthesis does not merge with others like it."""

    coming: Signal
    present: Signal

    def __init__(self, width: int = 1) -> None:
        super().__init__({"coming": In(width), "present": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.present.eq(self.coming)
        return m


class Core(wiring.Component):
    """A whole core.

    Parameters
    ----------
    config
        What to build.

    Members
    -------
    registers : In(AXI4Lite)
        The host's view: `ulpsim.registers`.
    read : Out(AXI4Read), write : Out(AXI4Write)
        External memory: program, weights, inputs, outputs, gradients.
    interrupt : Out(1)
        High while a finished or failed run waits for the host, if enabled.
    collective : Out(stream(CollectiveCommand)), collective_done : In(stream(CollectiveCompletion))
    collective_stop : Out(1), nodes : In(9), status : Out(3)
        Of a core with an exchange unit: to the collective engine beside it; how many nodes there
        are; busy, done and fault, as in the register STATUS. The compression engine is in the core.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = require_config(config)
        super().__init__({
            "registers": In(AXI4Lite(address_width=8)),
            "read": Out(AXI4Read(data_bytes=config.bus_bytes)),
            "write": Out(AXI4Write(data_bytes=config.bus_bytes)),
            "interrupt": Out(1),
            **({"collective": Out(stream.Signature(CollectiveCommand)),
                "collective_done": In(stream.Signature(CollectiveCompletion)),
                "collective_stop": Out(1), "nodes": In(9), "status": Out(3)}
               if config.exchange else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        registers = Registers(config=config)
        sequencer = Sequencer(config=config)
        load = Load(config=config)
        execute = Execute(config=config)
        special = Special(config=config)
        store = Store(config=config)
        array = Array(config=config)
        accumulators = Accumulators(config=config)
        activations = ActivationScratchpad(config=config)
        weights = WeightScratchpad(config=config)
        parameters = ParameterMemory(config=config)

        m.submodules.registers = registers
        m.submodules.sequencer = sequencer
        groups = GroupSums(config=config) if config.fold > 1 else None
        # Each block has its own copies of what would otherwise cross the whole device: `clear`,
        # and the turn at the scratchpad's shared port.
        for name, block in (("load", load), ("execute", execute), ("special", special),
                            ("store", store), ("array", array), ("accumulators", accumulators),
                            ("activations", activations), ("weights", weights),
                            ("parameters", parameters),
                            *([("groups", groups)] if groups is not None else [])):
            m.submodules[f"{name}_clear"] = clear = _Copy()
            m.d.comb += clear.coming.eq(sequencer.coming_clear)
            m.submodules[name] = ResetInserter(clear.present)(block)
            if block in (load, special, store):
                phase = PhaseCounter(config=config)
                m.submodules[f"{name}_phase"] = ResetInserter(clear.present)(phase)
                m.d.comb += block.phase.eq(phase.phase)

        wiring.connect(m, wiring.flipped(self.registers), registers.bus)
        quiet = load.quiet & store.quiet
        if config.exchange:
            quiet &= self._add_exchange(m, platform, registers, sequencer, load, store)
        else:
            wiring.connect(m, wiring.flipped(self.read), load.bus)
            wiring.connect(m, wiring.flipped(self.write), store.bus)
        m.d.comb += self.interrupt.eq(registers.interrupt)
        self._connect_control(m, registers, sequencer, load, store, quiet)
        for name, unit in (("load", load), ("execute", execute), ("special", special),
                           ("store", store)):
            connect_unit(m, getattr(sequencer, name), unit)
        self._connect_memories(m, load, special, store, activations, weights, parameters)
        for name, block in (("array", array), ("special", special)):
            m.submodules[f"{name}_bias"] = bias = _Copy(len(registers.forward_bias))
            m.d.comb += [bias.coming.eq(registers.forward_bias),
                         block.forward_bias.eq(bias.present)]
        self._connect_array(m, execute, array, accumulators, activations, weights)
        if groups is not None:
            m.d.comb += activations.gather_groups.eq(execute.gather_groups)
        self._connect_special(m, special, accumulators, groups, activations, parameters)
        return m

    def _add_exchange(self, m: Module, platform: Any, registers: Any, sequencer: Any, load: Any,
                      store: Any) -> Signal:
        """The exchange unit and its compression engine, which shares the memory port; returns that
        they are quiet.

        The engine is not cleared with the core: a run that ends has ended its commands.
        """
        config = self.config
        m.submodules.exchange_clear = clear = _Copy()
        exchange = Exchange(config=config)
        m.submodules.exchange = ResetInserter(clear.present)(exchange)
        engine = CompressionEngine(lanes=config.exchange, largest_bin=config.largest_bin,
                                   bus_bytes=config.bus_bytes)
        m.submodules.compression = once(platform, engine, "compression_engine")
        options = {"masters": 2, "data_bytes": config.bus_bytes}
        m.submodules.reads = reads = ReadArbiter(**options)
        m.submodules.writes = writes = WriteArbiter(**options)
        for i, (reader, writer) in enumerate(((load.bus, store.bus), (engine.read, engine.write))):
            wiring.connect(m, reader, getattr(reads, f"master_{i}"))
            wiring.connect(m, writer, getattr(writes, f"master_{i}"))
        for source, sink in (
                (reads.bus, wiring.flipped(self.read)), (writes.bus, wiring.flipped(self.write)),
                (exchange.commands, engine.commands), (engine.completions, exchange.completions),
                (exchange.collective, wiring.flipped(self.collective)),
                (wiring.flipped(self.collective_done), exchange.collective_done)):
            wiring.connect(m, source, sink)
        connect_unit(m, sequencer.exchange, exchange)
        m.d.comb += [
            clear.coming.eq(sequencer.coming_clear),
            engine.stop.eq(exchange.abort), self.collective_stop.eq(exchange.abort),
            exchange.segments.eq(registers.segments), exchange.step.eq(registers.step),
            exchange.round.eq(registers.round), exchange.nodes.eq(self.nodes),
            self.status.eq(registers.status),
            registers.nodes.eq(self.nodes), registers.exchange_fault.eq(exchange.exchange_fault)]
        return exchange.quiet

    @staticmethod
    def _connect_control(m, registers, sequencer, load, store, quiet) -> None:
        m.d.comb += [
            sequencer.start.eq(registers.start),
            sequencer.reset.eq(registers.reset),
            sequencer.program_address.eq(registers.program_address),
            sequencer.program_length.eq(registers.program_length),
            sequencer.watchdog.eq(registers.watchdog),
            registers.busy.eq(sequencer.busy),
            registers.done.eq(sequencer.done),
            registers.fault.eq(sequencer.fault),
            registers.fault_cause.eq(sequencer.fault_cause),
            registers.fault_index.eq(sequencer.fault_index),
            registers.cycles.eq(sequencer.cycles),
            sequencer.quiet.eq(quiet),
            load.fetch_first.eq(sequencer.fetch_first),
            sequencer.fetched.eq(load.fetched),
            sequencer.program_enable.eq(load.program_enable),
            sequencer.program_write_address.eq(load.program_address),
            sequencer.data.eq(load.data),
            load.segments.eq(registers.segments),
            store.segments.eq(registers.segments),
        ]
        wiring.connect(m, sequencer.fetch, load.fetch)

    @staticmethod
    def _connect_memories(m, load, special, store, activations, weights, parameters) -> None:
        m.d.comb += [
            activations.load.enable.eq(load.activation_enable),
            activations.load.address.eq(load.activation_address),
            activations.load.count.eq(load.activation_count),
            activations.load.data.eq(load.data),
            activations.store.enable.eq(store.activation_enable),
            activations.store.address.eq(store.activation_address),
            activations.store.count.eq(store.activation_count),
            store.activation_data.eq(activations.store.data),
            weights.write_enable.eq(load.weight_enable),
            weights.write_line.eq(load.weight_line),
            Value.cast(weights.write_data).eq(load.data),
            parameters.write_enable.eq(load.parameter_enable),
            parameters.write_line.eq(load.parameter_line),
            parameters.write_data.eq(load.parameter_data),
        ]

    @staticmethod
    def _connect_array(m, execute, array, accumulators, activations, weights) -> None:
        m.d.comb += [
            activations.gather_enable.eq(execute.gather_enable),
            activations.addresses.eq(execute.gather_addresses),
            execute.gathered.eq(activations.gathered),
            weights.read_enable.eq(execute.weight_read_enable),
            weights.read_line.eq(execute.weight_read_line),
            execute.weight_read_data.eq(weights.read_data),
            *(getattr(array, name).eq(getattr(execute, name)) for name in (
                "vector", "mask", "valid", "swap", "precision", "activation_signed",
                "vector_weight_signed", "vector_odd", "address", "overwrite", "last", "post",
                "weights", "weight_valid", "weight_row", "weight_precision", "weight_target",
                "weight_signed", "weight_part")),
            accumulators.sums.eq(array.sums),
            *(getattr(accumulators, name).eq(getattr(array, f"sum_{name}")) for name in (
                "valid", "is_float", "address", "overwrite", "last", "post")),
            execute.completed.eq(accumulators.retired),
            execute.completed_post.eq(accumulators.retired_post),
        ]

    @staticmethod
    def _connect_special(m, special, accumulators, groups, activations, parameters) -> None:
        wiring.connect(m, special.activation_read, activations.special_read)
        wiring.connect(m, special.activation_write, activations.special_write)
        m.d.comb += [
            accumulators.read_address.eq(special.accumulator_address),
            parameters.read_enable.eq(special.parameter_enable),
            parameters.read_line.eq(special.parameter_line),
            special.parameters.eq(parameters.read_data),
        ]
        if groups is None:
            m.d.comb += special.accumulators.eq(accumulators.read_data)
            return
        m.d.comb += [
            groups.phase.eq(activations.phase),
            groups.fold.eq(special.fold),
            groups.is_float.eq(special.fold_is_float),
            groups.sums.eq(accumulators.read_data),
            special.accumulators.eq(groups.folded),
        ]
