"""Board files for the ulpcore deep-learning core; see the README in this folder."""
