"""Energy of the units that are not measured while one network of each format runs: the encoder of
gradients, the router and a slice of the array.

As there, mapped netlists get what the units got in RTL, and must give what these gave.
"""

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from amaranth.lib import wiring
from ulpcore.activity import replay
from ulpcore.array import Array
from ulpcore.cells import map_cells, measure_timing
from ulpcore.compression.encoder import Encoder
from ulpcore.compression.rtl import LayerJob, command_row, rows_of
from ulpcore.demonstration import load_images
from ulpcore.interconnect.network_rtl import NetworkBench
from ulpcore.interconnect.router import Router
from ulpcore.power import Energy, Model, leakage
from ulpcore.recording import record_streams
from ulpcore.simulation import port_widths, run_vectors
from ulpcore.verilog import mark_used
from ulpsim.compression.adacomp import Settings, compress_array, point_for
from ulpsim.config import CoreConfig
from ulpsim.formats import Precision
from ulpsim.interconnect.delivery import random_traffic
from ulpsim.interconnect.packets import packet_flits
from ulpsim.interconnect.router import DEPTH
from ulpsim.interconnect.topology import Torus
from ulpsim.small_network import SmallNetwork

__all__ = ["energy_row", "figures_of", "measure_encoder", "measure_router", "measure_slice",
           "slice_config"]

TOPOLOGY, PLACE = Torus(4, 4), (1, 2)
#: Flits of 64 bits that terminals offer in a cycle, on average, to all others alike.
LOADS = (0.1, 0.3, 1.0)
WARM, WINDOW = 500, 2000
#: Settings and size of the encoder, and steps after which gradients are taken.
LANES, LARGEST_BIN, FACTOR, STEPS = 1, 500, Fraction(2), 20

Tell = Callable[[str], None]


def figures_of(component: wiring.Component, period: float, groups: Mapping[str, str] | None = None,
               *, memories: bool = True) -> tuple[dict[str, Any], Model]:
    """Area, timing and leakage, and the model of the energy."""
    netlist = map_cells(component, period_ns=period, memories=memories)
    model = Model(netlist, groups)
    return {"area_um2": round(netlist.area), "cells": netlist.cells,
            "flip_flops": netlist.flip_flops,
            **({} if memories else {"memory_bits_cut": netlist.memory_bits}),
            **measure_timing(netlist, period_ns=period),
            "leakage_uw": round(leakage(netlist) * 1e6, 4)}, model


def energy_row(energy: Energy) -> dict[str, float]:
    """What a cycle takes."""
    return {"pj_a_cycle": round(energy.total, 2), "clock": round(energy.clock, 2),
            "registers": round(energy.registers, 2), "logic": round(energy.logic, 2)}


def _energy(model: Model, component: wiring.Component, ports: Mapping[str, np.ndarray], what: str
            ) -> Energy:
    activity = replay(model.netlist, component, ports, first=WARM)
    if not activity.agree:
        raise RuntimeError(f"the netlist of {what} must do what the RTL does; {activity.agreeing}")
    return model.energy(activity.toggles)


def _per(energy: Energy, count: float, unit: str) -> dict[str, float]:
    """Energy of one of `count` a cycle."""
    return {f"pj_a_{unit}": round(energy.total / count, 3),
            f"pj_a_{unit}_without_clock": round((energy.registers + energy.logic) / count, 3)}


def measure_encoder(period: float, tell: Tell) -> tuple[dict[str, Any], dict[str, Any]]:
    """The AdaComp encoder, its memories cut out, as gradients of Fashion-MNIST pass it: those of
    the largest layer of a small network after some steps, and the residue of the steps before."""
    tell("mapping the encoder")
    block, model = figures_of(_encoder(), period, memories=False)
    images, labels = load_images(None, 256)
    rng = np.random.default_rng(1)
    network = SmallNetwork(rng)
    residue: np.ndarray | None = None
    for step in range(STEPS):
        chosen = rng.integers(0, len(images), 32)
        gradients, _ = network.gradients(images[chosen], labels[chosen].astype(int))
        network.descend(gradients, 0.3)
        gradient = max(gradients.values(), key=len)
        if residue is None:
            residue = np.zeros(len(gradient), np.int32)
            settings = Settings(LARGEST_BIN, FACTOR, point_for(gradient))
        ours = compress_array(residue, gradient, settings)
        if step < STEPS - 1:
            residue = ours.residue
    tell("the encoder on the RTL")
    job = LayerJob(residue, gradient, settings, ours.mean)
    ports, _ = record_streams(
        _encoder(), {"layers": command_row(job, ours.mean, measure=False)[np.newaxis],
                     "gradients": rows_of(gradient, LANES), "residues": rows_of(residue, LANES)},
        "", _encoder(), cycles=WARM + WINDOW)
    tell("toggles in the encoder")
    energy = _energy(model, _encoder(), ports, "the encoder")
    taken = (ports["gradients__valid"] & ports["gradients__ready"])[WARM:]
    rate = LANES * float(taken.mean())
    return block, {"lanes": LANES, "largest_bin": LARGEST_BIN, "elements_a_cycle": round(rate, 4),
                   "cycles": WINDOW, **energy_row(energy), **_per(energy, rate, "element")}


def _encoder() -> Encoder:
    encoder = Encoder(lanes=LANES, largest_bin=LARGEST_BIN)
    mark_used(encoder)
    return encoder


def measure_router(period: float, tell: Tell, *, memories: bool
                   ) -> tuple[dict[str, Any], dict[str, Any]]:
    """A router in the middle of a torus of 4 x 4 under uniform traffic. Its buffers are flip-flops,
    or, without `memories`, cut out: what is left is what chooses and passes on."""
    tell("mapping the router")
    block, model = figures_of(_router(), period, memories=memories)
    runs = {}
    for load in LOADS:
        tell(f"the router on the RTL, load {load}")
        count = len(TOPOLOGY.nodes)
        # Packets of half of the most bytes on average, and some more of them than are needed.
        flits = packet_flits(0, 64) + 3.5
        traffic = random_traffic(TOPOLOGY, round(1.6 * (WARM + WINDOW) * load * count / flits),
                                 np.random.default_rng(1), multicast=0)
        rows = [np.column_stack([queue.data.view("<u4").reshape(-1, 2),
                                 queue.marks.astype(np.uint32)]) for queue in traffic.queues]
        ports, _ = record_streams(
            NetworkBench(TOPOLOGY, DEPTH), {f"in_{i}": row for i, row in enumerate(rows)},
            "network.router_" + "_".join(map(str, PLACE)), _router(), cycles=WARM + WINDOW,
            stalls={f"in_{i}": 1 - load for i in range(count)})
        tell(f"toggles in the router, load {load}")
        energy = _energy(model, _router(), ports, "the router")
        rate = sum(float(_passes(ports, name).mean()) for name in ports
                   if name.startswith(("terminals_out", *(f"{d}_out" for d in _DIRECTIONS)))
                   and name.endswith("__valid"))
        runs[str(load)] = {"flits_a_cycle": round(rate, 4), **energy_row(energy),
                           **_per(energy, rate, "flit"), **_per(energy, 64 * rate, "bit")}
    return block, {"topology": "torus 4 x 4", "flit_bits": 64, "depth": DEPTH, "cycles": WINDOW,
                   "buffers": "flip-flops" if memories else "cut out", "loads": runs}


_DIRECTIONS = ("x_up", "x_down", "y_up", "y_down")


def _router() -> Router:
    router = Router(topology=TOPOLOGY, place=PLACE)
    mark_used(router)
    return router


def _passes(ports: Mapping[str, np.ndarray], valid: str) -> np.ndarray:
    """Whether a flit leaves in each counted cycle: a link's bits of `valid` are one at most, and
    what is on a link is always taken."""
    goes = ports[valid][WARM:] != 0
    return goes & (ports[valid.replace("valid", "ready")][WARM:] != 0) if (
        valid.startswith("terminals")) else goes


def slice_config(config: CoreConfig) -> CoreConfig:
    """Two rows."""
    return dataclasses.replace(config, rows=2)


def measure_slice(config: CoreConfig, model: Model, ports: Mapping[str, np.ndarray], first: int,
                  share: float, precision: Precision, tell: Tell, *,
                  taken_as: Precision | None = None) -> dict[str, Any]:
    """Two rows of the array with what its first two rows got while a network ran.

    `ports` are those of the whole array, `first` the cycle in which the window begins, `share` the
    part of its cycles that have a vector of `precision`. Their bits, and those of the weights, can
    be `taken_as` ones of another precision.
    """
    component = Array(config=slice_config(config))
    inputs = {}
    window = slice(first - WARM, first + WINDOW)
    for name, width in port_widths(component)[0].items():
        words = ports[name][window, :-(-width // 32)].copy()
        if width < 32:
            words &= np.uint32((1 << width) - 1)
        inputs[name] = words
    inputs["weight_valid"] &= (ports["weight_row"][window] < 2).astype(np.uint32)
    if taken_as is not None:
        for name in ("precision", "weight_precision", "weight_target"):
            inputs[name][inputs[name] == precision.value] = taken_as.value
    tell("a slice of the array on the RTL")
    given = {name: words if words.shape[1] > 2 else sum(
        (words[:, i].astype(np.uint64) << np.uint64(32 * i) for i in range(words.shape[1])),
        start=np.zeros(len(words), np.uint64)) for name, words in inputs.items()}
    outputs = {name: values if values.ndim == 2 else values[:, np.newaxis].astype("<u8").view("<u4")
               for name, values in run_vectors(component, given).items()}
    tell("toggles in a slice of the array")
    energy = _energy(model, component, inputs | outputs, "a slice of the array")
    elements = 2 * config.columns
    multiply_adds = share * (taken_as or precision).per_slot * config.lanes
    return {"elements": elements, "cycles": WINDOW, **energy_row(energy),
            "pj_a_cycle_and_element": round(energy.total / elements, 2),
            **_per(energy, multiply_adds * elements, "multiply_add")}
