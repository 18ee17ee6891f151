"""The decoder's RTL against the golden model: causes, sums bit for bit, and how fast it is."""

import numpy as np
import pytest
from test_adacomp_model import bad_packets, gradient_like
from ulpcore.compression.rtl import RoundJob, decode
from ulpsim import float32
from ulpsim.compression.adacomp import Settings, compress_array
from ulpsim.compression.packets import PacketCause, Round, packets_of


def learner_packets(rng: np.random.Generator, job: RoundJob, learner: int, bin_size: int,
                    kind: str = "normal") -> list[bytes]:
    ours = compress_array(np.zeros(job.elements, np.int32), gradient_like(rng, job.elements, kind),
                          Settings(bin_size, 2, 16))
    return packets_of(ours, bin_size, layer=job.layer, learner=learner, step=job.step)


def golden(gradient: np.ndarray, jobs: list[RoundJob], packets: list[bytes]
           ) -> tuple[np.ndarray, list[PacketCause], list[int]]:
    final, causes, finished = gradient.copy(), [], []
    rounds = [Round(final[j.base:j.base + j.elements], layer=j.layer, step=j.step,
                    learners=j.learners) for j in jobs]
    current = 0
    for packet in packets:
        causes.append(rounds[current].add(packet))
        if rounds[current].done:
            finished.append(rounds[current].layer)
            current += 1
    return final, causes, finished


@pytest.mark.parametrize("stalls", [{}, {"packets": 0.5, "reports": 0.9, "wrote": 0.5,
                                         "finished": 0.9, "rounds": 0.9}])
def test_rounds(stalls: dict, rng: np.random.Generator) -> None:
    """Layers of all sizes of bins and many learners, with bad packets between the good ones."""
    jobs, packets, base = [], [], 0
    for layer, bin_size in enumerate([1, 2, 7, 50, 64, 65, 500, 512, 4096, 16384]):
        job = RoundJob(layer, 1000 + layer & 1023, int(rng.integers(1, 6)),
                       int(rng.choice([1, 50, 700, 6000])), base)
        base += job.elements
        jobs.append(job)
        for learner in range(job.learners):
            kind = str(rng.choice(["normal", "heavy", "sparse", "zero", "constant"]))
            good = learner_packets(rng, job, learner, bin_size, kind)
            for packet in good:
                bad = bytearray(packet)
                at = int(rng.integers(0, 8 * len(bad)))
                bad[at // 8] ^= 1 << at % 8
                other = RoundJob(layer, job.step, 1, job.elements)
                choice = rng.integers(0, 5)
                packets += [[bytes(bad)], [packet[:-4]], [packet + bytes(4)],
                            learner_packets(rng, other, learner + 1, bin_size), []][choice]
                packets.append(packet)
    gradient = rng.standard_normal(base).astype(np.float32).view(np.uint32)
    final, causes, finished = golden(gradient, jobs, packets)
    assert len(finished) == len(jobs)
    run = decode(gradient, jobs, packets, stalls=stalls, seed=int(rng.integers(1, 1000)))
    assert run.causes == causes
    assert run.finished == finished
    np.testing.assert_array_equal(run.gradient, final)


@pytest.mark.parametrize(("elements", "bin_size"), [(9000, 7), (3001, 500), (64, 64), (999, 50)])
def test_bad_packets(elements: int, bin_size: int, rng: np.random.Generator) -> None:
    """Each is refused with its cause, and nothing is written."""
    gradient = rng.standard_normal(elements).astype(np.float32).view(np.uint32)
    job = RoundJob(3, 77, 3, elements)
    bad = [(p, c) for p, c in bad_packets(rng, elements, bin_size) if p]
    packets = [packet for packet, _ in bad]
    _, causes, _ = golden(gradient, [job], packets)
    for (_, cause), got in zip(bad[:-1], causes, strict=False):
        assert got is cause
    run = decode(gradient, [job], packets)
    assert run.causes == causes
    assert len(run.written) == 0
    np.testing.assert_array_equal(run.gradient, gradient)


def test_a_word_a_cycle(rng: np.random.Generator) -> None:
    """Packets of 4096 words, of which every one is an element: learners follow without a gap."""
    job = RoundJob(1, 2, 4, 12288)
    packets = [p for i in range(4) for p in learner_packets(rng, job, i, 500, "constant")]
    gradient = np.zeros(job.elements, np.uint32)
    run = decode(gradient, [job], packets)
    assert run.causes == [PacketCause.NONE] * 12
    words = 4 * job.elements
    assert len(run.written) == words
    cycles = int(run.written[-1] - run.written[0]) + 1
    assert cycles == words + 11, "a packet costs one cycle more than it has words"
    total = float32.decode(int(run.gradient[0]))
    assert total == 4 * 0.5


def test_the_same_element_again_and_again(rng: np.random.Generator) -> None:
    """Every learner sends one element, the same: each sum has to wait for the one before."""
    job = RoundJob(9, 5, 64, 100)
    g = np.zeros(100, np.float32)
    g[37] = 1.5
    packets = [packets_of(compress_array(np.zeros(100, np.int32), g, Settings(50, 2, 16)), 50,
                          layer=9, learner=i, step=5)[0] for i in range(64)]
    gradient = rng.standard_normal(100).astype(np.float32).view(np.uint32)
    final, causes, _ = golden(gradient, [job], packets)
    run = decode(gradient, [job], packets, latency=20)
    assert run.causes == causes
    np.testing.assert_array_equal(run.gradient, final)
