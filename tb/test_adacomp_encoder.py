"""The encoder's RTL against the golden model: packets, residues and means bit for bit."""

from fractions import Fraction

import numpy as np
import pytest
from real_gradients import train
from test_adacomp_model import KINDS, gradient_like
from ulpcore.compression.encoder import Encoder, EncoderCause
from ulpcore.compression.layer import LayerCommand, Measured
from ulpcore.compression.positions import LANES
from ulpcore.compression.rtl import EncodeRun, LayerJob, command_row, encode, encoder_model, rows_of
from ulpsim import dlfloat, float32
from ulpsim.compression.adacomp import (
    Settings,
    compress_array,
    scale_of_mean,
    units_to_scale,
)
from ulpsim.compression.learner import Learner
from ulpsim.compression.packets import packets_of

EACH_LANES = pytest.mark.parametrize("lanes", [
    pytest.param(n, marks=pytest.mark.nightly) if n == 16 else n for n in LANES])
SIZES = (1, 7, 50, 64, 65, 500, 512, 4096, 16384)


def random_job(rng: np.random.Generator, count: int, bin_size: int, kind: str | None = None,
               layer: int = 0) -> LayerJob:
    point = 16
    settings = Settings(bin_size, Fraction(int(rng.integers(4, 16)), 4), point)
    spread = int(rng.choice([1, 1 << 8, 1 << 16, 1 << 18]))
    residue = rng.integers(-spread, spread + 1, count).astype(np.int32)
    g = gradient_like(rng, count, kind or str(rng.choice(KINDS)))
    scale = None if rng.random() < 0.5 else float32.encode(int(rng.integers(0, 1 << 18)) / 65536)
    return LayerJob(residue, g, settings, scale, layer=layer, learner=int(rng.integers(0, 1024)),
                    step=int(rng.integers(0, 1024)))


def check(lanes: int, jobs: list[LayerJob], **options) -> EncodeRun:
    run = encode(lanes, jobs, **options)
    for job, result in zip(jobs, run.layers, strict=True):
        ours = compress_array(job.residue, job.gradient, job.settings, job.scale)
        name = f"layer {job.layer}: {len(job.residue)} elements in bins of {job.settings.bin_size}"
        np.testing.assert_array_equal(result.residue, ours.residue, err_msg=name)
        assert result.mean == ours.mean, name
        expected = packets_of(ours, job.settings.bin_size, layer=job.layer, learner=job.learner,
                              step=job.step)
        assert len(result.packets) == len(expected), name
        for i, (a, b) in enumerate(zip(result.packets, expected, strict=True)):
            assert a == b, f"{name}: packet {i}"
    return run


@EACH_LANES
def test_layers(lanes: int, rng: np.random.Generator) -> None:
    """Many small layers of every kind one after another."""
    jobs = []
    for layer, bin_size in enumerate([*range(1, 40), 49, 50, 63, 64, 65, 100, 500, 511, 512] * 2):
        count = int(rng.choice([1, lanes, bin_size, 2 * bin_size + 1, 300, 1100]))
        jobs.append(random_job(rng, count, bin_size, layer=layer))
    check(lanes, jobs)


@EACH_LANES
def test_stalls(lanes: int, rng: np.random.Generator) -> None:
    """Every stream stalls at random: the results are the same."""
    for packets, updated in ((0.3, 0.7), (0.9, 0.1)):
        jobs = [random_job(rng, int(rng.integers(1, 3000)), bin_size, layer=layer)
                for layer, bin_size in enumerate(SIZES[:-2])]
        check(lanes, jobs, seed=int(rng.integers(1, 1 << 20)), stalls={
            "layers": 0.5, "gradients": 0.4, "residues": 0.4, "updated": updated,
            "packets": packets, "measured": 0.8})


@EACH_LANES
def test_gradients_in_dlfloat16(lanes: int, rng: np.random.Generator) -> None:
    """Codes of all kinds, NaN-Inf among them, in layers between those of FP32."""
    jobs = []
    for layer, bin_size in enumerate((7, 50, 64, 500)):
        job = random_job(rng, 1500, bin_size, layer=layer)
        codes = rng.integers(0, 1 << 16, 1500, np.uint16)
        codes[rng.random(1500) < 0.1] = 0x7FFF
        near = dlfloat.encode_array(rng.standard_normal(1500))
        codes = np.where(rng.random(1500) < 0.5, codes, near)
        jobs += [job, LayerJob(job.residue, codes, job.settings, job.scale, layer=layer + 10)]
    check(lanes, jobs)


@EACH_LANES
def test_every_bin_size_without_a_pause(lanes: int, rng: np.random.Generator) -> None:
    """From the first row to the last one is taken in every cycle: over bins of all sizes, over the
    ends of layers, over bins larger than a packet's worth of elements."""
    jobs = []
    for layer, bin_size in enumerate(SIZES):
        job = random_job(rng, 40_001 if lanes > 1 else 20_001, bin_size, "normal", layer)
        jobs.append(LayerJob(job.residue, job.gradient, Settings(bin_size, 2, 16),
                             float32.encode(1.25), layer=layer))
    run = check(lanes, jobs)
    assert run.cycles == len(run.taken)


@EACH_LANES
def test_short_layers_wait_for_packets_alone(lanes: int, rng: np.random.Generator) -> None:
    """Layers of 40 rows, each a packet of its own: still without a pause."""
    jobs = [LayerJob(np.zeros(40 * lanes - 1, np.int32),
                     gradient_like(rng, 40 * lanes - 1, "normal"), Settings(50, 2, 16),
                     float32.encode(1.25), layer=i) for i in range(200)]
    run = check(lanes, jobs)
    assert run.cycles == len(run.taken)


def test_extremes(rng: np.random.Generator) -> None:
    """Sums that just fit and just do not, thresholds beyond every maximum, scales up to 2^31."""
    values = np.array([-2 ** 31, -2 ** 31 + 1, -2 ** 30, -1, 0, 1, 2 ** 30, 2 ** 31 - 1])
    grads = np.array([-2.0 ** 31, -2.0 ** 30, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2.0 ** 31,
                      2.0 ** 31 - 128], np.float32)
    jobs = []
    for bin_size in (1, 3, 7, 11, 88):
        for factor in (0.25, 0.75, 2, 7.75):
            for scale in (None, float32.encode(2.0 ** 31), 0):
                residue, g = (rng.permuted(x.ravel()) for x in np.meshgrid(
                    values.astype(np.int32), grads))
                jobs.append(LayerJob(residue, g, Settings(bin_size, factor, 0), scale))
    check(8, jobs)


def test_everything_is_sent(rng: np.random.Generator) -> None:
    """All elements alike: each is sent, and packets fill one after another."""
    for bin_size in (1, 50, 64, 65, 16384):
        g = np.where(rng.random(50_000) < 0.5, -0.5, 0.5).astype(np.float32)
        run = check(8, [LayerJob(np.zeros(50_000, np.int32), g, Settings(bin_size, 2, 16),
                                 float32.encode(0.5))])
        assert sum(map(len, run.layers[0].packets)) > 50_000


@EACH_LANES
def test_long_runs_of_nothing(lanes: int, rng: np.random.Generator) -> None:
    """Skips of every length, around the longest that a word of 8 bits spans."""
    jobs = []
    for bin_size in (1, 2, 3, 5, 16, 50, 64):
        g = np.zeros(30_000, np.float32)
        at = np.cumsum(rng.choice([1, 2, 62, 63, 64, 65, 66, 127, 128, 129, 200], 200)
                       * bin_size + rng.integers(-1, 2, 200))
        g[at[(at >= 0) & (at < len(g))]] = 0.25
        jobs.append(LayerJob(np.zeros(len(g), np.int32), g, Settings(bin_size, 2, 16),
                             layer=bin_size))
    check(lanes, jobs)


def test_several_steps_of_training(rng: np.random.Generator) -> None:
    """Residues go round, exact means and those of the step before by turns."""
    residues = [np.zeros(n, np.int32) for n in (800, 25, 12_800, 1280)]
    sizes, scales = (50, 50, 500, 500), [None] * 4
    for step in range(5):
        jobs = [LayerJob(r, gradient_like(rng, len(r), "heavy") / np.float32(step + 1),
                         Settings(s, 2, 16), scale, layer=i, step=step)
                for i, (r, s, scale) in enumerate(zip(residues, sizes, scales, strict=True))]
        run = check(8, jobs)
        residues = [layer.residue for layer in run.layers]
        scales = [layer.mean if step % 2 else None for layer in run.layers]


def test_measuring_between_sending(rng: np.random.Generator) -> None:
    """Passes that measure alone, between those that send: nothing of them is left behind."""
    jobs = [random_job(rng, int(rng.integers(1, 2000)), bin_size, "normal", layer)
            for layer, bin_size in enumerate([7, 50, 64, 65, 500, 512] * 3)]
    kinds = [bool(rng.random() < 0.5) for _ in jobs]
    scale = float32.encode(1.0)
    run = encoder_model(8).run({
        "layers": np.stack([command_row(job, scale, measure=measure)
                            for job, measure in zip(jobs, kinds, strict=True)]),
        "gradients": np.concatenate([rows_of(job.gradient, 8) for job in jobs]),
        "residues": np.concatenate([rows_of(job.residue, 8) for job in jobs])})
    sent = [compress_array(job.residue, job.gradient, job.settings, scale)
            for job, measure in zip(jobs, kinds, strict=True) if not measure]
    np.testing.assert_array_equal(
        run.outputs["updated"], np.concatenate([rows_of(ours.residue, 8) for ours in sent]))
    for job, row in zip(jobs, run.outputs["measured"], strict=True):
        got = Measured.from_bits(sum(int(word) << 32 * i for i, word in enumerate(row)))
        ours = compress_array(job.residue, job.gradient, job.settings)
        assert units_to_scale(scale_of_mean(got.total, got.bins), 16) == ours.mean
        assert got.layer == job.layer


def test_real_gradients(rng: np.random.Generator) -> None:
    """Every layer of a network that learns, at three stages, in bins of every size, with random
    stalls on every stream."""
    gradients, losses = train(rng, 30)
    assert np.mean(losses[-5:]) < losses[0]
    learner, jobs = Learner(), []
    for step, layers in enumerate(gradients):
        for name, g in layers.items():
            layer = learner.layer(name, g, 50 if name.startswith("conv") else 500)
            if step in (0, 9, 29):
                jobs += [LayerJob(layer.residue, g, Settings(bin_size, 2, layer.settings.point),
                                  None if bin_size % 2 else layer.mean, layer.number, step=step)
                         for bin_size in SIZES]
            learner.compress(layer, g)
    check(8, jobs, seed=int(rng.integers(1, 1 << 20)), stalls=dict.fromkeys(
        ("layers", "gradients", "residues", "updated", "packets", "measured"), 0.2))


@pytest.mark.parametrize(("change", "cause"), [
    ({"bin_size": 0}, EncoderCause.BIN_SIZE), ({"bin_size": 16385}, EncoderCause.BIN_SIZE),
    ({"factor": 0}, EncoderCause.FACTOR), ({"point": 127}, EncoderCause.POINT),
    ({"point": -97 & 0xFF}, EncoderCause.POINT),
    ({"scale": float32.encode(2.0 ** -17)}, EncoderCause.SCALE),
    ({"scale": float32.encode(-1.0)}, EncoderCause.SCALE),
    ({"scale": float32.NAN}, EncoderCause.SCALE),
    ({"scale": float32.encode(2.0 ** 15 + 1)}, EncoderCause.SCALE)])
def test_commands_that_cannot_be_carried_out(change: dict, cause: EncoderCause,
                                             rng: np.random.Generator) -> None:
    """The layer before is finished, none is begun, and the cause says why."""
    job = random_job(rng, 300, 50, "normal")
    row = command_row(job, float32.encode(1.0), measure=False)
    bad = _changed(row, change)
    g, r = rows_of(job.gradient, 8), rows_of(job.residue, 8)
    run = encoder_model(8).run({
        "layers": np.stack([row, bad, row]), "gradients": np.concatenate([g, g, g]),
        "residues": np.concatenate([r, r, r])})
    assert EncoderCause(run.status["cause"]) is cause
    assert len(run.times["gradients"]) == len(run.outputs["updated"]) == len(g)
    assert len(run.outputs["measured"]) == 1 and run.outputs["packets"][-1, -1] >> 3 & 1


def _changed(row: np.ndarray, change: dict) -> np.ndarray:
    bits = sum(int(word) << 32 * i for i, word in enumerate(row))
    for name, value in change.items():
        field = LayerCommand.as_shape()[name]
        mask = (1 << field.width) - 1
        bits = bits & ~(mask << field.offset) | (value & mask) << field.offset
    return np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(len(row))], np.uint32)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"lanes": 2}, "lanes must be one of 1, 4, 8, 16, not 2"),
    ({"lanes": 8, "largest_bin": 0}, "largest_bin must be an integer from 1 to 16384, not 0"),
    ({"lanes": 8, "largest_bin": 16385}, "largest_bin must be an integer"),
])
def test_bad_parameters(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(**arguments)
