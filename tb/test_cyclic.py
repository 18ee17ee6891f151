"""CLT-k in AdaComp's arithmetic: definition, twin, ScaleCom's own in FP32; encoder and decoder."""

import numpy as np
import pytest
from test_adacomp_model import KINDS, bad_packets, gradient_like
from ulpcore.compression.rtl import LayerJob, RoundJob, decode, encode
from ulpsim import float32
from ulpsim.compression import scalecom
from ulpsim.compression.adacomp import Settings, compress, compress_array
from ulpsim.compression.cyclic import Gather, reduce, reduce_array
from ulpsim.compression.packets import PacketCause, packets_of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bin_size", "factor"), [(1, 1), (7, 1), (50, 1), (50, 2.5), (400, 1)])
def test_array_twin_equals_the_definition(kind: str, bin_size: int, factor: float,
                                          rng: np.random.Generator) -> None:
    settings = Settings(bin_size, factor, 16)
    residues = np.zeros((3, 203), np.int32)
    for step in range(4):
        g = np.stack([gradient_like(rng, 203, kind) for _ in range(3)])
        exact = reduce(residues.tolist(), g.view(np.uint32).tolist(), settings, step)
        fast = reduce_array(residues, g, settings, step)
        for name in ("positions", "values", "residues"):
            np.testing.assert_array_equal(getattr(fast, name), getattr(exact, name))
        assert fast.refused == exact.refused
        residues = fast.residues


def test_it_is_scalecom_where_fp32_is_exact(rng: np.random.Generator) -> None:
    """The largest of each bin, whole numbers, no two alike: the FP32 definition, with b = 1."""
    settings, point = Settings(40, 1, 10), 10
    residues, memories = np.zeros((4, 300), np.int32), np.zeros((4, 300), np.uint32)
    for step in range(8):
        g = np.stack([rng.permutation(np.arange(-2000, 2000))[:300] for _ in range(4)])
        values = (g / 2.0 ** point).astype(np.float32)
        ours = reduce_array(residues, values, settings, step)
        theirs = scalecom.reduce_array(memories, values.view(np.uint32),
                                       scalecom.LowPass(40, 1, 1.0), step)
        # Of equal magnitudes ours sends all, theirs the first.
        both = np.isin(ours.positions, theirs.positions)
        assert both.sum() == len(theirs.positions)
        np.testing.assert_array_equal(ours.values[both] / 2.0 ** point,
                                      theirs.values.view(np.float32))
        residues = ours.residues
        memories = float32.from_values((residues / 2.0 ** point).astype(np.float32))


def test_nothing_is_lost(rng: np.random.Generator) -> None:
    """Residues and what was sent are the sum of all gradients, to the bit."""
    residues, total, sent = np.zeros((5, 700), np.int32), np.zeros(700, np.int64), np.zeros(
        700, np.int64)
    for step in range(12):
        g = rng.integers(-1000, 1000, (5, 700))
        total += g.sum(axis=0)
        ours = reduce_array(residues, (g / 64).astype(np.float32), Settings(50, 1, 6), step)
        sent[ours.positions] += ours.values
        residues = ours.residues
        np.testing.assert_array_equal(residues.sum(axis=0, dtype=np.int64) + sent, total)


@pytest.mark.parametrize("stalls", [{}, dict.fromkeys(
    ("layers", "gradients", "residues", "updated", "packets", "measured", "rounds", "reports",
     "finished", "gathered", "wrote"), 0.4)])
def test_learners_in_rtl(stalls: dict[str, float], rng: np.random.Generator) -> None:
    """Passes of all learners, the leader's packets to each, what it gathers: over several steps,
    with layers that AdaComp sends in between."""
    sizes = {0: (50, 801), 1: (500, 2600), 2: (7, 40), 3: (64, 6000)}
    learners, encoder = 3, ("layers", "gradients", "residues", "updated", "packets", "measured")
    residues = {layer: np.zeros((learners, count), np.int32)
                for layer, (_, count) in sizes.items()}
    for step in range(2):
        lead = scalecom.leader(step, learners)
        jobs, expected = [], {}
        for layer, (bin_size, count) in sizes.items():
            settings = Settings(bin_size, 1 if layer % 2 else 1.5, 16)
            g = np.stack([gradient_like(rng, count, "heavy") for _ in range(learners)])
            expected[layer] = reduce_array(residues[layer], g, settings, step)
            jobs += [LayerJob(residues[layer][i], g[i], settings, None if i == lead else 0, layer,
                              i, step, choose=i == lead) for i in range(learners)]
            jobs.append(LayerJob(residues[layer][0], g[0], settings, float32.encode(0.5), layer))
        run = encode(8, jobs, stalls={k: v for k, v in stalls.items() if k in encoder},
                     seed=int(rng.integers(1, 1000)))
        passes = {(job.layer, job.learner): result
                  for i, (job, result) in enumerate(zip(jobs, run.layers, strict=True))
                  if i % (learners + 1) != learners}
        for layer in sizes:
            packets = packets_of(
                compress_array(residues[layer][lead], jobs[4 * layer + lead].gradient,
                               jobs[4 * layer].settings, choose=True),
                sizes[layer][0], layer=layer, learner=lead, step=step)
            assert passes[layer, lead].packets == packets

        gathered = []
        for i in range(learners):
            base, rounds, packets = 0, [], []
            for layer, (_, count) in sizes.items():
                rounds.append(RoundJob(layer, step, lead + 1, count, base, first=lead, gather=True))
                packets += passes[layer, lead].packets
                base += count
            before = np.concatenate([passes[layer, i].residue for layer in sizes])
            taken = decode(before.view(np.uint32), rounds, packets, seed=int(rng.integers(1, 99)),
                           stalls={k: v for k, v in stalls.items()
                                   if k not in encoder or k == "packets"})
            assert set(taken.causes) == {PacketCause.NONE} and taken.finished == list(sizes)
            gathered.append(taken.gathered.view(np.int32).astype(np.int64))
            np.testing.assert_array_equal(
                taken.gradient.view(np.int32),
                np.concatenate([expected[layer].residues[i] for layer in sizes]))
        np.testing.assert_array_equal(
            np.sum(gathered, axis=0), np.concatenate([expected[layer].values for layer in sizes]))
        residues = {layer: expected[layer].residues for layer in sizes}


def test_bad_packets(rng: np.random.Generator) -> None:
    """Refused with the cause of the golden model; the residue stays, nothing is put out. And those
    of AdaComp, which have a scale, leave zeros behind as well."""
    before = rng.integers(-999, 999, 3001).astype(np.int32)
    bad = [packet for packet, _ in bad_packets(rng, 3001, 500) if packet]
    gradient = gradient_like(rng, 3001, "heavy")
    good = packets_of(compress_array(np.zeros(3001, np.int32), gradient, Settings(500, 2, 16)), 500,
                      layer=3, learner=0, step=77)
    ours = before.copy()
    receiver = Gather(ours, layer=3, step=77, learner=0)
    causes = [receiver.add(packet) for packet in bad]
    assert PacketCause.NONE not in causes and not len(receiver.values)
    np.testing.assert_array_equal(ours, before)
    causes += [receiver.add(packet) for packet in good]
    run = decode(before.view(np.uint32), [RoundJob(3, 77, 1, 3001, gather=True)], bad + good)
    assert run.causes == causes and causes[-1] is PacketCause.NONE
    np.testing.assert_array_equal(run.gradient.view(np.int32), ours)
    np.testing.assert_array_equal(run.gathered.view(np.int32), receiver.values)
    assert len(receiver.values) and not ours[before != ours].any()


def test_bad_arguments() -> None:
    zeros = np.zeros((2, 4), np.int32), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="must have one shape"):
        reduce_array(*zeros, Settings(), 0)
    with pytest.raises(ValueError, match="must have one shape"):
        reduce([[]], [[]], Settings(), 0)
    message = "scale must be None where elements are only chosen"
    with pytest.raises(ValueError, match=message):
        compress_array(np.zeros(4, np.int32), np.zeros(4, np.float32), Settings(), 0, choose=True)
    with pytest.raises(ValueError, match=message):
        compress([0], [0], Settings(), 0, choose=True)
