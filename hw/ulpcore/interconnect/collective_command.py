"""What a collective engine is told, what it reports, and how it marks packets."""

from amaranth.lib import data
from ulpsim.interconnect.collective import Cause, Operation

__all__ = ["CollectiveCommand", "CollectiveCompletion", "TagLayout"]

#: `ulpsim.interconnect.collective.Tag`.
TagLayout = data.StructLayout({"chunk": 8, "round": 6, "final": 1})


class CollectiveCommand(data.Struct):
    """`ulpsim.interconnect.collective.Command`."""

    operation: Operation
    round: 6
    root: 8
    address: 32
    bytes: 32
    pitch: 32
    table: 32
    patience: 32


class CollectiveCompletion(data.Struct):
    """`ulpsim.interconnect.collective.Completion`."""

    cause: Cause
    node: 8
