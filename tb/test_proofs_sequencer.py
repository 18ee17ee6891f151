"""What is proven of the sequencer's token counters and queues."""

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, Value
from proof import inside, prove
from ulpcore.sequencer import Sequencer
from ulpsim.config import NANO


def test_tokens_and_queues_lose_and_invent_nothing():
    """The sequencer beside units that do anything, with a program memory that holds anything.

    While a run goes on, each counter of tokens holds those given since its start less those taken:
    it never falls below zero, and one that would pass 255 stops the run two cycles after. What is
    taken leaves its counter a cycle later, before anything waits for it again. A head is offered
    just when the counters hold what it waits for. A queue takes an instruction only when it has
    room, and no instruction enters two. What was put into one less what its unit took is in it, on
    the way to its head, or there.
    """
    m = Module()
    sequencer = Sequencer(config=NANO)
    m.submodules.sequencer, within = inside(sequencer)
    ports = [getattr(sequencer, unit.name.lower()) for unit in NANO.units]
    clear, running = sequencer.clear, within["running"]
    put, pending_units = within["put"], within["pending_units"]
    loading, valid, turn = within["head_loading"], within["head_valid"], within["turn"]

    trouble = within["trouble"]
    was_take = within["was_take"]
    late = Cat(within[f"overflow_{unit.name.lower()}"] for unit in NANO.units).any()

    def single(bits: Value) -> Value:
        return (bits & (bits - 1)) == 0

    m.d.comb += Assert(single(pending_units[:len(NANO.units)]))
    given_too_many = []
    enough: list[list[Value]] = [[] for _ in NANO.units]
    for giver in NANO.units:
        port = ports[giver.value]
        for taker in NANO.units:
            name = f"{giver.name}_{taker.name}".lower()
            count = within[f"tokens_{name}"]
            wait = within[f"wait_{taker.name.lower()}"].word_select(giver.value, 4)
            # One bit more than tokens have, and one for the sign.
            balance = Signal(10, name=f"balance_{name}")
            given, taken = Signal(name=f"given_{name}"), Signal(4, name=f"taken_{name}")
            m.d.comb += [
                given.eq(port.retired & port.retired_post[taker.value]),
                taken.eq(Mux(within["take"][taker.value], wait, 0)),
            ]
            enough[taker.value].append(balance >= wait)
            m.d.sync += balance.eq(balance + given - taken)
            with m.If(clear):
                m.d.sync += balance.eq(0)
            with m.If(running & ~late & ~trouble):
                m.d.comb += [
                    Assert(balance <= 255),
                    Assert(balance == count - Mux(was_take[taker.value], wait, 0)),
                    Assert(within[f"full_{name}"] == (
                        balance + Mux(was_take[taker.value], wait, 0) == 255)),
                    Assert(taken <= balance),
                ]
            given_too_many.append(balance + given - taken > 255)
    was_running, too_many, was_late, was_trouble = (Signal() for _ in range(4))
    m.d.sync += [was_running.eq(running), was_late.eq(running & late),
                 was_trouble.eq(running & trouble),
                 too_many.eq(~late & ~trouble & Cat(given_too_many).any())]
    m.d.comb += [
        Assert(~(running & was_running & too_many) | late),
        Assert(~(running & was_late) | trouble),
        Assert(~(running & was_trouble)),
    ]

    for unit, port in zip(NANO.units, ports, strict=True):
        i, name = unit.value, unit.name.lower()
        level, room = within[f"queue_{name}.level"], within[f"queue_{name}.w_rdy"]
        there = Signal(8, name=f"there_{name}")
        taken = port.instructions.valid & port.instructions.ready
        m.d.sync += there.eq(there + (put & pending_units[i]) - taken)
        with m.If(clear):
            m.d.sync += there.eq(0)
        m.d.comb += [
            Assert(~(put & pending_units[i]) | room),
            Assert(level <= NANO.queue_depth),
            Assert(~(loading[i] & valid[i])),
            Assert(~(was_take[i] & (loading[i] | valid[i]))),
            Assert(~loading[i] | (turn == (2 * i + 2) % 8)),
        ]
        with m.If(running):
            m.d.comb += Assert(there == level + loading[i] + valid[i])
        with m.If(running & ~late & ~trouble & valid[i]):
            m.d.comb += Assert(port.instructions.valid == Cat(enough[i]).all())

    inputs = [sequencer.start, sequencer.reset, sequencer.program_address,
              sequencer.program_length, sequencer.watchdog, sequencer.quiet, sequencer.fetched,
              sequencer.program_enable, sequencer.program_write_address, sequencer.data,
              sequencer.fetch.ready]
    for port in ports:
        inputs += [port.instructions.ready, port.retired, port.retired_post, port.fault,
                   port.fault_cause, port.fault_index, port.busy]
    prove(m, inputs, depth=2)
