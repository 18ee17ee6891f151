"""Models of the ulpcore deep-learning core: numpy only, the specification of the hardware."""

__version__ = "0.1.0"
