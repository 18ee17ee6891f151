"""Networks never come to a stand: proven of the RTL, for packets of any length and any stalls."""

import pytest
from deadlock import Rows, stand
from proof_bits import first_failure, prove_by_induction
from ulpcore.interconnect import buffer
from ulpsim.interconnect.topology import Mesh, Ring, Topology, Torus


@pytest.fixture(autouse=True)
def registers_for_memories(monkeypatch):
    monkeypatch.setattr(buffer, "Memory", Rows)


class OneClass(Topology):
    """A ring whose packets keep their channel wherever the dateline is."""

    @property
    def classes(self) -> int:
        return 1


@pytest.mark.parametrize("topology", [
    Ring(4, one_way=True),
    pytest.param(Ring(4), marks=pytest.mark.nightly),
    pytest.param(Torus(2, 2), marks=pytest.mark.nightly),
    pytest.param(Torus(2, 2, channels=1), marks=pytest.mark.nightly),
    pytest.param(Ring(5, one_way=True), marks=pytest.mark.nightly),
    pytest.param(Mesh(3, 2), marks=pytest.mark.nightly)], ids=str)
def test_a_network_does_not_come_to_a_stand(topology):
    found = stand(topology)
    prove_by_induction(found.module, found.inputs)


@pytest.mark.parametrize("channels", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_without_a_dateline_it_does(channels):
    """A few cycles after the reset packets wait for each other in a circle."""
    found = stand(OneClass((4,), True, True, 1, channels), alone=True)
    assert first_failure(found.module, found.inputs, cycles=10) is not None
    with pytest.raises(AssertionError, match="no proof by induction"):
        found = stand(OneClass((4,), True, True, 1, channels))
        prove_by_induction(found.module, found.inputs)


def test_a_buffer_that_promises_too_much_is_found_out(monkeypatch):
    """Claims are about the RTL: with room promised for one flit that is not there, none is."""
    monkeypatch.setattr(buffer, "UNDER_WAY", 1)
    found = stand(Ring(4, one_way=True))
    with pytest.raises(AssertionError, match="no proof by induction"):
        prove_by_induction(found.module, found.inputs)
