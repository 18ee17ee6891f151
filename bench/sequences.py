"""The character models on the held-out text in `examples/kjv/sample.txt`: bits and cycles.

Bits a character are those of the bit-exact model beside float32, over windows of as many
characters as the models have steps, each with an empty state. `error` is that of the core's
logits against float64: its root mean square, and its largest, both as a part of the logits'
standard deviation. Cycles are the cycle model's, which equals the RTL's, for one run of the
program, with the parts of them in which the array and the special unit work. Exits 1 if the core
loses more than 0.005 bits a character.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from record import record
from ulpcore.sequence_demonstration import bits_per_character, load_windows
from ulpsim import dlfloat
from ulpsim.breakdown import breakdown
from ulpsim.config import load_config
from ulpsim.cycles import predict
from ulpsim.driver import place
from ulpsim.isa import Unit
from ulpsim.sequences.compiler import compile_sequences
from ulpsim.sequences.evaluation import evaluate, evaluate_real
from ulpsim.sequences.network import load_sequence_network

PARAMETERS = Path(__file__).parents[1] / "examples" / "kjv" / "parameters"
LATENCY = 16
MOST_LOSS = 0.005


def measure(path: Path, config_name: str, windows_wanted: int) -> dict:
    config, network = load_config(config_name), load_sequence_network(path)
    windows = load_windows(network, None, windows_wanted)
    inputs = windows[:, :-1]
    core = np.concatenate([dlfloat.decode_array(evaluate(network, inputs[i:i + 256], config))
                           for i in range(0, len(inputs), 256)])
    exact = evaluate_real(network, inputs)
    error = (core - exact) / exact.std()
    compiled = compile_sequences(network, config)
    placement = place(compiled)
    prediction = predict(compiled.program, config, program_address=placement.program,
                         segments=placement.segments, latency=LATENCY)
    table = breakdown(prediction, compiled.program, compiled.labels, config)
    special = sum(span.retired - span.taken for span in prediction.spans
                  if compiled.program[span.index].unit is Unit.SPECIAL)
    characters = compiled.batch * network.steps
    multiply_adds = sum(compiled.multiply_adds.values()) * compiled.batch
    ideal = multiply_adds / (config.rows * config.column_lanes)
    with np.load(path.with_suffix(".npz")) as arrays:
        weights = sum(array.size for array in arrays.values())

    def percent(cycles: float) -> float:
        return round(100 * cycles / prediction.cycles, 1)

    return {
        "parameters": weights, "windows": len(windows), "steps": network.steps,
        "bits_float32": round(bits_per_character(evaluate_real(network, inputs, np.float32),
                                                 windows), 4),
        "bits_core": round(bits_per_character(core, windows), 4),
        "error_rms": round(float(np.sqrt(np.mean(error ** 2))), 5),
        "error_largest": round(float(np.abs(error).max()), 4),
        "sequences_a_run": compiled.batch, "instructions": len(compiled.program),
        "cycles": prediction.cycles,
        "cycles_a_character": round(prediction.cycles / characters, 1),
        "multiply_adds_a_character": round(multiply_adds / characters, 1),
        "utilisation": percent(ideal),
        "array_busy": percent(sum(row.get("multiply", 0) for row in table.values())),
        "special_busy": percent(special)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="edge", metavar="NAME|FILE.toml")
    parser.add_argument("--windows", type=int, help="windows of the sample (default: all)")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    figures: dict = {"config": options.config, "latency": LATENCY}
    lost = False
    for path in sorted(PARAMETERS.glob("*.json")):
        network = load_sequence_network(path)
        most = (len((PARAMETERS.parent / "sample.txt").read_bytes()) - 1) // network.steps
        row = measure(path, options.config, options.windows or most)
        figures[network.name] = row
        lost |= row["bits_core"] - row["bits_float32"] > MOST_LOSS
    record("sequences", figures, keep=not options.no_keep)
    return int(lost)


if __name__ == "__main__":
    sys.exit(main())
