"""Descriptions of networks: what is read, what is refused, and what they mean."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from ulpsim import dlfloat, fp8
from ulpsim.compiler import compile_network
from ulpsim.config import EDGE
from ulpsim.evaluation import evaluate, evaluate_tensors, quantise, real_values
from ulpsim.formats import FORMATS, Precision
from ulpsim.fusion import fuse
from ulpsim.integers import numbers
from ulpsim.matmul import dot
from ulpsim.network import (
    Network,
    NetworkError,
    Stored,
    decode_real,
    load_network,
    save_network,
)
from ulpsim.programs import random_codes, random_network
from ulpsim.special import SpecialFunction, element

EVERY = dataclasses.replace(EDGE, formats=tuple(Precision))
ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.json"))
DESCRIPTION = {
    "name": "small",
    "input": {"name": "image", "height": 4, "width": 5, "channels": 3, "format": "UINT8",
              "step": 0.5},
    "layers": [
        {"name": "conv", "op": "convolution", "input": "image", "weights": "w",
         "weight_format": "INT8", "weight_step": 0.1, "bias": "b", "stride": [2, 1],
         "padding": 1},
        {"name": "relu", "op": "relu", "input": "conv", "output": {"format": "UINT4",
                                                                   "step": 2.0}},
        {"name": "pool", "op": "max_pool", "input": "relu", "size": 2, "stride": 1,
         "output": {"format": "UINT4", "step": 2.0}},
        {"name": "fc", "op": "fully_connected", "input": "pool", "weights": "fc",
         "weight_format": "INT4", "output": {"format": "FP16"}},
    ],
}
ARRAYS = {"w": np.arange(2 * 3 * 3 * 3).reshape(2, 3, 3, 3) - 20, "b": [1.0, -1.0],
          "fc": np.arange(3 * 8).reshape(3, 8) % 16 - 8}


def test_shapes():
    network = Network.from_description(DESCRIPTION, ARRAYS)
    assert network.shapes == {"image": (4, 5, 3), "conv": (2, 5, 2), "relu": (2, 5, 2),
                              "pool": (1, 4, 2), "fc": (1, 1, 3)}
    assert network.output_name == "fc"
    assert network.stored["fc"] == Stored(FORMATS["FP16"], 1.0)
    assert set(network.stored) == {"image", "relu", "pool", "fc"}


def changed(change):
    description, arrays = copy.deepcopy(DESCRIPTION), dict(ARRAYS)
    change(description, arrays, description["layers"])
    return description, arrays


def put(path, value):
    """A change that sets one key, found by layer (or "input") and name."""
    def change(description, arrays, layers):
        place = description[path[0]] if isinstance(path[0], str) else layers[path[0]]
        place[path[1]] = value
    return change


REFUSED = {
    "no layers key": (lambda d, a, n: d.pop("layers"), "network must have the key 'layers'"),
    "no layers": (lambda d, a, n: n.clear(), "network 'small' must have at least one layer"),
    "operator": (put((0, "op"), "convulsion"), "layer 'conv': op must be one of convolution"),
    "unknown key": (put((0, "dilatation"), 2), "layer 'conv' has no key 'dilatation'; it has"),
    "dilation": (put((0, "dilation"), 0), "layer 'conv': dilation must be an integer of at least"),
    "dilated window": (put((0, "dilation"), [1, 4]), "layer 'conv': a window of width 9 must fit "
                       "into its input with padding, 7"),
    "groups": (put((0, "groups"), 0), "layer 'conv': groups must be an integer of at least 1"),
    "groups of channels": (put((0, "groups"), 2), "groups must divide its channels, 3, not 2"),
    "groups of outputs": (put((0, "groups"), 3), "groups must divide its outputs, 2, not 3"),
    "missing key": (lambda d, a, n: n[0].pop("weights"),
                    "layer 'conv' must have the key 'weights'"),
    "input key": (put(("input", "dept"), 1), "input has no key 'dept'"),
    "height": (put(("input", "height"), 0),
               "input: height must be an integer of at least 1, not 0"),
    "height type": (put(("input", "height"), 2.5), "height must be an integer .* not 2.5"),
    "format": (put(("input", "format"), "INT3"),
               "input: format must be one of FP16, INT8, .* not 'INT3'"),
    "step": (put(("input", "step"), -1.0), "input: step must be a positive number, not -1.0"),
    "step nan": (put(("input", "step"), math.nan), "step must be a positive number, not nan"),
    "name twice": (put((1, "name"), "conv"), "layer 'conv': the name must be used once"),
    "name of input": (put((0, "name"), "image"), "layer 'image': the name must be used once"),
    "name type": (put((0, "name"), 3), "a layer's name must be a string, not 3"),
    "source": (put((0, "input"), "imag"),
               "layer 'conv': input 'imag' must be one of 'image', which stand before it"),
    "inputs": (lambda d, a, n: n.append({"name": "add", "op": "add", "inputs": ["fc"]}),
               r"layer 'add': inputs must be 2 names, not \['fc'\]"),
    "array name": (put((0, "weights"), "v"),
                   "layer 'conv': weights names 'v', which is not among the arrays"),
    "array type": (put((0, "bias"), [None, None]),
                   "layer 'conv': bias must be an array of numbers, not object"),
    "real weights": (put((0, "weights"), np.zeros((2, 3, 3, 3))),
                     "layer 'conv': weights of INT8 must be integers, not float64"),
    "weight range": (put((3, "weights"), np.full((3, 8), 8)),
                     "layer 'fc': weights of INT4 must be from -8 to 7, not 8"),
    "weight shape": (put((0, "weights"), np.zeros((2, 3, 3, 4), int)),
                     r"layer 'conv': weights must be \[outputs, height, width, 3\], not "
                     r"\[2, 3, 3, 4\]"),
    "weight empty": (put((0, "weights"), np.zeros((0, 3, 3, 3), int)),
                     r"layer 'conv': weights must be \[outputs, ...\], not of shape \(0, 3"),
    "fc shape": (put((3, "weights"), np.zeros((3, 9), int)),
                 r"layer 'fc': weights must be \[outputs, 8\], not \[3, 9\]"),
    "bias shape": (put((0, "bias"), [1.0, 2.0, 3.0]),
                   r"layer 'conv': bias must be one number or \(2,\), .* not \(3,\)"),
    "bias nan": (put((0, "bias"), [1.0, math.nan]), "layer 'conv': bias must be finite, not nan"),
    "stride": (put((0, "stride"), 0), "layer 'conv': stride must be an integer of at least 1"),
    "stride three": (put((0, "stride"), [1, 1, 1]),
                     r"layer 'conv': stride must be a number or two, not \[1, 1, 1\]"),
    "padding": (put((0, "padding"), -1), "layer 'conv': padding must be an integer of at least 0"),
    "window": (put((2, "size"), 3),
               "layer 'pool': a window of height 3 must fit into its input with padding, 2"),
    "output format": (put((1, "output"), {"format": "FP32"}),
                      "layer 'relu': output: format must be one of .* not 'FP32'"),
    "alpha": (lambda d, a, n: n[1].update(op="clip", alpha=0),
              "layer 'relu': alpha must be a positive number, not 0"),
    "add shapes": (lambda d, a, n: n.append({"name": "add", "op": "add",
                                             "inputs": ["relu", "pool"]}),
                   r"layer 'add': inputs must have the same .* \(2, 5, 2\) and \(1, 4, 2\)"),
    "too large for FP16": (
        lambda d, a, n: (n[0].update(weight_format="FP16", weights=np.full((2, 3, 3, 3), 1e10))),
        "layer 'conv': weights must be at most 8573157376.0 in magnitude, not 10000000000.0"),
    "too large for E4M3": (
        lambda d, a, n: (n[0].update(weight_format="E4M3", weights=np.full((2, 3, 3, 3), -30.0))),
        "layer 'conv': weights must be at most 28.0 in magnitude, not -30.0"),
    "too large for the bias": (
        lambda d, a, n: (d.update(forward_bias=15), n[0].update(
            weight_format="E4M3", weights=np.full((2, 3, 3, 3), 2.0))),
        "layer 'conv': weights must be at most 1.75 in magnitude, not 2.0"),
    "code of BINARY": (
        lambda d, a, n: (n[0].update(weight_format="BINARY",
                                     weights=np.full((2, 3, 3, 3), -1))),
        "layer 'conv': weights of BINARY must be from 0 to 1, not -1"),
    "bias of E4M3": (lambda d, a, n: d.update(forward_bias=16),
                     "network: forward_bias must be from 0 to 15, not 16"),
    "bias type": (lambda d, a, n: d.update(forward_bias="7"),
                  "network: forward_bias must be an integer of at least 0, not '7'"),
    "odd tensor": (put((1, "output"), {"format": "ODD4"}),
                   "tensor 'relu': format must be one that can be stored, not ODD4, which is for "
                   "weights alone"),
    "layer type": (lambda d, a, n: n.append(3), "a layer must be an object with keys, not 3"),
}


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED.keys())
def test_refused(change, message):
    with pytest.raises(NetworkError, match=message):
        Network.from_description(*changed(change))


def test_files(tmp_path, rng):
    """Written and read back, a network computes the same."""
    for number in range(10):
        network = random_network(np.random.default_rng(number), EVERY)
        save_network(network, tmp_path / "network.json")
        again = load_network(tmp_path / "network.json")
        images = random_codes(rng, network.input.format, (2, *network.input_shape))
        assert np.array_equal(evaluate(network, images), evaluate(again, images))
        assert again.shapes == network.shapes
        assert again.forward_bias == network.forward_bias


def test_one_bias(rng):
    """A tensor of another bias than the network's cannot be put in."""
    network = Network.from_description(DESCRIPTION | {"forward_bias": 7}, ARRAYS)
    kind = FORMATS["E4M3"]
    assert network.with_output(Stored(dataclasses.replace(kind, bias=7))).forward_bias == 7
    with pytest.raises(NetworkError, match="tensor 'fc': bias of E4M3 must be the network's 7, "
                                           "not 11"):
        network.with_output(Stored(kind))


def test_files_that_are_none(tmp_path):
    with pytest.raises(NetworkError, match=r"network .*none.json cannot be read: No such file"):
        load_network(tmp_path / "none.json")
    for text, message in (("{", "is not JSON"), ("[]", "must be a JSON object, not list"),
                          ("{}", "network.json: network must have the key 'name'")):
        (tmp_path / "network.json").write_text(text)
        with pytest.raises(NetworkError, match=message):
            load_network(tmp_path / "network.json")
    (tmp_path / "network.json").write_text(json.dumps(DESCRIPTION))
    (tmp_path / "network.npz").write_bytes(b"no archive")
    with pytest.raises(NetworkError, match=r"is not JSON with an \.npz"):
        load_network(tmp_path / "network.json")


def test_quantise():
    stored = Stored(FORMATS["INT4"], 0.5)
    assert quantise([0.25, 0.75, -0.74, 99.0, -99.0, math.nan, math.inf, -math.inf],
                    stored).tolist() == [0, 2, -1, 7, -8, 0, 7, -8]
    assert quantise([1.0, math.nan], Stored(FORMATS["FP16"], 2.0)).tolist() == [
        dlfloat.encode(0.5), dlfloat.NAN]
    assert real_values([3, -2], stored).tolist() == [1.5, -1.0]
    assert real_values([dlfloat.encode(1.5)], Stored(FORMATS["FP16"], 2.0)).tolist() == [3.0]
    stored = Stored(dataclasses.replace(FORMATS["E4M3"], bias=3), 4.0)
    numbers = [3.0, -1000.0, 1e9, 2.0**-9, math.nan]
    assert quantise(numbers, stored).tolist() == [
        fp8.forward(3).encode(number / 4.0) for number in numbers]
    assert real_values([fp8.forward(3).encode(0.75)], stored).tolist() == [3.0]
    stored = Stored(FORMATS["BINARY"], 0.5)
    assert quantise([0.1, -0.1, 0.0, math.nan], stored).tolist() == [1, 0, 1, 0]
    assert real_values([0, 1], stored).tolist() == [-0.5, 0.5]


def test_chains():
    """What is fused with what, and what an identity convolution is put before."""
    chains = fuse(Network.from_description(DESCRIPTION, ARRAYS), EDGE).chains
    assert [chain.layers for chain in chains] == [["conv", "relu"], ["pool"], ["fc"]]
    assert chains[1].multiply_adds == 0
    assert (chains[1].groups, chains[1].weights.tolist()) == (2, [[[[1]]], [[[1]]]])
    assert chains[2].kernel == (1, 4)


def real_layer(layer, inputs):
    """A layer over real numbers, one output at a time, by its textbook definition."""
    x = np.pad(inputs[0], ((0, 0), *((p, p) for p in layer.padding), (0, 0)))
    if layer.op in ("relu", "clip"):
        return np.clip(x, 0, layer.alpha)
    if layer.op == "add":
        return inputs[0] + inputs[1]
    if layer.weights is not None:
        kind = layer.weight_format
        weights = decode_real(layer.weights, kind) if kind.precision.is_float else \
            numbers(layer.weights, kind)
        weights = weights * layer.weight_step.reshape(-1, *[1] * (weights.ndim - 1))
        if layer.op == "fully_connected":
            weights = weights.reshape(len(weights), *x.shape[1:])
        dy, dx = layer.dilation
        size = [(n - 1) * d + 1 for n, d in zip(weights.shape[1:3], (dy, dx), strict=True)]
    else:
        size = layer.size
    (sy, sx), result = layer.stride, []
    for y in range(0, x.shape[1] - size[0] + 1, sy):
        for xx in range(0, x.shape[2] - size[1] + 1, sx):
            window = x[:, y:y + size[0], xx:xx + size[1]]
            if layer.weights is not None:
                parts = zip(np.split(window[:, ::dy, ::dx], layer.groups, axis=3),
                            np.split(weights, layer.groups), strict=True)
                result.append(np.concatenate([
                    np.einsum("nyxc,oyxc->no", *part) for part in parts], axis=1) + layer.bias)
            else:
                reduce = np.max if layer.op == "max_pool" else np.mean
                result.append(reduce(window, axis=(1, 2)))
    height = (x.shape[1] - size[0]) // sy + 1
    return np.stack(result, 1).reshape(len(x), height, -1, result[0].shape[-1])


def test_meaning(seed):
    """`evaluate` is the textbook's network, up to the rounding of what is stored."""
    compared = 0
    for number in range(seed * 1000, seed * 1000 + 60):
        rng = np.random.default_rng(number)
        network = random_network(rng, EVERY)
        images = random_codes(rng, network.input.format, (2, *network.input_shape))
        if network.input.format.precision.is_float:
            images = quantise(rng.normal(size=images.shape), network.input)
        codes = evaluate_tensors(network, images)
        sources = {chain.name: network.stored[chain.source].format.precision
                   for chain in fuse(network, EVERY).chains}
        # Each stored tensor is taken from `evaluate`, so that errors do not add up.
        values = {name: real_values(code, network.stored[name]) for name, code in codes.items()}
        for layer in network.layers:
            real = real_layer(layer, [values[name] for name in layer.inputs])
            if layer.output is None:
                values[layer.name] = real
                continue
            found, step = values[layer.name], layer.output.step
            # NaN-Inf is in all sums that it is a part of, were it times zero: nothing to compare.
            if any(np.isnan(value).any() for value in values.values() if value is not found):
                continue
            # Sums of DLFloat16 within a tile lose some bits of their largest term.
            sums = 0.03 * (np.abs(real).max() + 1) if sources[layer.name].is_float else \
                1e-3 * (np.abs(real).max() + step)
            kind = layer.output.format
            if kind.precision.is_float:
                bits = fp8.of(kind).fraction_bits if kind.precision.is_fp8 else 9
                largest = step * decode_real([(kind.highest >> 1) - 1], kind)[0]
                smallest = step * decode_real([1], kind)[0]
                beyond = np.isnan(found)
                assert (np.abs(real[beyond]) + sums >= largest).all(), f"seed {number}"
                error = np.abs(found - real)[~beyond]
                allowed = sums + smallest + 2.0 ** -(bits + 1) * (np.abs(real[~beyond]) + sums)
            else:
                error = np.abs(found - np.clip(real, kind.lowest * step, kind.highest * step))
                allowed = sums + 0.5 * step
            assert (error <= allowed).all(), f"seed {number} {layer.name}"
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("rows", [4, 8])
@pytest.mark.parametrize("kind, weight_kind", [
    ("FP16", "FP16"), ("E4M3", "E4M3"), ("E5M2", "E4M3"), ("INT8", "INT8"), ("UINT4", "UINT4"),
    ("UINT2", "ODD2"), ("INT8", "INT4"), ("UINT8", "ODD2"), ("UINT4", "BINARY")])
def test_against_the_scalar_definitions(kind, weight_kind, rows, rng):
    """A convolution with residual, ReLU and pool, element by element with `dot` and `element`."""
    spec, weight_spec = FORMATS[kind], FORMATS[weight_kind]
    weights = rng.normal(size=(3, 2, 2, 8)) if spec.precision.is_float else \
        rng.integers(weight_spec.lowest, weight_spec.highest + 1, (3, 2, 2, 8))
    network = Network.from_description({
        "name": "scalar",
        "input": {"name": "image", "height": 4, "width": 3, "channels": 8, "format": kind},
        "layers": [
            {"name": "first", "op": "convolution", "input": "image", "weights": weights,
             "weight_format": weight_kind, "weight_step": [0.1, -0.2, 0.3],
             "bias": [1.0, 2.0, -3.0],
             "output": {"format": "INT8", "step": 0.5}},
            {"name": "again", "op": "convolution", "input": "image", "weights": weights,
             "weight_format": weight_kind, "weight_step": 0.05},
            {"name": "add", "op": "add", "inputs": ["again", "first"]},
            {"name": "relu", "op": "relu", "input": "add"},
            {"name": "pool", "op": "average_pool", "input": "relu", "size": [2, 1], "stride": 1,
             "output": {"format": "FP16"}}]})
    images = random_codes(rng, spec, (1, 4, 3, 8))
    result = evaluate_tensors(network, images, dataclasses.replace(EDGE, rows=rows))
    chain = fuse(network, EDGE).chains[1]
    codes = network.layers[0].weights

    def slots(elements, precision):
        elements = elements.reshape(-1, precision.per_slot) & (1 << precision.bits) - 1
        return (elements << [precision.bits * i for i in range(precision.per_slot)]).sum(1)

    for y, x, channel in np.ndindex(2, 2, 3):
        sums, residuals = [], []
        for j in range(2):
            window = images[0, y + j:y + j + 2, x:x + 2]
            sums.append(dot(slots(window, spec.precision),
                            slots(codes[channel], weight_spec.precision), spec, weight_spec, rows))
            residuals.append(int(result["first"][0, y + j, x, channel]) & 0xFF)
        function = SpecialFunction(
            output=FORMATS["FP16"], float_accumulator=spec.precision.is_float, relu=True,
            residual=FORMATS["INT8"], pool=chain.pool)
        expected = element(function, sums, (
            int(chain.scale[channel]), int(chain.bias[channel]),
            int(chain.residual_scale[channel]), int(chain.upper[channel])), residuals)
        assert result["pool"][0, y, x, channel] == expected


def test_examples():
    """The small examples of the repository compile."""
    assert len(EXAMPLES) >= 2
    for path in EXAMPLES:
        network = load_network(path)
        compiled = compile_network(network, EDGE)
        assert compiled.program[-1].name == "HALT"


def test_documentation_shows_a_network():
    """The example in docs/networks.md is one that is read and compiled."""
    text = (ROOT / "docs" / "networks.md").read_text()
    description = json.loads(text.split("```json\n")[1].split("```")[0])
    compile_network(Network.from_description(description), EDGE)
