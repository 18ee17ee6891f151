"""Networks over sequences: description, golden model, compiled programs on the interpreter."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ulpsim import dlfloat
from ulpsim.breakdown import breakdown
from ulpsim.config import EDGE, NANO, RAPID, CoreConfig
from ulpsim.cycles import predict
from ulpsim.driver import Driver, ModelBus, place
from ulpsim.fusion import CompileError
from ulpsim.isa import Unit
from ulpsim.network import NetworkError
from ulpsim.sequences.compiler import compile_sequences
from ulpsim.sequences.evaluation import evaluate, evaluate_real, evaluate_tensors, input_codes
from ulpsim.sequences.memory import Room
from ulpsim.sequences.network import (
    Constant,
    SequenceNetwork,
    is_sequence_network,
    load_sequence_network,
)
from ulpsim.sequences.streams import merge

FOLDER = Path(__file__).parents[1] / "examples" / "kjv"


class Draft:
    """A description that grows, with random arrays of a scale that keeps values near one."""

    def __init__(self, rng: np.random.Generator, steps: int, **kind: object) -> None:
        self.rng = rng
        self.description = {"name": "drawn", "input": {"name": "x", "steps": steps, **kind},
                            "layers": []}
        symbols = kind.get("symbols", kind.get("channels"))
        assert isinstance(symbols, int)
        self.channels = {"x": symbols}

    def weights(self, *shape: int, gain: float = 1.0) -> list:
        return (self.rng.standard_normal(shape) * gain / np.sqrt(shape[-1])).tolist()

    def add(self, name: str, op: str, outputs: int, **fields: object) -> str:
        self.description["layers"].append({"name": name, "op": op, **fields})
        self.channels[name] = outputs
        return name

    def linear(self, name: str, source: str, outputs: int, **fields: object) -> str:
        return self.add(name, "linear", outputs, input=source,
                        weights=self.weights(outputs, self.channels[source], gain=2.0),
                        **{"bias": self.weights(outputs), **fields})

    def lstm(self, name: str, source: str, hidden: int, *, bias: bool = False) -> str:
        return self.add(name, "lstm", hidden, input=source,
                        input_weights=self.weights(4 * hidden, self.channels[source], gain=3.0),
                        recurrent_weights=self.weights(4 * hidden, hidden),
                        **({"bias": self.weights(4 * hidden)} if bias else {}))

    def attention(self, name: str, source: str, outputs: int, **fields: object) -> str:
        return self.add(name, "attention", outputs, input=source, **fields, **{
            f"{key}_weights": self.weights(outputs, self.channels[source], gain=1.5)
            for key in ("query", "key", "value")})

    def network(self) -> SequenceNetwork:
        # What has passed through JSON is what a file holds.
        return SequenceNetwork.from_description(json.loads(json.dumps(self.description)))


def _lstm(rng: np.random.Generator, *, steps: int = 5, symbols: int = 13, hidden: int = 20,
          bias: bool = False) -> SequenceNetwork:
    draft = Draft(rng, steps, symbols=symbols)
    draft.linear("logits", draft.lstm("memory", "x", hidden, bias=bias), symbols)
    return draft.network()


def _two_lstms(rng: np.random.Generator) -> SequenceNetwork:
    """The second one reads the first one; so does a layer beside it. Constants by step."""
    draft = Draft(rng, 4, channels=6)
    first = draft.lstm("first", draft.linear("before", "x", 16, function="relu"), 24, bias=True)
    second = draft.lstm("second", first, 10)
    draft.add("hours", "constant", 24, values=draft.weights(4, 24))
    draft.linear("side", second, 24, add="hours")
    draft.add("sum", "add", 24, input="side", add=first)
    draft.add("norm", "layer_norm", 24, input="sum", scale=draft.weights(24), epsilon=1e-3)
    draft.linear("out", "norm", 5, function="sigmoid")
    return draft.network()


def _block(rng: np.random.Generator, *, steps: int = 16, channels: int = 16, heads: int = 2,
           causal: bool = True, symbols: int = 11) -> SequenceNetwork:
    """A transformer's block, as a character model has it."""
    draft = Draft(rng, steps, symbols=symbols)
    draft.add("places", "constant", channels, values=draft.weights(steps, channels))
    x = draft.linear("embedding", "x", channels, add="places", bias=[0.0] * channels)
    y = draft.add("norm_1", "layer_norm", channels, input=x)
    y = draft.attention("heads", y, channels, heads=heads, causal=causal)
    x = draft.linear("mixed", y, channels, add=x)
    y = draft.add("norm_2", "layer_norm", channels, input=x, scale=draft.weights(channels),
                  bias=draft.weights(channels))
    y = draft.linear("widen", y, 3 * channels - 5, function="relu")
    x = draft.linear("narrow", y, channels, add=x)
    draft.linear("logits", x, symbols)
    return draft.network()


def _two_attentions(rng: np.random.Generator) -> SequenceNetwork:
    """Real inputs; more than half a stream's accumulators of channels; heads one by one."""
    draft = Draft(rng, 8, channels=10)
    x = draft.attention("first", "x", 136, heads=17)
    x = draft.linear("between", x, 10, function="tanh")
    draft.attention("second", x, 24, heads=1, causal=True)
    return draft.network()


def _long(rng: np.random.Generator) -> SequenceNetwork:
    """More steps than accumulators in half a stream's part."""
    draft = Draft(rng, 200, channels=8)
    x = draft.linear("in", "x", 24)
    y = draft.add("norm", "layer_norm", 24, input=x)
    draft.linear("out", y, 24, add=x, function="relu")
    return draft.network()


def _large(rng: np.random.Generator) -> SequenceNetwork:
    """Scores for which there is room in one stream only."""
    draft = Draft(rng, 144, channels=8)
    draft.attention("heads", "x", 16, heads=2)
    return draft.network()


def _wide(rng: np.random.Generator) -> SequenceNetwork:
    draft = Draft(rng, 64, symbols=9)
    x = draft.linear("in", "x", 64)
    x = draft.add("norm", "layer_norm", 64, input=x)
    draft.linear("out", draft.attention("heads", x, 64, causal=True), 9)
    return draft.network()


def _inputs(network: SequenceNetwork, rng: np.random.Generator, sequences: int) -> np.ndarray:
    if network.symbols:
        return rng.integers(0, network.input_channels, (sequences, network.steps))
    return rng.standard_normal((sequences, network.steps, network.input_channels))


CASES = [
    (_lstm, EDGE, 1), (_lstm, EDGE, 3), (_lstm, EDGE, 24), (_two_lstms, EDGE, 5),
    (_block, EDGE, 1), (_block, EDGE, 3), (_two_attentions, EDGE, 2), (_long, EDGE, 2),
    (_large, EDGE, 2),
    (_lstm, RAPID, 3), (_wide, RAPID, 2),
    (_block, dataclasses.replace(EDGE, rows=4), 2),
]


@pytest.mark.parametrize(("draw", "config", "sequences"), CASES)
def test_programs_compute_what_the_layers_say(draw, config: CoreConfig, sequences: int,
                                              rng: np.random.Generator) -> None:
    network = draw(rng)
    compiled = compile_sequences(network, config, sequences)
    inputs = _inputs(network, rng, sequences)
    found = Driver(ModelBus(config, 1 << 22), compiled).run(inputs)
    np.testing.assert_array_equal(found, evaluate(network, inputs, config))


@pytest.mark.parametrize("draw", [_two_lstms, _two_attentions])
def test_programs_agree_where_numbers_end(draw, rng: np.random.Generator) -> None:
    """NaN-Inf in one channel of one step, and sums that overflow."""
    network = draw(rng)
    inputs = _inputs(network, rng, 4)
    inputs[1, 2, 3] = np.nan
    inputs[2] *= 1e9
    found = Driver(ModelBus(EDGE, 1 << 22), compile_sequences(network, EDGE, 4)).run(inputs)
    np.testing.assert_array_equal(found, evaluate(network, inputs))
    real = dlfloat.decode_array(found)
    assert np.isnan(real[1]).any() and not np.isnan(real[0]).any()


def test_one_program_for_any_number_of_sequences(rng: np.random.Generator) -> None:
    network = _block(rng, steps=8)
    inputs = _inputs(network, rng, 7)
    found = Driver(ModelBus(EDGE, 1 << 22), compile_sequences(network, EDGE, 3)).run(inputs)
    np.testing.assert_array_equal(found, evaluate(network, inputs))


@pytest.mark.parametrize("draw", [_lstm, _two_lstms, _block, _two_attentions, _long, _large])
def test_layers_are_near_float64(draw, rng: np.random.Generator) -> None:
    """A dozen roundings to 10 bits one behind the other: less than 1 % of the results' size."""
    network = draw(rng)
    inputs = _inputs(network, rng, 6)
    exact = evaluate_real(network, inputs)
    error = dlfloat.decode_array(evaluate(network, inputs)) - exact
    assert np.sqrt(np.mean(error**2)) < 0.01 * exact.std()
    assert np.abs(error).max() < 0.1 * exact.std()
    np.testing.assert_allclose(evaluate_real(network, inputs, np.float32), exact, atol=1e-4)


def test_a_step_sees_no_later_one(rng: np.random.Generator) -> None:
    network = _block(rng)
    inputs = _inputs(network, rng, 2)
    changed = inputs.copy()
    changed[:, 9] = (changed[:, 9] + 1) % network.input_channels
    before, after = evaluate(network, inputs), evaluate(network, changed)
    np.testing.assert_array_equal(before[:, :9], after[:, :9])
    assert (before[:, 9:] != after[:, 9:]).any((0, 2)).all()


def test_attention_weights_sum_to_one(rng: np.random.Generator) -> None:
    """Equal values come out as they went in, whatever the scores."""
    draft = Draft(rng, 16, channels=8)
    draft.add("heads", "attention", 8, input="x", causal=True, query_weights=draft.weights(8, 8),
              key_weights=draft.weights(8, 8), value_weights=np.eye(8).tolist())
    draft.description["layers"][0]["value_weights"] = np.zeros((8, 8)).tolist()
    draft.description["layers"][0]["value_weights"][0][0] = 1.0
    network = draft.network()
    inputs = _inputs(network, rng, 3)
    inputs[..., 0] = 3.0
    result = dlfloat.decode_array(evaluate(network, inputs))
    np.testing.assert_allclose(result[..., 0], 3.0, rtol=4e-3)
    assert not result[..., 1:].any()


def test_two_streams_keep_the_array_busier_than_one(rng: np.random.Generator) -> None:
    """48 sequences as two streams, and as two runs of 24 in which there is but one."""
    network = _lstm(rng, steps=4, symbols=24, hidden=32)
    cycles = {}
    for sequences in (1, 48):
        compiled = compile_sequences(network, EDGE, sequences)
        placed = place(compiled)
        prediction = predict(compiled.program, EDGE, program_address=placed.program,
                             segments=placed.segments, latency=16)
        table = breakdown(prediction, compiled.program, compiled.labels, EDGE)
        assert sum(sum(row.values()) for row in table.values()) == prediction.cycles
        assert set(table) <= {"memory", "logits"}
        cycles[sequences] = prediction.cycles
        array = sum(row["multiply"] for row in table.values())
        special = sum(span.retired - span.taken for span in prediction.spans
                      if compiled.program[span.index].unit is Unit.SPECIAL)
        if sequences == 48:
            # What one stream would take: one unit behind the other.
            assert prediction.cycles < 0.8 * (array + special)


def test_merge_keeps_each_streams_order(rng: np.random.Generator, monkeypatch) -> None:
    seen = []

    def watched(streams, config):
        merged = merge(streams, config)
        seen.append((streams, merged))
        return merged

    monkeypatch.setattr("ulpsim.sequences.compiler.merge", watched)
    compile_sequences(_lstm(rng), EDGE, 4)
    streams, merged = seen[0]
    assert len(streams) == 2
    place_of = {id(step): i for i, step in enumerate(merged)}
    assert len(place_of) == len(merged) == sum(map(len, streams))
    for stream in streams:
        for unit in Unit:
            places = [place_of[id(step)] for step in stream if step.instruction.unit is unit]
            assert places == sorted(places)


def test_room_takes_back() -> None:
    room = Room(10, 110)
    first, second, third = (room.take("a", size) for size in (40, 30, 30))
    assert (first, second, third) == (10, 50, 80)
    room.give_back(first, 40)
    room.give_back(third, 30)
    with pytest.raises(CompileError, match=r"layer 'b': needs 50 slots.*40 are free"):
        room.take("b", 50)
    room.give_back(second, 30)
    assert room.take("c", 100) == 10


# --- descriptions

def test_files(tmp_path: Path, rng: np.random.Generator) -> None:
    weights = rng.standard_normal((3, 5)).astype(np.float32)
    path = tmp_path / "small.json"
    path.write_text(json.dumps({
        "name": "small", "made": "by hand", "input": {"name": "x", "steps": 2, "symbols": "abcde"},
        "layers": [{"name": "y", "op": "linear", "input": "x", "weights": "w"}]}))
    np.savez(path.with_suffix(".npz"), w=weights)
    network = load_sequence_network(path)
    assert network.alphabet == "abcde"
    np.testing.assert_array_equal(network.encode("bad"), [1, 0, 3])
    np.testing.assert_allclose(evaluate_real(network, np.array([[4, 0]])), weights.T[None, [4, 0]])
    assert is_sequence_network(path)
    assert not is_sequence_network(FOLDER.parent / "edges.json")
    assert not is_sequence_network(tmp_path / "none.json")
    with pytest.raises(ValueError, match="among 'abcde', not 'f'"):
        network.encode("feed")
    with pytest.raises(ValueError, match="symbols must be characters"):
        _lstm(rng).encode("a")


def _changed(layer: int, **fields: object):
    def change(description: dict) -> None:
        description["layers"][layer].update(fields)
    return change


def _input(**fields: object):
    def change(description: dict) -> None:
        description["input"] = {"name": "x", **fields}
    return change


@pytest.mark.parametrize(("change", "message"), [
    (_changed(0, op="gru"), "layer 'memory': op must be one of constant, .*, not 'gru'"),
    (_changed(0, input="y"), "layer 'memory': input 'y' must be one of 'x'"),
    (_changed(0, size=3), "layer 'memory' has no key 'size'; it has input, input_weights"),
    (_changed(0, input_weights="w"), "layer 'memory': input_weights names 'w'"),
    (_changed(0, input_weights=[[1.0]]), r"input_weights must be \[16, 3\], not \[1, 1\]"),
    (_changed(0, bias=[0.0, 1.0]), r"layer 'memory': bias must be \[16\], not \[2\]"),
    (_changed(0, bias=[float("inf")] * 16), "bias must be finite, not inf"),
    (_changed(0, bias=[1e10] * 16), "bias must be at most 8573157376.0 in magnitude"),
    (_changed(1, function="step"), "function must be one of none, relu, sigmoid, tanh, not 'step'"),
    (_changed(1, add="x", function="tanh"), "must be none or relu with 'add', not tanh"),
    (_changed(1, add="memory"), "what is added must have 3 channels, not 4"),
    (_changed(1, name="memory"), "layer 'memory': the name must be used once"),
    (_changed(1, weights=[1.0]), "weights must be an array of 2 dimensions"),
    (_changed(1, op="layer_norm"), "layer 'logits' has no key 'weights'"),
    (_input(steps=0, symbols=3), "input: steps must be an integer of at least 1, not 0"),
    (_input(steps=2), "input must have one of the keys 'symbols' and 'channels'"),
    (_input(steps=2, symbols="aba"), "symbols must be a number, or different characters"),
    (lambda description: description.pop("input"), "network must have the key 'input'"),
    (lambda description: description.update(layers=[]), "must have at least one layer"),
])
def test_bad_descriptions(change, message: str, rng: np.random.Generator) -> None:
    draft = Draft(rng, 2, symbols=3)
    draft.linear("logits", draft.lstm("memory", "x", 4), 3)
    change(draft.description)
    with pytest.raises(NetworkError, match=message):
        SequenceNetwork.from_description(draft.description)


@pytest.mark.parametrize(("layer", "message"), [
    ({"op": "attention", "heads": 3}, "heads must divide the 8 outputs, not 3"),
    ({"op": "attention", "causal": 1}, "causal must be true or false, not 1"),
    ({"op": "layer_norm", "epsilon": 0}, "epsilon must be a positive number, not 0"),
    ({"op": "layer_norm", "scale": [1.0]}, r"scale must be \[8\], not \[1\]"),
    ({"op": "add", "add": "places"}, None),
    ({"op": "add", "input": "places", "add": "x"}, "input 'places' must be no constant"),
    ({"op": "add", "add": "x"}, "inputs must have the same channels, not 8 and 5"),
])
def test_bad_layers(layer: dict, message: str | None, rng: np.random.Generator) -> None:
    draft = Draft(rng, 4, channels=5)
    draft.add("places", "constant", 8, values=draft.weights(4, 8))
    draft.linear("y", "x", 8)
    if layer["op"] == "attention":
        layer = {**{f"{key}_weights": draft.weights(8, 8) for key in ("query", "key", "value")},
                 **layer}
    draft.add("z", layer["op"], 8, **{"input": "y", **{k: v for k, v in layer.items()
                                                        if k != "op"}})
    if message is None:
        draft.network()
        return
    with pytest.raises(NetworkError, match=f"layer 'z': {message}"):
        draft.network()


def test_constants_fit_the_steps(rng: np.random.Generator) -> None:
    network = _block(rng)
    assert network.with_steps(8).steps == 8
    with pytest.raises(NetworkError, match=r"'places': values must be \[32, 16\], not \[16, 16\]"):
        network.with_steps(32)
    places = network.layers[0]
    assert isinstance(places, Constant)
    with pytest.raises(NetworkError, match="the output must be no constant"):
        dataclasses.replace(network, layers=(places,))


@pytest.mark.parametrize(("inputs", "message"), [
    (np.zeros((2, 4), int), r"inputs must be \[sequences, 5\], not \[2, 4\]"),
    (np.zeros((2, 5)), "must be numbers of symbols, not float64"),
    (np.full((2, 5), 13), "symbols must be from 0 to 12, not 13"),
])
def test_bad_inputs(inputs: np.ndarray, message: str, rng: np.random.Generator) -> None:
    network = _lstm(rng)
    with pytest.raises(ValueError, match=message):
        input_codes(network, inputs)
    with pytest.raises(ValueError, match=message):
        compile_sequences(network, EDGE, 2).pack_input(inputs)


# --- what a core cannot run

def _refused(network: SequenceNetwork, message: str, config: CoreConfig = EDGE,
             batch: int | None = None) -> None:
    with pytest.raises(CompileError, match=message):
        compile_sequences(network, config, batch)


def test_refused(rng: np.random.Generator) -> None:
    _refused(_lstm(rng), "layer 'memory': the core 'nano' must have FP16 and special_functions",
             NANO)
    _refused(_lstm(rng, hidden=96), "layer 'memory': weights must fit the weight scratchpad.*need "
             "[0-9]+ lines, the core has 4096")
    _refused(_block(rng, steps=12), "layer 'heads': steps must be a multiple of the core's 8 "
             "outputs, not 12")
    _refused(_block(rng, channels=24), "layer 'heads': outputs of a head must be a multiple of the "
             "core's 8 outputs, not 12")
    draft = Draft(rng, 4, channels=5)
    draft.add("norm", "layer_norm", 5, input="x")
    _refused(draft.network(), "layer 'norm': channels must be a multiple of the core's 8 outputs")
    draft = Draft(rng, 264, channels=8)
    draft.attention("heads", "x", 8)
    _refused(draft.network(), "layer 'heads': steps must be at most 256, half of the 512 row", EDGE,
             1)
    draft = Draft(rng, 8, channels=8)
    draft.attention("heads", draft.lstm("memory", "x", 8), 8)
    _refused(draft.network(), "layer 'heads': attention takes all steps of a sequence at a time")
    _refused(_lstm(rng), "layer 'memory': needs [0-9]+ slots of the activation scratchpad", EDGE,
             800)
    draft = Draft(rng, 4, channels=8)
    draft.linear("many", "x", 520)
    _refused(draft.network(), "layer 'many': biases and scales must fit the parameter memory.*520 "
             "columns, the core has 512")
    with pytest.raises(ValueError, match="batch must be a positive integer, not 0"):
        compile_sequences(_lstm(rng), EDGE, 0)


# --- the trained models

@pytest.mark.parametrize(("name", "most_bits"), [("kjv-lstm", 1.95), ("kjv-attention", 2.1)])
def test_trained_models(name: str, most_bits: float) -> None:
    """Bits a character of held-out text: what training reached, in float32 and on the core."""
    from ulpcore.sequence_demonstration import bits_per_character, load_windows

    network = load_sequence_network(FOLDER / "parameters" / f"{name}.json")
    windows = load_windows(network, None, 512)
    exact = bits_per_character(evaluate_real(network, windows[:, :-1], np.float32), windows)
    core = bits_per_character(dlfloat.decode_array(evaluate(network, windows[:, :-1])), windows)
    assert exact < most_bits
    assert abs(core - exact) < 0.005


def test_bits_per_character() -> None:
    from ulpcore.sequence_demonstration import bits_per_character

    windows = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)
    even = np.full((2, 2, 4), 7.0)
    assert bits_per_character(even, windows) == pytest.approx(2.0)
    sure = np.where(windows[:, 1:, None] == np.arange(4), 50.0, 0.0)
    assert bits_per_character(sure, windows) == pytest.approx(0.0, abs=1e-9)


def test_every_tensor_has_its_name(rng: np.random.Generator) -> None:
    network = _two_lstms(rng)
    tensors = evaluate_tensors(network, _inputs(network, rng, 2))
    assert {name: codes.shape for name, codes in tensors.items()} == {
        name: (2, 4, channels) for name, channels in network.channels.items()}
