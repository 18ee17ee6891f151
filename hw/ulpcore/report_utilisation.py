"""The page's utilisation by layer, and the roofline."""

from collections.abc import Mapping
from typing import Any

from ulpsim.config import RAPID, SLOT_BYTES
from ulpsim.formats import FORMATS
from ulpsim.page import plot, table

__all__ = ["roofline", "utilisation"]

Section = tuple[str, str, list[str], str]
Figures = Mapping[str, Any]

_BATCH = "batch 1"


def _formats(resnet: Figures) -> list[str]:
    return [name for name, value in resnet.items() if isinstance(value, Mapping)]


def utilisation(resnet: Figures, workloads: Figures, published: Figures) -> list[Section]:
    """Of the array by layer of ResNet50 on `rapid`, and by workload on the page's configuration."""
    names = _formats(resnet)
    layers = list(resnet[names[0]][_BATCH]["layers"])
    rows = [{"layer": layer, **{f"{name} {batch}": resnet[name][batch]["layers"][layer][
        "utilisation_percent"] for name in names for batch in resnet[name]}} for layer in layers]
    whole = {"layer": "all convolutions", **{f"{name} {batch}": resnet[name][batch][
        "convolutions"]["utilisation_percent"] for name in names for batch in resnet[name]}}
    columns = {"layer": "layer"} | {key: key for key in whole if key != "layer"}
    lines = {name: [(float(i), resnet[name][_BATCH]["layers"][layer]["utilisation_percent"])
                    for i, layer in enumerate(layers, 1)] for name in names}
    products = [{"workload": name, **{kind: run["utilisation_percent"]
                                      for kind, run in runs.items()}}
                for name, runs in workloads.items() if isinstance(runs, Mapping)]
    kinds = dict.fromkeys(kind for row in products for kind in row if kind != "workload")
    return [
        ("Utilisation by layer: ResNet50 on rapid", "Percent of the products that the array could "
         "do in the layer's cycles, with memory latency 16 and a bus of "
         f"{RAPID.bus_bytes} bytes a cycle. From the cycle model, which is equal to the RTL, "
         "cycle for cycle, in sampled layers (bench/results/resnet50-rapid-rtl.json). The fully "
         "connected layer and the pools are left out. In the integer networks the first layer is "
         "FP16.",
         [plot(f"utilisation, {_BATCH}", lines, "number of the layer", "percent", top=100.0,
               log_x=False)],
         table([whole, *rows], columns)),
        ("Utilisation by workload on edge", "Percent, measured in RTL, every word and cycle as "
         "predicted. Depthwise convolutions have a channel a group, which leaves the array's other "
         "rows without work.", [],
         table(products, {"workload": "workload"} | {kind: kind for kind in kinds})),
        ("Utilisation that others publish", "As their authors say.", [],
         table(published["utilisation"], {"what": "", "utilisation": "utilisation"}))]


def roofline(resnet: Figures, layers: Figures) -> Section:
    """Operations a cycle over operations a byte, by layer of ResNet50 on `rapid`."""
    peak = 2 * RAPID.rows * RAPID.columns * RAPID.lanes
    pictures, rows = [], []
    for name in _formats(resnet):
        points = []
        for layer, shape in layers.items():
            kind = "FP16" if layer == next(iter(layers)) else name
            intensity, operations = _work(shape, FORMATS[kind].precision.per_slot)
            achieved = operations / resnet[name][_BATCH]["layers"][layer]["cycles"]
            points.append((intensity, achieved))
            rows.append({"format": name, "layer": layer, "intensity": intensity,
                         "achieved": achieved,
                         "roof": min(peak * FORMATS[kind].precision.per_slot,
                                     RAPID.bus_bytes * intensity)})
        top = peak * FORMATS[name].precision.per_slot
        low, high = min(x for x, _ in points), max(x for x, _ in points)
        roof = sorted({min(low, top / RAPID.bus_bytes / 4), top / RAPID.bus_bytes, high})
        pictures.append(plot(
            f"{name}, {_BATCH}", {"roof": [(x, min(top, RAPID.bus_bytes * x)) for x in roof],
                                  "layers": points},
            "operations a byte", "operations a cycle", log_y=True, dots=["layers"]))
    return ("Roofline: ResNet50 on rapid", "Operations (two a product) a cycle over operations a "
            "byte. Bytes are the weights and the input, each moved once, in 16-bit slots. The roof "
            f"is the array's peak and {RAPID.bus_bytes} bytes a cycle. All layers are to the right "
            "of its corner, none is bound by the bus. In the integer networks the point far below "
            "is the first layer, in FP16.",
            pictures, table([row for row in rows if row["format"] in ("FP16", "INT2")],
                            {"format": "format", "layer": "layer",
                             "intensity": "operations a byte", "achieved": "operations a cycle",
                             "roof": "roof"}))


def _work(shape: Figures, per_slot: int) -> tuple[float, float]:
    """Operations a byte and operations of a convolution of one image."""
    height, width = ((shape[axis] + 2 * shape["padding"] - shape["kernel"]) // shape["stride"] + 1
                     for axis in ("height", "width"))
    slots = -(-shape["channels"] // per_slot)
    products = height * width * shape["outputs"] * shape["kernel"] ** 2 * shape["channels"]
    moved = (shape["outputs"] * shape["kernel"] ** 2 + shape["height"] * shape["width"]) * slots
    return 2 * products / (SLOT_BYTES * moved), 2.0 * products
