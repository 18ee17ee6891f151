"""Gradient compression: throughput of the RTL in cycles; with `--golden` the speed of the golden
model, which wants a machine that does nothing else; with `--synth` area and clock frequency of
encoder, decoder and engine on the ECP5-85F.
"""

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np
from amaranth.lib import wiring
from record import last, record
from rich.console import Console
from synthesis import measure_apart
from ulpcore.compression.decoder import Decoder
from ulpcore.compression.encoder import Encoder
from ulpcore.compression.engine import CompressionEngine
from ulpcore.compression.positions import LANES
from ulpcore.compression.rtl import LayerJob, RoundJob, decode, encode
from ulpsim.compression.adacomp import LARGEST_BIN, Settings, compress_array, point_for
from ulpsim.compression.packets import packets_of

_ELEMENTS = 1 << 20
_BINS = (50, 64, 500)
_TARGET = 100.0
BLOCKS = ("decoder", "encoder", "engine")
#: Lanes and bytes of the bus that go together.
_ENGINES = ((1, 4), (8, 64))


def gradients(steps: int, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(1e-3 * rng.standard_normal(_ELEMENTS)).astype(np.float32) for _ in range(steps)]


def golden() -> dict[str, float]:
    """Millions of elements a second, packets included, on two threads, the best of five."""
    figures = {}
    for bin_size in _BINS:
        residue, best = np.zeros(_ELEMENTS, np.int32), 0.0
        for step, gradient in enumerate(gradients(5)):
            settings = Settings(bin_size, 2, point_for(gradient))
            start = time.perf_counter()
            ours = compress_array(residue, gradient, settings, threads=2)
            packets_of(ours, bin_size, layer=0, learner=0, step=step)
            best = max(best, _ELEMENTS / (time.perf_counter() - start) / 1e6)
            residue = ours.residue
        figures[f"bin {bin_size}"] = round(best, 1)
    return figures


def throughput(lanes: int) -> dict[str, float]:
    """Elements a cycle over a layer of a million elements, from the first row taken to the last,
    and of both passes that the exact mean takes."""
    gradient, = gradients(1)
    figures = {}
    for bin_size in _BINS:
        settings = Settings(bin_size, 2, point_for(gradient))
        ours = compress_array(np.zeros(_ELEMENTS, np.int32), gradient, settings)
        run = encode(lanes, [LayerJob(np.zeros(_ELEMENTS, np.int32), gradient, settings,
                                      ours.mean)])
        if run.layers[0].packets != packets_of(ours, bin_size, layer=0, learner=0, step=0):
            raise RuntimeError("packets of RTL and golden model differ")
        figures[f"bin {bin_size}"] = _ELEMENTS / run.cycles
    return figures


def decoder() -> dict[str, float]:
    """Words a cycle over the packets of four learners, without skips among them."""
    elements = 1 << 14
    ones = np.full(elements, 0.5, np.float32)
    ours = compress_array(np.zeros(elements, np.int32), ones, Settings(500, 2, 16))
    packets = [p for learner in range(4)
               for p in packets_of(ours, 500, layer=0, learner=learner, step=0)]
    run = decode(np.zeros(elements, np.uint32), [RoundJob(0, 0, 4, elements)], packets)
    return {"words_a_cycle": 4 * elements / (int(run.written[-1] - run.written[0]) + 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golden", action="store_true", help="speed of the golden model")
    parser.add_argument("--synth", action="store_true", help="area, and with --seeds frequency")
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(BLOCKS),
                        help="those that --synth is for; figures of the others stay")
    parser.add_argument("--lanes", type=int, nargs="*", default=list(LANES), choices=LANES)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1],
                        help="nextpnr's seeds (default: 1; none: area alone)")
    parser.add_argument("--largest-bin", type=int, default=LARGEST_BIN, metavar="N",
                        help=f"that the encoder's buffer holds (default: {LARGEST_BIN})")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    if options.golden:
        record("compression-golden", {"million_elements_a_second": golden()},
               keep=not options.no_keep)
        return 0
    if not options.synth:
        record("compression", {
            "encoder_elements_a_cycle": {str(n): throughput(n) for n in options.lanes},
            "decoder": decoder()}, keep=not options.no_keep)
        return 0
    figures = last("synthesis-compression")
    with Console(stderr=True).status("") as status:
        for name, component, lanes in _blocks(options.blocks, options.lanes, options.largest_bin):
            figures[name] = measure_apart(component, name, options.seeds, _TARGET, status.update)
            if lanes:
                figures[name]["comb_a_lane"] = round(figures[name]["area"]["comb"] / lanes)
            # One by one: all of them take more than an hour.
            record("synthesis-compression", figures, keep=not options.no_keep)
    return 0


def _blocks(kinds: list[str], lanes: list[int], largest_bin: int
            ) -> Iterator[tuple[str, wiring.Component, int]]:
    """Name, block, and the lanes of an encoder."""
    if "decoder" in kinds:
        yield "decoder", Decoder(), 0
    if "encoder" in kinds:
        for n in lanes:
            yield f"encoder, {n} lanes", Encoder(lanes=n, largest_bin=largest_bin), n
    if "engine" in kinds:
        for n, size in _ENGINES:
            if n in lanes:
                yield f"engine, {n} lanes, {size} bytes", CompressionEngine(
                    lanes=n, largest_bin=largest_bin, bus_bytes=size), 0


if __name__ == "__main__":
    sys.exit(main())
