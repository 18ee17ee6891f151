"""The ulpcore deep-learning core as Amaranth components."""
