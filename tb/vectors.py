"""See `ulpcore.simulation`."""

from ulpcore.simulation import run_vectors

__all__ = ["run_vectors"]
