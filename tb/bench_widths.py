"""cocotb tests for `test_simulation`: one that passes, and one that must be seen to fail."""

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import Timer


async def increment(dut, value):
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 0
    dut.a.value = value
    await Timer(1, "ns")
    return dut.sum.value.to_unsigned()


@cocotb.test()
async def passes(dut):
    assert await increment(dut, 7) == 8


@cocotb.test()
async def fails(dut):
    assert await increment(dut, 7) == 9
