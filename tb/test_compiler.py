"""Compiled programs on the interpreter give word for word what the definition gives."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ulpsim.compiler import CompileError, compile_network
from ulpsim.config import EDGE, NANO
from ulpsim.cycles import predict
from ulpsim.evaluation import evaluate
from ulpsim.formats import FORMATS, Precision, multipliable
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause, Fold, Instruction, Segment, Target
from ulpsim.network import Network, Stored, load_network
from ulpsim.placement import with_pieces
from ulpsim.programs import random_codes, random_network
from ulpsim.steps import Piece, Step
from wide import FOLDED, WIDE

PARAMETERS = Path(__file__).parent.parent / "examples" / "fashion_mnist" / "parameters"
EVERY = dataclasses.replace(EDGE, formats=tuple(Precision))
WIDE_EVERY = dataclasses.replace(WIDE, formats=tuple(Precision))
CONFIGS = {
    "edge": EVERY,
    "edge-small": dataclasses.replace(EVERY, weight_bytes=1024, accumulator_depth=64,
                                      parameter_columns=16, activation_bytes=8192),
    "nano": NANO,
    "nano-small": dataclasses.replace(NANO, weight_bytes=1024, accumulator_depth=32,
                                      parameter_columns=8, activation_bytes=4096),
    "wide": WIDE_EVERY,
    "folded": FOLDED,
    "folded-small": dataclasses.replace(FOLDED, fold=2, weight_bytes=2048, accumulator_depth=64,
                                        parameter_columns=32, activation_bytes=16384),
    "folded-many": dataclasses.replace(FOLDED, lanes=16, special_lanes=16),
}


def run(compiled, images):
    """Codes of the output, from a machine whose memories hold anything at first."""
    segments, end = {}, 0
    for segment, size in compiled.segment_bytes.items():
        segments[segment] = end, size
        end += -(-size // 64) * 64
    memory = np.full(end, 0xA5, np.uint8)
    contents = {Segment.PARAMETERS: compiled.parameters,
                Segment.INPUT: compiled.pack_input(images)}
    for segment, data in contents.items():
        assert len(data) == segments[segment][1]
        memory[segments[segment][0]:][:len(data)] = np.frombuffer(data, np.uint8)
    machine = Machine(compiled.config, memory)
    machine.segments, machine.forward_bias = segments, compiled.forward_bias
    for array in (machine.activations, machine.weights, machine.parameters, machine.accumulators):
        array[...] = 0x7FFF
    result = machine.run(compiled.program)
    assert result.cause is Cause.NONE, f"{result} {compiled.program[result.index]}"
    first, size = segments[Segment.OUTPUT]
    return compiled.unpack_output(memory[first:first + size])


def images_for(network, rng, count):
    return random_codes(rng, network.input.format, (count, *network.input_shape))


def chain(*layers, shape=(6, 7, 5), kind="INT8", **image):
    """A network of layers with names and inputs filled in."""
    description = {"name": "test", "input": {
        "name": "image", "height": shape[0], "width": shape[1], "channels": shape[2],
        "format": kind, "step": 1.0, **image}, "layers": []}
    before = "image"
    for i, layer in enumerate(layers):
        entry = {"name": f"layer{i}", **layer}
        if "inputs" not in entry:
            entry.setdefault("input", before)
        description["layers"].append(entry)
        before = entry["name"]
    return Network.from_description(description)


def convolution(rng, outputs, channels, kernel=3, kind="INT8", output=None, step=0.002, **more):
    spec = FORMATS[kind]
    shape = (outputs, kernel, kernel, channels)
    weights = rng.normal(size=shape) if spec.precision.is_float else \
        rng.integers(spec.lowest, spec.highest + 1, shape)
    entry = {"op": "convolution", "weights": weights, "weight_format": kind, "weight_step": step,
             "bias": rng.normal(size=outputs), **more}
    return entry | ({"output": output} if output else {})


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_random_networks(config, seed):
    """Networks that draw every operator, format and shape."""
    compared = refused = 0
    for number in range(seed * 1000, seed * 1000 + 30):
        rng = np.random.default_rng(number)
        network = random_network(rng, config)
        batch = int(rng.integers(1, 6))
        try:
            compiled = compile_network(network, config, batch)
        except CompileError as error:
            assert "core" in str(error) or "array's" in str(error), f"seed {number}: {error}"
            refused += 1
            continue
        images = images_for(network, rng, batch)
        assert np.array_equal(run(compiled, images), evaluate(network, images, config)), \
            f"seed {number}"
        compared += 1
    assert compared >= 24, f"{refused} refused"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_random_streamed_networks(config, seed):
    """Stripes of rows and of images, parts of columns, weights loaded again and again."""
    compared = striped = 0
    for number in range(seed * 1000, seed * 1000 + 60):
        rng = np.random.default_rng(number)
        small = dataclasses.replace(
            config, activation_bytes=1024 << int(rng.integers(4)),
            weight_bytes=1024 << int(rng.integers(3)))
        network = random_network(rng, config)
        batch = int(rng.integers(1, 6))
        try:
            compiled = compile_network(network, small, batch, streamed=True)
        except CompileError as error:
            assert "core" in str(error) or "array's" in str(error), f"seed {number}: {error}"
            continue
        images = images_for(network, rng, batch)
        assert np.array_equal(run(compiled, images), evaluate(network, images, config)), \
            f"seed {number}"
        compared += 1
        striped += len(compiled.instructions_of("image")) > batch * len(network.consumers("image"))
    assert compared >= 40 and striped >= 10, (compared, striped)


def test_larger_than_the_scratchpad(rng):
    network = chain(
        convolution(rng, 24, 5, padding=1, stride=2, output={"format": "INT4", "step": 4.0}),
        convolution(rng, 24, 24, kind="INT4", padding=1),
        {"op": "add", "inputs": ["layer1", "layer0"]},
        {"op": "max_pool", "size": 2, "output": {"format": "FP16"}}, shape=(90, 90, 5))
    with pytest.raises(CompileError, match="slots of the activation scratchpad"):
        compile_network(network, CONFIGS["edge-small"], 1, streamed=False)
    compiled = compile_network(network, CONFIGS["edge-small"], 1)
    assert compiled.segment_bytes[Segment.WORKSPACE]
    images = images_for(network, rng, 1)
    assert np.array_equal(run(compiled, images), evaluate(network, images))


@pytest.mark.parametrize("name", ["fp16", "fp8", "int8", "int4", "int2", "odd2", "ternary",
                                  "binary"])
def test_trained_networks(name, rng):
    network = load_network(PARAMETERS / f"fashion-{name}.json")
    compiled = compile_network(network, EVERY)
    assert compiled.batch >= 2
    images = images_for(network, rng, compiled.batch)
    assert np.array_equal(run(compiled, images), evaluate(network, images))
    # The convolutions' and the fully connected layer's own products, from their definition.
    assert compiled.multiply_adds == {"conv1": 112896, "conv2": 903168, "conv3": 451584,
                                      "conv4": 451584, "conv5": 294912, "fc": 640}


@pytest.mark.parametrize("name", ["int8", "int4", "int2", "odd2", "ternary"])
def test_trained_networks_on_the_small_core(name, rng):
    """What the small core lacks is FP16: with another output format the networks fit it."""
    network = load_network(PARAMETERS / f"fashion-{name}.json")
    with pytest.raises(CompileError, match="format must be one that the core 'nano' has"):
        compile_network(network, NANO)
    network = network.with_output(Stored(FORMATS["INT8"], 0.25))
    compiled = compile_network(network, NANO)
    images = images_for(network, rng, compiled.batch)
    assert np.array_equal(run(compiled, images), evaluate(network, images, NANO))


_STORED = [name for name, f in FORMATS.items()
           if f.precision is not Precision.BINARY and not f.odd]


@pytest.mark.parametrize("kind", _STORED)
def test_every_format(kind, rng):
    """A strided, padded convolution from and to every format, by every format of weights."""
    precision = FORMATS[kind].precision
    partners = [name for name, f in FORMATS.items() if multipliable(precision, f.precision)]
    pairs = [(kind, result) for result in _STORED]
    pairs += [(partner, rng.choice(_STORED)) for partner in partners]
    for weights, result in pairs:
        network = chain(
            convolution(rng, 11, 5, kind=weights, stride=2, padding=1, step=0.01,
                        output={"format": result, "step": 0.1}), kind=kind)
        images = images_for(network, rng, 3)
        assert np.array_equal(run(compile_network(network, EVERY, 3), images),
                              evaluate(network, images)), f"{weights} to {result}"


@pytest.mark.parametrize("config", [EVERY, WIDE_EVERY], ids=["halves", "whole"])
def test_binary_tensors(config, rng):
    """+1 and -1 from end to end, and from and to other formats; where a vector of outputs fills
    half a slot, and where it fills one."""
    stored = {"format": "BINARY"}
    network = chain(
        convolution(rng, 16, 32, kind="BINARY", step=0.05, output=stored),
        convolution(rng, 32, 16, 2, kind="BINARY", step=0.1, stride=[1, 2], output=stored),
        convolution(rng, 32, 32, 1, kind="BINARY", step=0.1),
        {"op": "add", "inputs": ["layer2", "layer1"]},
        {"op": "max_pool", "size": 2, "output": {"format": "UINT2", "step": 0.4}},
        convolution(rng, 5, 32, 1, kind="ODD2", step=0.3, output={"format": "INT8"}),
        shape=(8, 9, 32), kind="BINARY")
    images = images_for(network, rng, 3)
    expected = evaluate(network, images, config)
    assert len(np.unique(expected)) > 5
    for streamed in (False, True):
        compiled = compile_network(network, config, 3, streamed=streamed)
        assert np.array_equal(run(compiled, images), expected)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("outputs", [5, 8, 16, 24, 72])
def test_binary_results(outputs, streamed, rng):
    """The last half of a slot may be left over, with nothing in it."""
    network = chain(convolution(rng, outputs, 5, step=0.01, output={"format": "BINARY"}),
                    shape=(9, 7, 5), kind="INT8")
    images = images_for(network, rng, 3)
    expected = evaluate(network, images)
    assert 0 < expected.mean() < 1
    for config in (EVERY, dataclasses.replace(EVERY, activation_bytes=2048, weight_bytes=2048)):
        compiled = compile_network(network, config, 3, streamed=streamed)
        assert np.array_equal(run(compiled, images), expected)


@pytest.mark.parametrize("bias", [0, 7, 15])
def test_forward_bias(bias, rng):
    """One bias for all of a network's E4M3, in weights, tensors and the identity of a pool."""
    stored = {"format": "E4M3", "step": 0.3}
    network = Network.from_description({
        "name": "bias", "forward_bias": bias,
        "input": {"name": "image", "height": 6, "width": 5, "channels": 3, "format": "E4M3"},
        "layers": [
            convolution(rng, 7, 3, kind="E5M2", step=2.0 ** -bias, output=stored) | {
                "name": "first", "input": "image"},
            {"name": "pool", "op": "max_pool", "input": "first", "size": 2, "output": stored},
            {"name": "last", "op": "fully_connected", "input": "pool", "weight_format": "E4M3",
             "weights": 2.0 ** -bias * rng.normal(size=(4, 14)),
             "output": {"format": "FP16"}}]})
    compiled = compile_network(network, EVERY, 2)
    assert compiled.forward_bias == bias
    images = images_for(network, rng, 2)
    expected = evaluate(network, images)
    assert np.array_equal(run(compiled, images), expected)


def test_weights_that_do_not_fit_are_loaded_piece_by_piece(rng):
    """One tile of columns needs more lines than there are: K is cut and accumulated."""
    config = CONFIGS["edge-small"]
    for kind in ("INT8", "FP16", "E4M3"):
        network = chain({"op": "fully_connected", "weights": convolution(
            rng, 20, 300, 1, kind)["weights"].reshape(20, 300), "weight_format": kind,
            "weight_step": 0.01, "output": {"format": kind, "step": 1.0}},
            shape=(1, 1, 300), kind=kind)
        compiled = compile_network(network, config, 2)
        products = [i for i in compiled.program if i.name == "MATMUL"]
        assert [i["accumulate"] for i in products[:2]] == [0, 1]
        images = images_for(network, rng, 2)
        assert np.array_equal(run(compiled, images), evaluate(network, images))


@pytest.mark.parametrize("streamed", [True, False])
def test_weights_of_the_next_layer_come_early(streamed, rng):
    """All of them if there is room, before the last product of the layer in front of it."""
    stored = {"format": "INT8", "step": 1.0}
    network = chain(convolution(rng, 16, 5, output=stored), convolution(rng, 16, 16, output=stored))
    compiled = compile_network(network, EDGE, 1, streamed=streamed)
    last = max(i for i in compiled.instructions_of("layer0")
               if compiled.program[i].name == "MATMUL")
    loads = [i for i in compiled.instructions_of("layer1") if compiled.program[i].name == "LOAD"
             and compiled.program[i]["target"] == Target.WEIGHTS.value]
    assert len(loads) == 2 and max(loads) < last


def test_a_new_part_spares_the_piece_in_use():
    """Where pieces do not fit together, the ring goes on behind the one loaded last."""
    def part(*sizes):
        return [Step("", Instruction("MATMUL", depth=n, run_length=n),
                     Piece("", Target.WEIGHTS, 1000 * n, n)) for n in sizes]

    config = dataclasses.replace(EDGE, weight_bytes=512 * 16)
    steps = with_pieces([part(300, 100, 301), part(101, 302, 202)], config)
    assert [s.instruction["weights"] for s in steps if s.instruction.name == "MATMUL"] \
        == [0, 300, 0, 301, 0, 302]


@pytest.mark.parametrize("weights, ratio", [("INT4", 2), ("ODD2", 4), ("BINARY", 8)])
def test_narrow_weights_are_cut(weights, ratio, rng):
    """Parts of K need not be whole lines of weights; and there are fewer lines."""
    config = CONFIGS["edge-small"]
    # A row of the kernel is an odd number of slots, and of the 64 lines half hold it.
    channels = 2 * ((32 * ratio // 3 - 1) | 1)
    network = chain(convolution(rng, 12, channels, kind=weights, step=0.01, padding=1,
                                output={"format": "INT8", "step": 1.0}),
                    shape=(4, 5, channels))
    compiled = compile_network(network, config, 2)
    products = [i for i in compiled.program if i.name == "MATMUL"]
    assert [i["accumulate"] for i in products[:3]] == [0, 1, 1]
    assert any(i["depth"] % ratio for i in products)
    sizes = [i["length"] // config.column_lanes for i in compiled.program
             if i.name == "LOAD" and i["target"] == Target.WEIGHTS.value]
    assert sizes[0] == -(-products[0]["depth"] // ratio)
    images = images_for(network, rng, 2)
    assert np.array_equal(run(compiled, images), evaluate(network, images))


def test_kernels_of_two_widths_over_one_tensor(rng):
    """Rows of a window must lie a multiple of the banks apart, whoever reads the tensor."""
    stored = {"format": "INT8", "step": 1.0}
    network = chain(
        convolution(rng, 9, 5, 1, output=stored),
        convolution(rng, 9, 9, 2, output=stored, input="layer0"),
        convolution(rng, 9, 9, 3, output=stored, input="layer0", padding=1),
        convolution(rng, 9, 9, 3, padding=1, input="layer0"),
        {"op": "add", "inputs": ["layer3", "layer2"], "output": stored},
        {"op": "add", "inputs": ["layer4", "layer0"]},
        {"op": "max_pool", "size": [1, 2], "stride": [1, 1], "output": stored})
    images = images_for(network, rng, 2)
    assert np.array_equal(run(compile_network(network, EDGE, 2), images),
                          evaluate(network, images))


@pytest.mark.parametrize("kind", ["FP16", "INT8", "INT4"])
@pytest.mark.parametrize("streamed", [True, False])
def test_few_outputs_are_computed_in_groups(kind, streamed, rng):
    """64 columns for 64 + 16 and then 32 outputs: groups of four and of two, in fewer cycles."""
    folded = CONFIGS["folded-many"]
    plain = dataclasses.replace(folded, name="plain", fold=1)
    output = {"format": kind, "step": 1.0 if kind == "FP16" else 50.0}
    network = chain(convolution(rng, 80, 24, kind=kind, padding=1, output=output),
                    convolution(rng, 32, 80, kind=kind, padding=1, output=output),
                    shape=(9, 10, 24), kind=kind)
    images = images_for(network, rng, 1)
    cycles, words = {}, {}
    for config in (folded, plain):
        compiled = compile_network(network, config, 1, streamed=streamed)
        assert np.array_equal(run(compiled, images), evaluate(network, images, config))
        segments, end = {}, 1 << 20
        for segment, size in compiled.segment_bytes.items():
            segments[segment] = end, size
            end += -(-size // 64) * 64
        cycles[config.name] = predict(compiled.program, config, program_address=0,
                                      segments=segments, latency=16).cycles
        words[config.name] = compiled.segment_bytes[Segment.PARAMETERS]
        found = {label: {Fold(compiled.program[i]["fold"]) for i in compiled.instructions_of(label)
                         if compiled.program[i].name == "MATMUL"}
                 for label in ("layer0", "layer1")}
        # Of INT4 the special functions would take longer than four groups.
        last = Fold.TWO if kind == "INT4" else Fold.FOUR
        assert found == ({"layer0": {Fold.ONE, last}, "layer1": {Fold.TWO}}
                         if config is folded else {"layer0": {Fold.ONE}, "layer1": {Fold.ONE}})
    assert cycles["folded"] < 0.9 * cycles["plain"]
    assert words["folded"] < 0.8 * words["plain"]


def test_kernels_of_two_widths_read_by_groups(rng):
    """Rows of 3 and of 5 pixels of 2 slots: the pixel grows until both lie apart."""
    output = {"format": "INT8", "step": 60.0}
    weights = {width: convolution(rng, 8, 4, kernel=width, padding=width // 2, output=output)
               for width in (3, 5)}
    network = Network.from_description({"name": "two", "input": {
        "name": "image", "height": 7, "width": 6, "channels": 4, "format": "INT8", "step": 1.0},
        "layers": [{"name": "a", "input": "image", **weights[3]},
                   {"name": "b", "input": "image", **weights[5]},
                   {"name": "sum", "op": "add", "inputs": ["a", "b"], "output": output}]})
    images = images_for(network, rng, 2)
    for streamed in (True, False):
        compiled = compile_network(network, FOLDED, 2, streamed=streamed)
        assert any(i.name == "MATMUL" and i["fold"] for i in compiled.program)
        assert np.array_equal(run(compiled, images), evaluate(network, images, FOLDED))


@pytest.mark.parametrize("kind, config", [("FP16", EDGE), ("INT4", EDGE), ("INT8", NANO)])
@pytest.mark.parametrize("batch", [2, 3, 8])
def test_images_side_by_side(kind, config, batch, rng):
    """A deep network whose layers take one image or several, beside those of the next image."""
    real = FORMATS[kind].precision.is_float
    stored = {"format": kind, "step": 1.0 if real else 4.0}

    def layer(name, source, channels, **more):
        return convolution(rng, 8, channels, kind=kind, padding=1, step=0.1, name=name,
                           input=source, **more)

    network = chain(
        layer("a", "image", 3, output=stored),
        layer("b", "a", 8), {"op": "add", "inputs": ["b", "a"]}, {"op": "relu", "output": stored},
        layer("c", "layer3", 8, stride=2, output=stored),
        layer("d", "c", 8), {"op": "add", "inputs": ["d", "c"], "output": stored},
        layer("e", "layer6", 8, stride=2, output=stored),
        {"op": "fully_connected", "weights": convolution(rng, 5, 32, 1, kind)["weights"].reshape(
            5, 32), "weight_format": kind, "weight_step": 0.1, "output": stored},
        shape=(8, 8, 3), kind=kind)
    images = images_for(network, rng, batch)
    assert np.array_equal(run(compile_network(network, config, batch), images),
                          evaluate(network, images, config))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_dilation_and_groups(config, seed):
    """Two such convolutions with a pool of its own between them, resident and streamed."""
    compared = set()
    for number in range(seed * 1000, seed * 1000 + 24):
        rng = np.random.default_rng(number)
        kind = str(rng.choice([p.name for p in config.formats if p is not Precision.BINARY]))
        groups = int(rng.choice([2, 3, 4, 6]))
        channels, outputs = (groups * int(rng.integers(1, 9)) for _ in range(2))
        if number % 3 == 0:
            groups = outputs = channels
        window, dilation = ([int(n) for n in rng.integers(1, 4, 2)] for _ in range(2))
        step = 1.0 if FORMATS[kind].precision.is_float else \
            float(FORMATS[kind].highest * (1 + channels))
        stored = {"format": kind, "step": step}
        layers = [
            convolution(rng, outputs, channels // groups, kind=kind, groups=groups,
                        dilation=dilation, padding=1 + number % 3,
                        stride=[int(n) for n in rng.integers(1, 3, 2)]),
            {"op": "max_pool", "size": 1},
            convolution(rng, 5, outputs, kind=kind, dilation=dilation[::-1], padding=4)]
        for layer in layers[::2]:
            layer |= {"weights": layer["weights"][:, :window[0], :window[1]], "weight_step": 1.0}
        network = chain(
            *(layer | {"output": stored} for layer in layers),
            shape=(*(int(n) for n in rng.integers(6, 10, 2)), channels), kind=kind)
        images = images_for(network, rng, 2)
        expected = evaluate(network, images, config)
        for streamed in (False, True):
            try:
                compiled = compile_network(network, config, 2, streamed=streamed)
            except CompileError as error:
                assert "core has" in str(error), f"seed {number}: {error}"
                continue
            assert np.array_equal(run(compiled, images), expected), f"seed {number}"
            compared.add((number, streamed))
    assert len(compared) >= 24


def test_groups_multiply_their_own_channels_only():
    """Four groups of 16 channels: a tile of columns has a quarter of the products."""
    for groups, depth in ((1, [64 * 3] * 3), (4, [16 * 3] * 3), (64, [8 * 3] * 3)):
        weights = np.ones((64, 3, 3, 64 // groups))
        network = chain({"op": "convolution", "weights": weights, "weight_format": "FP16",
                         "groups": groups, "dilation": 2, "output": {"format": "FP16"}},
                        shape=(7, 7, 64), kind="FP16")
        compiled = compile_network(network, EDGE, 1)
        products = [i["depth"] for i in compiled.program if i.name == "MATMUL"]
        assert products == 8 * depth
        assert compiled.multiply_adds == {"layer0": 9 * 64 * 9 * 64 // groups}


def test_batches_and_missing_images(rng):
    network = chain(convolution(rng, 3, 5, output={"format": "INT4", "step": 1.0}))
    images = images_for(network, rng, 7)
    expected = evaluate(network, images)
    for batch in (1, 3, 7):
        compiled = compile_network(network, EDGE, batch)
        results = [run(compiled, images[i:i + batch]) for i in range(0, 7, batch)]
        assert np.array_equal(np.concatenate(results)[:7], expected)
    assert compile_network(network, EDGE).batch == 16
    real = compiled.network.input.step * images
    assert compiled.pack_input(real.astype(np.float32)) == compiled.pack_input(images)


def test_deterministic():
    network = load_network(PARAMETERS / "fashion-int4.json")
    first, second = (compile_network(network, EDGE, 4) for _ in range(2))
    assert first.program == second.program
    assert first.parameters == second.parameters


def test_report():
    """Every instruction belongs to a layer or a tensor."""
    network = load_network(PARAMETERS / "fashion-int4.json")
    compiled = compile_network(network, EDGE, 4)
    assert len(compiled.labels) == len(compiled.program)
    assert compiled.labels[-1] == ""
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc"):
        kinds = {compiled.program[i].name for i in compiled.instructions_of(layer)}
        assert {"LOAD", "MATMUL", "SPECIAL"} <= kinds
    assert [compiled.program[i].name for i in compiled.instructions_of("image")].count("LOAD") == 4
    assert set(compiled.labels) <= {"", "image", *(layer.name for layer in network.layers)}


REFUSED = {
    "no output": (lambda rng: chain(convolution(rng, 4, 5)), EDGE, None,
                  r"layer 'layer0': the network's output must have an \"output\" format"),
    "output in the middle": (
        lambda rng: chain(convolution(rng, 4, 5),
                          convolution(rng, 4, 4, output={"format": "INT8"})), EDGE, None,
        r"layer 'layer0': must have an \"output\" format: convolution 'layer1' reads it"),
    "read twice": (
        lambda rng: chain(convolution(rng, 5, 5), {"op": "relu"},
                          {"op": "add", "inputs": ["layer0", "layer1"],
                           "output": {"format": "INT8"}}), EDGE, None,
        r"layer 'layer0': must have an \"output\" format, as it is read 2 times, not once"),
    "wrong order": (
        lambda rng: chain(convolution(rng, 4, 5), {"op": "max_pool", "size": 2},
                          {"op": "relu", "output": {"format": "INT8"}}), EDGE, None,
        r"layer 'layer1': must have an \"output\" format: relu 'layer2' cannot follow on layer0"),
    "two precisions": (
        lambda rng: chain(convolution(rng, 4, 5, kind="INT8", output={"format": "INT8"}),
                          kind="UINT4"), EDGE, None,
        r"layer 'layer0': weights to activations of INT4 must be of INT4, INT2, BINARY, not INT8"),
    "weights of the core": (
        lambda rng: chain(convolution(rng, 4, 5, kind="BINARY", output={"format": "INT8"})),
        dataclasses.replace(NANO, formats=(Precision.INT8, Precision.INT2)), None,
        r"layer 'layer0': weight_format must be one that the core 'nano' has \(INT8, INT2\), "
        "not BINARY"),
    "padding of BINARY": (
        lambda rng: chain(convolution(rng, 4, 16, kind="BINARY", padding=[0, 1],
                                      output={"format": "INT8"}), shape=(4, 4, 16), kind="BINARY"),
        WIDE_EVERY, None,
        r"layer 'layer0': padding must be 0 around 'image', as BINARY has no zero, not 0 x 1"),
    "channels of BINARY": (
        lambda rng: chain(convolution(rng, 4, 17, kind="BINARY", output={"format": "INT8"}),
                          shape=(4, 4, 17), kind="BINARY"), WIDE_EVERY, None,
        r"layer 'layer0': channels of 'image' must be the 32 that are stored, as BINARY has no "
        "zero to fill them up, not 17"),
    "groups of odd weights": (
        lambda rng: chain(convolution(rng, 4, 5, kind="ODD4", groups=2,
                                      output={"format": "INT8"}), shape=(4, 4, 10)), EDGE, None,
        r"layer 'layer0': groups must be 1 with weights of ODD4, which has no zero for the "
        "channels of other groups, not 2"),
    "identity of BINARY": (
        lambda rng: chain({"op": "max_pool", "size": 2, "output": {"format": "BINARY"}},
                          shape=(4, 4, 16), kind="BINARY"), WIDE_EVERY, None,
        r"layer 'image': format must be one with a zero, as what reads it needs a convolution by "
        "the identity, not BINARY"),
    "format of the core": (
        lambda rng: chain(convolution(rng, 4, 5, output={"format": "FP16"})), NANO, None,
        r"layer 'layer0': format must be one that the core 'nano' has \(INT8, INT4, INT2.*\), "
        "not FP16"),
    "scratchpad": (
        lambda rng: chain(convolution(rng, 8, 5, padding=1, output={"format": "INT8"}),
                          shape=(3, 3000, 5)), EDGE, None,
        r"layer 'layer0': one row of the result and what .* need \d+ slots of .* has 32768"),
    "window": (
        lambda rng: chain({"op": "max_pool", "size": 10, "output": {"format": "INT8"}},
                          shape=(10, 10, 1)), CONFIGS["edge-small"], None,
        r"layer 'layer0': a window of 100 needs as many accumulators; the core has 64"),
    "scale": (
        lambda rng: chain(convolution(rng, 4, 5, step=1e30,
                                      output={"format": "INT8", "step": 1e-20})), EDGE, None,
        r"layer 'layer0': scale must be at most 3\.403e\+38, not 1e\+50"),
    "weights": (
        lambda rng: chain(convolution(rng, 4, 3, 7, "FP16", output={"format": "FP16"}),
                          shape=(8, 8, 3), kind="FP16"), CONFIGS["edge-small"], None,
        r"layer 'layer0': 21 slots of a kernel's row must be a multiple of the array's 8 rows.*"
        r"147 lines, do not fit the scratchpad's 64"),
}


@pytest.mark.parametrize("make, config, batch, message", REFUSED.values(), ids=REFUSED.keys())
def test_refused(make, config, batch, message, rng):
    with pytest.raises(CompileError, match=message):
        compile_network(make(rng), config, batch)


def test_wrong_images(rng):
    network = chain(convolution(rng, 3, 5, kind="INT4", output={"format": "INT4"}), kind="UINT4")
    compiled = compile_network(network, EDGE, 2)
    good = np.zeros((2, 6, 7, 5), int)
    with pytest.raises(ValueError, match=r"images must be \[images, \*\[6, 7, 5\]\], not \[2, 6"):
        compiled.pack_input(good[..., :4])
    with pytest.raises(ValueError, match="codes of UINT4 must be from 0 to 15, not 16"):
        compiled.pack_input(good + 16)
    with pytest.raises(ValueError, match="images must be at most 2"):
        compiled.pack_input(np.concatenate([good, good]))
    with pytest.raises(ValueError, match="data must be at least"):
        compiled.unpack_output(b"")
    with pytest.raises(ValueError, match="batch must be a positive integer, not 0"):
        compile_network(network, EDGE, 0)

