"""`ulpcore compress`: gradients in files, through the golden model and through the RTL."""

import json
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ulpsim.compression.adacomp import (
    Compressed,
    Gradient,
    gradient_values,
    quantise_array,
    residue_values,
)
from ulpsim.compression.learner import Learner, LearnerLayer, bin_size_for, layers_of
from ulpsim.compression.packets import STEPS, PacketCause, Round, empty_packet
from ulpsim.compression.words import word_bits

__all__ = ["add_arguments", "compress_files", "load_gradients"]


def add_arguments(parser: Any) -> None:
    """The options of `ulpcore compress`."""
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.npy|FILE.npz",
                        help="gradients, a file for each step: one array, or one for each "
                        "parameter; those whose names are equal up to the last dot are a layer; "
                        "arrays of uint16 are codes of DLFloat16")
    parser.add_argument("--bin-size", type=int, metavar="N",
                        help="elements in a bin, 1 to 16384 (default: 50 for weights of three "
                        "dimensions and more, else 500)")
    parser.add_argument("--factor", type=float, default=2, metavar="F",
                        help="soft threshold, a multiple of 1/4 (default: 2)")
    parser.add_argument("--point", type=int, metavar="P",
                        help="residues are multiples of 2^-P (default: by the first gradient)")
    parser.add_argument("--scale", choices=("mean", "previous"), default="mean",
                        help="exact mean of the step, or that of the step before (default: mean)")
    parser.add_argument("--learner", type=int, default=0, metavar="N",
                        help="number in the packets (default: 0)")
    parser.add_argument("--residues", type=Path, metavar="FILE.npz",
                        help="go on with the residues of an earlier call")
    parser.add_argument("--output", type=Path, metavar="FOLDER",
                        help="write the packets of each step, and residues.npz")
    parser.add_argument("--rtl", action="store_true",
                        help="also run encoder and decoder in RTL and compare every bit")
    parser.add_argument("--lanes", type=int, default=8, metavar="N",
                        help="elements a cycle of the RTL: 1, 4, 8 or 16 (default: 8)")


def load_gradients(path: Path) -> dict[str, NDArray]:
    """The arrays of a file by their names (that of the file if it is a .npy).

    Raises ValueError for a file that is none, an array that is empty or neither of floats nor, as
    codes of DLFloat16, of uint16.
    """
    arrays = _load(path, "gradients")
    if not arrays:
        raise ValueError(f"{path} must hold an array, it has none")
    for name, array in arrays.items():
        if array.dtype != np.uint16 and (array.dtype.kind != "f" or array.dtype.itemsize > 8):
            raise ValueError(f"{name} in {path} must be of float16, float32 or float64, or codes "
                             f"of DLFloat16 in uint16, not {array.dtype}")
        if not array.size:
            raise ValueError(f"{name} in {path} must have elements, its shape is {array.shape}")
    return arrays


def _load(path: Path, what: str) -> dict[str, NDArray]:
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"{what} must be a .npy or .npz file, not {path}")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}
        with loaded:
            return dict(loaded)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as {what}: {error}") from error


def _flat(arrays: list[NDArray]) -> Gradient:
    """A layer's parameters in one; codes only if all are."""
    if all(array.dtype == np.uint16 for array in arrays):
        return np.concatenate([array.ravel() for array in arrays])
    with np.errstate(over="ignore"):
        return np.concatenate([gradient_values(array).ravel().astype(np.float32)
                               for array in arrays])


def compress_files(options: Namespace) -> int:
    """Run the command; 1 if RTL and golden model differ."""
    learner = Learner(options.learner, factor=options.factor,
                      one_pass=options.scale == "previous", threads=2)
    if options.residues is not None:
        learner.load(_load(options.residues, "residues"))
        learner.number = options.learner
    first_step = learner.step
    totals: dict[str, _Totals] = {}
    jobs = []
    for path in options.files:
        arrays = load_gradients(path)
        stream = []
        for name, members in layers_of(arrays).items():
            gradient = _flat([arrays[member] for member in members])
            layer = learner.layer(
                name, gradient, bin_size_for(arrays[members[0]].shape)
                if options.bin_size is None else options.bin_size, options.point)
            before, scale = layer.residue, learner.scale(layer)
            ours, packets = learner.compress(layer, gradient)
            totals.setdefault(name, _Totals(layer, before)).add(
                before, gradient_values(gradient), ours, packets, learner)
            if options.rtl:
                jobs.append((name, layer, before, gradient, scale, learner.step, ours, packets))
            stream += packets
        if options.output is not None:
            options.output.mkdir(parents=True, exist_ok=True)
            (options.output / f"step{learner.step}.packets").write_bytes(b"".join(stream))
        learner.step += 1
    if options.output is not None:
        np.savez(options.output / "residues.npz", **learner.state())
    summary: dict[str, Any] = {
        "steps": len(options.files), "first_step": first_step, "learner": learner.number,
        "factor": options.factor, "scale": options.scale,
        "layers": {name: total.figures() for name, total in totals.items()}}
    summary["all"] = _sum(summary["layers"])
    if options.rtl:
        summary["rtl"] = _run_rtl(options, learner, jobs)
    if options.json:
        print(json.dumps(summary))
    else:
        _show(summary)
    return 1 if any(summary.get("rtl", {}).get("differing", {}).values()) else 0


class _Totals:
    """What is counted of a layer over the steps."""

    def __init__(self, layer: LearnerLayer, residue: NDArray[np.int32]) -> None:
        self.layer = layer
        point = layer.settings.point
        # Both begin with what was left over from before.
        self.given = residue_values(residue, point)
        self.sent = np.zeros(len(residue))
        self.steps = self.words = self.elements_sent = self.bytes = self.packets = 0
        self.refused = 0

    def add(self, before: NDArray[np.int32], gradient: NDArray[np.float32], ours: Compressed,
            packets: list[bytes], learner: Learner) -> None:
        received = np.zeros(len(gradient), np.uint32)
        receiver = Round(received, layer=self.layer.number, step=learner.step,
                         learners=learner.number + 1)
        for packet in _before(learner, self.layer, learner.step) + packets:
            cause = receiver.add(packet)
            if cause is not PacketCause.NONE:
                raise RuntimeError(f"a packet of layer {self.layer.number} is refused: {cause}")
        units, none = quantise_array(gradient, self.layer.settings.point)
        total = before + units.astype(np.int64)
        taken = (total >= -1 << 31) & (total < 1 << 31)
        if none is not None:
            taken &= ~none
        self.given += np.where(taken, gradient, np.float32(0))
        self.sent += received.view(np.float32)
        self.steps += 1
        self.elements_sent += len(ours.positions)
        self.packets += len(packets)
        self.bytes += sum(map(len, packets))
        self.refused += ours.refused

    def figures(self) -> dict[str, Any]:
        settings, elements = self.layer.settings, len(self.sent)
        left = residue_values(self.layer.residue, settings.point)
        norm = float(np.linalg.norm(self.given))
        dense = 4 * elements * self.steps
        return {
            "elements": elements, "bin_size": settings.bin_size, "point": settings.point,
            "word_bits": word_bits(settings.bin_size), "sent": self.elements_sent,
            "sent_a_bin": self.elements_sent / (settings.bins(elements) * self.steps),
            "packets": self.packets, "bytes": self.bytes, "dense_bytes": dense,
            "rate": dense / self.bytes, "refused": self.refused,
            "error": float(np.linalg.norm(self.given - self.sent)) / norm if norm else 0.0,
            "rounding": float(np.abs(self.given - self.sent - left).max()),
            "rounding_bound": self.steps * 2.0 ** (-settings.point - 1)}


def _before(learner: Learner, layer: LearnerLayer, step: int) -> list[bytes]:
    """What the learners before this one send if they send nothing: a receiver waits for it."""
    return [empty_packet(layer.settings.bin_size, layer=layer.number, learner=number, step=step)
            for number in range(learner.number)]


def _sum(layers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    total = {key: sum(layer[key] for layer in layers.values())
             for key in ("elements", "sent", "packets", "bytes", "dense_bytes", "refused")}
    return {**total, "rate": total["dense_bytes"] / total["bytes"]}


def _run_rtl(options: Namespace, learner: Learner, jobs: list) -> dict[str, Any]:
    from .rtl import LayerJob, RoundJob, decode, encode

    run = encode(options.lanes, [
        LayerJob(before, gradient, layer.settings, scale, layer.number, learner.number, step)
        for _, layer, before, gradient, scale, step, *_ in jobs])
    differing = {"packets": 0, "residues": 0, "means": 0, "gradients": 0}
    elements = 0
    for (_, _, _, _, _, _, ours, packets), result in zip(jobs, run.layers, strict=True):
        differing["packets"] += sum(a != b for a, b in zip(result.packets, packets, strict=False))
        differing["packets"] += abs(len(result.packets) - len(packets))
        differing["residues"] += int(np.count_nonzero(result.residue != ours.residue))
        differing["means"] += int(result.mean != ours.mean)
        elements += len(ours.residue)
    # All layers of all steps, one after another in one memory.
    rounds, packets, base, expected = [], [], 0, []
    for (_, layer, _, _, _, step, ours, _), result in zip(jobs, run.layers, strict=True):
        rounds.append(RoundJob(layer.number, step % STEPS, learner.number + 1, len(ours.residue),
                               base))
        packets += _before(learner, layer, step) + result.packets
        expected.append(ours.sent)
        base += len(ours.residue)
    decoded = decode(np.zeros(base, np.uint32), rounds, packets)
    differing["gradients"] = int(np.count_nonzero(
        decoded.gradient.view(np.float32) != np.concatenate(expected)))
    differing["gradients"] += sum(cause is not PacketCause.NONE for cause in decoded.causes)
    return {"lanes": options.lanes, "encoder_cycles": run.cycles,
            "elements_a_cycle": elements / run.cycles, "differing": differing}


def _show(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    steps = summary["steps"]
    table = Table(title=f"{steps} step{'s' * (steps > 1)}, factor {summary['factor']:g}, scale: "
                  f"{summary['scale']}")
    for heading in ("layer", "elements", "bin", "sent", "a bin", "packets", "bytes", "rate",
                    "error", "refused"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for name, f in summary["layers"].items():
        table.add_row(name, str(f["elements"]), str(f["bin_size"]), str(f["sent"]),
                      f"{f['sent_a_bin']:.2f}", str(f["packets"]), str(f["bytes"]),
                      f"{f['rate']:.1f}x", f"{f['error']:.3f}", str(f["refused"]))
    table.add_section()
    f = summary["all"]
    table.add_row("all", str(f["elements"]), "", str(f["sent"]), "", str(f["packets"]),
                  str(f["bytes"]), f"{f['rate']:.1f}x", "", str(f["refused"]))
    console = Console()
    console.print(table)
    worst = max(summary["layers"].values(), key=lambda f: f["rounding"] / f["rounding_bound"])
    console.print("rate: 32-bit dense bytes over all bytes of the packets; error: what has not "
                  "been sent yet, over all that was given (L2)")
    console.print(f"given = sent + residue to {worst['rounding']:.3g} at most, half a unit a step "
                  f"being {worst['rounding_bound']:.3g}")
    if f["refused"]:
        console.print(f"{f['refused']} gradients were not taken: NaN, infinite or too large; their "
                      "residues are as they were")
    if "rtl" in summary:
        rtl = summary["rtl"]
        console.print(f"RTL, {rtl['lanes']} lanes: {rtl['elements_a_cycle']:.3f} elements a cycle; "
                      "differing " + ", ".join(f"{name} {count}"
                                               for name, count in rtl["differing"].items()))
