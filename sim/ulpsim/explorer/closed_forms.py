"""How long collectives take where nothing is in the way, in closed form.

n accelerators, `size` bytes, links of `bandwidth` bytes a second and `latency` seconds; what goes
over a link to a neighbour takes size / bandwidth + latency.
"""

__all__ = ["all_gather_on_ring", "all_reduce_by_halving_on_hypercube", "all_reduce_on_grid",
           "all_reduce_on_ring", "direct_all_reduce"]


def all_reduce_on_ring(n: int, size: float, bandwidth: float, latency: float,
                       ways: int = 1) -> float:
    """2 size (n - 1) / (n W) + 2 (n - 1) latency, W = ways * bandwidth."""
    return 2 * (n - 1) * (size / n / ways / bandwidth + latency)


def all_gather_on_ring(n: int, size: float, bandwidth: float, latency: float,
                       ways: int = 1) -> float:
    """(n - 1) size / W + (n - 1) latency one way; both ways each takes half of the blocks."""
    rounds = n - 1 if ways == 1 else n // 2
    return rounds * (size / bandwidth + latency)


def all_reduce_on_grid(sides: tuple[int, ...], size: float, bandwidth: float, latency: float,
                       streams: int) -> float:
    """Rings along one dimension after the other, on a torus of equal sides: each of the `streams`
    has its share of the bytes and a link of its own."""
    total, share = 0.0, size / streams
    for side in sides:
        share /= side
        total += 2 * (side - 1) * (share / bandwidth + latency)
    return total


def all_reduce_by_halving_on_hypercube(n: int, size: float, bandwidth: float,
                                       latency: float) -> float:
    """2 size (n - 1) / (n bandwidth) + 2 log2(n) latency."""
    return 2 * (size * (n - 1) / n / bandwidth + (n.bit_length() - 1) * latency)


def direct_all_reduce(n: int, size: float, bandwidth: float, latency: float) -> float:
    """From each to each over links of their own, twice."""
    return 2 * (size / n / bandwidth + latency) if n > 1 else 0.0
