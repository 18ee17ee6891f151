"""The ulpcore deep-learning core as Amaranth components.

    from ulpcore import Core, CoreConfig

    m.submodules.core = core = Core(config=CoreConfig(rows=4))

A core as a whole (`Core`), its blocks, each of which is a component that can be used alone, their
configurations, the bus signatures of their ports, and `generate`, which makes Verilog of any of
them. `docs/integration.md` says how to connect them; `examples/blocks` holds designs that do.
A name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ulpsim.config import EDGE, NANO, RAPID, CoreConfig, load_config

    from .accumulators import Accumulators
    from .array import Array
    from .bus import AXI4Lite, AXI4Read, AXI4Write
    from .core import Core
    from .execute import Execute
    from .load import Load
    from .multiply_add import MultiplyAdd
    from .processing_element import ProcessingElement
    from .registers import Registers
    from .scratchpad import ActivationScratchpad, ParameterMemory, WeightScratchpad
    from .sequencer import Sequencer
    from .special import Special
    from .store import Store
    from .verilog import generate

__all__ = [
    "EDGE",
    "NANO",
    "RAPID",
    "AXI4Lite",
    "AXI4Read",
    "AXI4Write",
    "Accumulators",
    "ActivationScratchpad",
    "Array",
    "Core",
    "CoreConfig",
    "Execute",
    "Load",
    "MultiplyAdd",
    "ParameterMemory",
    "ProcessingElement",
    "Registers",
    "Sequencer",
    "Special",
    "Store",
    "WeightScratchpad",
    "generate",
    "load_config",
]

#: The module of each name.
_MODULES = {
    **dict.fromkeys(("EDGE", "NANO", "RAPID", "CoreConfig", "load_config"), "ulpsim.config"),
    **dict.fromkeys(("AXI4Lite", "AXI4Read", "AXI4Write"), "ulpcore.bus"),
    **dict.fromkeys(("ActivationScratchpad", "ParameterMemory", "WeightScratchpad"),
                    "ulpcore.scratchpad"),
    "MultiplyAdd": "ulpcore.multiply_add",
    "ProcessingElement": "ulpcore.processing_element",
    "generate": "ulpcore.verilog",
    **{name: f"ulpcore.{name.lower()}" for name in (
        "Accumulators", "Array", "Core", "Execute", "Load", "Registers", "Sequencer", "Special",
        "Store")},
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
