"""The study's parts: gradients of learners against PyTorch's, methods against their definitions."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ulpsim.compression.packets import PacketCause, Round

BENCH = Path(__file__).parents[1] / "bench"
try:
    import torch
except ImportError:
    pytest.skip("PyTorch is not installed: `make test-torch` does it", allow_module_level=True)


@pytest.fixture(autouse=True)
def bench_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCH))
    yield
    for name in [name for name in sys.modules if name.startswith("study_")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", ["convolutional", "lstm"])
@pytest.mark.parametrize("learners", [1, 4])
def test_gradients_of_learners_are_those_of_their_minibatches(
        kind: str, learners: int, seed: int) -> None:
    from study_networks import ConvolutionalNetwork, LstmNetwork, learner_gradients

    torch.manual_seed(seed)
    if kind == "lstm":
        network = LstmNetwork(38).double()
        characters = torch.randint(0, 38, (8, 13))
        x, target = characters[:, :-1], characters[:, 1:]
    else:
        network = ConvolutionalNetwork().double()
        x = torch.randn(8, 1, 28, 28, dtype=torch.float64)
        target = torch.randint(0, 10, (8,))
    loss, gradients = learner_gradients(network, x, target, learners)
    assert loss == pytest.approx(network.loss(x, target).item(), rel=1e-12)
    assert sorted(gradients) == sorted(name for name, _ in network.named_children())
    for learner in range(learners):
        part = slice(8 // learners * learner, 8 // learners * (learner + 1))
        network.zero_grad()
        network.loss(x[part], target[part]).backward()
        for name, module in network.named_children():
            expected = torch.cat([p.grad.flatten() for p in module.parameters()]).numpy()
            np.testing.assert_allclose(gradients[name][learner], expected, rtol=1e-9, atol=1e-14)
    with pytest.raises(ValueError, match="batch must be a multiple of the 3 learners, not 8"):
        learner_gradients(network, x, target, 3)


def test_adacomp_is_what_a_receiver_of_the_packets_adds(rng: np.random.Generator,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    import study_methods

    elements, learners = 1234, 3
    streams: list[list[bytes]] = []
    compress = study_methods.Learner.compress

    def kept(self, layer, gradient):
        ours, packets = compress(self, layer, gradient)
        streams.append(packets)
        return ours, packets

    monkeypatch.setattr(study_methods.Learner, "compress", kept)
    method = study_methods.AdaComp(learners, {"layer": 50}, 2.0)
    for step in range(4):
        streams.clear()
        sent = method.reduce("layer", rng.standard_normal((learners, elements)).astype(np.float32))
        dense = np.zeros(elements, np.uint32)
        receiver = Round(dense, layer=0, step=step, learners=learners)
        for packet in (packet for packets in streams for packet in packets):
            assert receiver.add(packet) is PacketCause.NONE
        assert receiver.done
        np.testing.assert_array_equal(sent.total.view(np.uint32), dense)
        assert sent.bytes == sum(len(p) for packets in streams for p in packets) / learners
        assert sent.union >= np.count_nonzero(sent.total) / elements > 0


@pytest.mark.parametrize("name", ["topk", "onebit"])
def test_feedback_loses_nothing(name: str, rng: np.random.Generator) -> None:
    import study_methods

    method = (study_methods.OneBit() if name == "onebit"
              else study_methods.TopK({"layer": 40.0}))
    given, sent = np.zeros(900), np.zeros(900)
    for _ in range(20):
        gradients = rng.standard_normal((4, 900)).astype(np.float32)
        one = method.reduce("layer", gradients)
        given += gradients.astype(np.float64).sum(0)
        sent += one.total
        if name == "topk":
            assert 4 * 900 / one.bytes >= 40
            assert one.union <= 4 * 12 / 900
    np.testing.assert_allclose(given - sent, method.errors["layer"].sum(0), atol=1e-3)


def test_terngrad_has_three_values_and_the_clipped_gradient_as_mean(
        rng: np.random.Generator) -> None:
    import study_methods

    gradient = rng.standard_normal(300).astype(np.float32)
    method = study_methods.TernGrad(1)
    sent = method.reduce("layer", np.repeat(gradient[None], 4000, 0))
    limit = 2.5 * gradient.std()
    # Of 4000 draws the mean is within five deviations of a draw, limit / 2 at most, over 63.
    assert np.abs(sent.total / 4000 - gradient.clip(-limit, limit)).max() < 5 * limit / 2 / 63
    assert sent.bytes == 16 + 4 + 60
    one = method.reduce("layer", gradient[None])
    assert len(np.unique(np.abs(one.total))) == 2


def test_powersgd_of_the_mean_is_that_of_learners(rng: np.random.Generator) -> None:
    """Why the study may run PyTorch's hook in one process: the definition with four learners, each
    with an error of its own, against that hook with the mean gradient."""
    from study_training import POWER_START, _power_replica
    from torch import distributed, nn

    class Matrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Linear(30, 20, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.matrix.weight * x).sum()

    steps = 6
    gradients = rng.standard_normal((steps, 4, 20, 30))
    torch.manual_seed(0)
    module = Matrix()
    replica = _power_replica(module)
    results = []
    try:
        for step in range(steps):
            module.zero_grad()
            replica(torch.from_numpy(gradients[step].mean(0).astype(np.float32))).backward()
            results.append(module.matrix.weight.grad.numpy().copy())
    finally:
        distributed.destroy_process_group()
    for step in range(POWER_START):
        np.testing.assert_allclose(results[step], gradients[step].mean(0), rtol=1e-5, atol=1e-6)
    # The first Q is drawn at random: what it led to tells P. From there on Q is that of the step
    # before.
    errors = np.zeros((4, 20, 30))
    first = results[POWER_START]
    q = np.linalg.svd(first)[2][0]
    for step in range(POWER_START, steps):
        given = gradients[step] + errors
        p = (first if step == POWER_START else given.mean(0)) @ q
        p = p / np.linalg.norm(p)
        q = np.mean([one.T @ p for one in given], 0)
        result = np.outer(p, q)
        errors = given - result
        np.testing.assert_allclose(results[step], result, rtol=1e-3, atol=1e-4)


def test_summary_pairs_runs_by_seed() -> None:
    from study_report import summary

    def run(setting: str, seed: int, accuracy: float) -> dict:
        return {"setting": f"cnn, {setting}, n 8, steps 5", "seed": seed, "accuracy": accuracy,
                **{kind: {"rate": 10.0 + seed, "union": [1.0, 0.25], "words a bin": [9.0, 4.0]}
                   for kind in ("convolution", "other", "all")}}

    runs = [run("none", 0, 90.0), run("none", 1, 80.0),
            run("adacomp, factor 3, bins 50 500", 0, 89.0),
            run("adacomp, factor 3, bins 50 500", 1, 80.5),
            run("adacomp, factor 3, bins 50 500", 2, 10.0)]
    rows = summary("cnn", {str(i): one for i, one in enumerate(runs)})
    row = rows["cnn, adacomp, factor 3, bins 50 500, n 8, steps 5"]
    assert row["seeds"] == 3
    assert row["lost"]["seeds"] == 2
    assert row["lost"]["mean"] == pytest.approx(0.25)
    assert row["rate"]["all"] == pytest.approx(11.0)
    assert row["union at the end"] == {"convolution": 0.25, "other": 0.25}
    assert row["words a bin"]["other, first step"] == 9
    assert row["words a bin"]["other, end"] == 4
