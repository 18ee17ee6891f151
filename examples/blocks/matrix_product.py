"""The array and the accumulators alone: a product of matrices held in memories of one's own.

    python examples/blocks/matrix_product.py

simulates it with Amaranth's own simulator, in DLFloat16, FP8 and 4-bit integers, and compares
every result with the golden model.
"""

import sys
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from ulpcore import Accumulators, Array, CoreConfig
from ulpsim import matmul
from ulpsim.formats import Format, Precision
from ulpsim.programs import random_codes


class MatrixProduct(wiring.Component):
    """Results [vectors, N] = activations [vectors, K] times weights [K, N]; N outputs of the array.

    K is a whole number of tiles of `config.rows` slots. The array takes a vector of one tile each
    cycle; the tile's sums are added to the accumulators, one vector's in one address.

    Parameters
    ----------
    config
        The array.
    kind
        Format of both matrices, of a precision that the array has.
    vectors
        Rows of the result, at most `config.accumulator_depth`.
    tiles
        Tiles along K.

    Members
    -------
    activation_write : In(1), activation_address : In, activations : In(rows x 16)
        Slots of tile t of vector m go to address t * vectors + m.
    weight_write : In(1), weight_line : In, weights : In(N x 16)
        Slots k of all columns go to line k.
    start : In(1), done : Out(1)
        A pulse begins the product; a pulse tells that all results can be read.
    result_address : In, results : Out(N x 32)
        Result of a vector, FP32 or INT32, one cycle after its address.
    """

    activation_write: Signal
    activation_address: Signal
    activations: Any
    weight_write: Signal
    weight_line: Signal
    weights: Any
    start: Signal
    done: Signal
    result_address: Signal
    results: Any

    def __init__(self, *, config: CoreConfig, kind: Format, vectors: int, tiles: int) -> None:
        if not 1 <= vectors <= config.accumulator_depth:
            raise ValueError(f"vectors must be from 1 to {config.accumulator_depth}, the "
                             f"accumulators of each column, not {vectors}")
        self.config, self.kind, self.vectors, self.tiles = config, kind, vectors, tiles
        #: Cycles from one tile to the next.
        self.period = max(vectors, config.minimum_tile_period)
        self.array = Array(config=config)
        self.accumulators = Accumulators(config=config)
        super().__init__({
            "activation_write": In(1),
            "activation_address": In(range(tiles * vectors)),
            "activations": In(data.ArrayLayout(16, config.rows)),
            "weight_write": In(1),
            "weight_line": In(range(tiles * config.rows)),
            "weights": In(data.ArrayLayout(16, config.column_lanes)),
            "start": In(1),
            "done": Out(1),
            "result_address": In(range(config.accumulator_depth)),
            "results": Out(data.ArrayLayout(32, config.column_lanes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, array, accumulators = self.config, self.array, self.accumulators
        m.submodules.array = array
        m.submodules.accumulators = accumulators
        m.submodules.activation_memory = activation_memory = Memory(
            shape=16 * config.rows, depth=self.tiles * self.vectors, init=[])
        m.submodules.weight_memory = weight_memory = Memory(
            shape=16 * config.column_lanes, depth=self.tiles * config.rows, init=[])
        for memory, write, address, word in (
                (activation_memory, self.activation_write, self.activation_address,
                 self.activations),
                (weight_memory, self.weight_write, self.weight_line, self.weights)):
            port = memory.write_port()
            m.d.comb += [port.en.eq(write), port.addr.eq(address), port.data.eq(word)]
        vector_port, weight_port = activation_memory.read_port(), weight_memory.read_port()

        # Step s of a tile reads row s of its weights and its vector s.
        running = Signal()
        tile = Signal(range(self.tiles))
        step = Signal(range(self.period))
        with m.If(self.start):
            m.d.sync += [running.eq(1), tile.eq(0), step.eq(0),
                         vector_port.addr.eq(0), weight_port.addr.eq(0)]
        with m.Elif(running):
            m.d.sync += step.eq(step + 1)
            with m.If(step < self.vectors):
                m.d.sync += vector_port.addr.eq(vector_port.addr + 1)
            with m.If(step < config.rows):
                m.d.sync += weight_port.addr.eq(weight_port.addr + 1)
            with m.If(step == self.period - 1):
                m.d.sync += [step.eq(0), tile.eq(tile + 1), running.eq(tile != self.tiles - 1)]

        # A row of weights is given one cycle after it was read, the vector two cycles later still:
        # the weights of row 0 must be there two cycles before the vector that takes them into use.
        precision = self.kind.precision.value
        sign = self.kind.signed and self.kind.precision.is_integer
        m.d.sync += [
            array.weight_valid.eq(running & (step < config.rows)),
            array.weight_row.eq(step),
        ]
        m.d.comb += [
            array.weights.eq(weight_port.data),
            array.weight_precision.eq(precision),
            array.weight_target.eq(precision),
            array.weight_signed.eq(sign),
        ]
        given = Cat(running & (step < self.vectors), step == 0, tile == 0,
                    (tile == self.tiles - 1) & (step == self.vectors - 1), step)
        read, waiting = Signal.like(given), Signal.like(given)
        vector = Signal.like(vector_port.data)
        m.d.sync += [
            read.eq(given),
            waiting.eq(read),
            vector.eq(vector_port.data),
            array.vector.eq(vector),
            Cat(array.valid, array.swap, array.overwrite, array.last).eq(waiting[:4]),
            array.address.eq(waiting[4:]),
        ]
        m.d.comb += [
            array.mask.eq(-1),
            array.precision.eq(precision),
            array.activation_signed.eq(sign),
            array.vector_weight_signed.eq(sign),
            array.forward_bias.eq(self.kind.bias),
            accumulators.sums.eq(array.sums),
            *(getattr(accumulators, name).eq(getattr(array, f"sum_{name}"))
              for name in ("valid", "is_float", "address", "overwrite", "last", "post")),
            self.done.eq(accumulators.retired),
            accumulators.read_address.eq(self.result_address),
            self.results.eq(accumulators.read_data),
        ]
        return m


def simulate(product: MatrixProduct, activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The product of slots [vectors, K] and [K, N]: bits [vectors, N]."""
    rows = product.config.rows
    results: list[list[int]] = []

    async def bench(ctx) -> None:
        ctx.set(product.activation_write, 1)
        for tile in range(product.tiles):
            for vector in range(product.vectors):
                ctx.set(product.activation_address, tile * product.vectors + vector)
                ctx.set(product.activations,
                        activations[vector, tile * rows:][:rows].tolist())
                await ctx.tick()
        ctx.set(product.activation_write, 0)
        ctx.set(product.weight_write, 1)
        for line, slots in enumerate(weights.tolist()):
            ctx.set(product.weight_line, line)
            ctx.set(product.weights, slots)
            await ctx.tick()
        ctx.set(product.weight_write, 0)
        ctx.set(product.start, 1)
        await ctx.tick()
        ctx.set(product.start, 0)
        await ctx.tick().until(product.done)
        for vector in range(product.vectors):
            ctx.set(product.result_address, vector)
            await ctx.tick()
            results.append([ctx.get(product.results[n])
                            for n in range(product.config.column_lanes)])

    simulator = Simulator(product)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(results, np.uint32)


def main() -> int:
    rng = np.random.default_rng(1)
    failed = False
    for kind, vectors, tiles in ((Format(Precision.FP16), 5, 3), (Format(Precision.E4M3), 7, 2),
                                 (Format(Precision.INT4), 20, 2)):
        formats = {Precision.FP16, kind.precision} if kind.precision.is_float else {kind.precision}
        config = CoreConfig(name="small", rows=4, columns=8, formats=tuple(formats),
                            multiply_add_stages=4, accumulator_depth=32)
        product = MatrixProduct(config=config, kind=kind, vectors=vectors, tiles=tiles)
        depth = tiles * config.rows
        slots = random_codes(rng, Format(Precision.FP16), (vectors + config.column_lanes, depth))
        activations, weights = np.split(slots.astype(np.uint16), [vectors])
        results = simulate(product, activations, weights.T)
        expected = matmul.matmul(activations, weights.T, kind, kind, config.rows)
        differing = int(np.count_nonzero(results != expected))
        failed |= bool(differing)
        print(f"{kind}: {results.size} results of {depth * kind.precision.per_slot} products each, "
              f"{differing} differ from the golden model")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
