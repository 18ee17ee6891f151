"""The system explorer: training steps on many accelerators, over any interconnect."""
