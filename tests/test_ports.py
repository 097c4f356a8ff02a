"""Port I/O: in and out in all three kinds of code, on the PIO bus and to user space."""

from __future__ import annotations

import pytest

from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.arch.x86.machine import VARIANTS
from pvmmio_uc.assembler import assemble
from pvmmio_uc.errors import AccessRefused
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.exits import Reason, Route, Steps, UserspaceExit
from pvmmio_uc.machine import Machine
from pvmmio_uc.plugin import Decode

from .port_guests import BUFFER, PORT, Counter, execute, guest, ramp

IMM = 0x80
ACCUMULATOR = {1: "al", 2: "ax", 4: "eax"}

every_bits = pytest.mark.parametrize("bits", [16, 32, 64])
every_width = pytest.mark.parametrize("width", [1, 2, 4])
both_decodes = pytest.mark.parametrize("decode", ["software", "assist"])


class Boom(Exception):
    """Raised by a callback."""


class TestOneElement:
    @every_bits
    @every_width
    @both_decodes
    @pytest.mark.parametrize("port", [IMM, PORT])
    def test_out(self, bits: int, width: int, decode: Decode, port: int) -> None:
        machine, recorder = guest(bits, decode=decode)
        with machine:
            where = f"{port:#x}" if port == IMM else "dx"
            machine.run(f"out {where}, {ACCUMULATOR[width]}", {"eax": 0x1122_3344})
            assert recorder.exits == [(True, port, width, 1, bytes.fromhex("44332211")[:width])]
            exit_ = machine.pv.exits[0]
            assert (exit_.reason, exit_.pc, exit_.address) == (Reason.IO, machine.platform.code, port)
            assert (exit_.route, exit_.steps) == (Route.USERSPACE, Steps(exits=1, userspace=1))
            assert machine["eax"] == 0x1122_3344

    @every_bits
    @every_width
    @both_decodes
    @pytest.mark.parametrize("port", [IMM, PORT])
    def test_in(self, bits: int, width: int, decode: Decode, port: int) -> None:
        machine, recorder = guest(bits, decode=decode)
        with machine:
            wide, before = ("rax", 0x8877_6655_1122_3344) if bits == 64 else ("eax", 0x1122_3344)
            machine.run(f"in {ACCUMULATOR[width]}, {f'{port:#x}' if port == IMM else 'dx'}", {wide: before})
            assert [e[:4] for e in recorder.exits] == [(False, port, width, 1)]
            kept = 0 if width == 4 else before >> 8 * width << 8 * width
            assert machine[wide] == kept | int.from_bytes(ramp(width), "little")

    @pytest.mark.parametrize(("port", "width"), [(0xFFFF, 1), (0xFFFF, 4), (0, 2)])
    def test_the_ends_of_the_port_space(self, port: int, width: int) -> None:
        machine, recorder = guest()
        with machine:
            machine.run(f"out dx, {ACCUMULATOR[width]}", {"edx": 0xFFFF_0000 | port})
            assert [e[:4] for e in recorder.exits] == [(True, port, width, 1)]

    @pytest.mark.parametrize("answer", [0x1_5A, b"\x5a", None])
    def test_the_answer(self, answer: int | bytes | None) -> None:
        machine, _ = guest()
        with machine:
            machine.pv.on_userspace(lambda exit: answer)
            machine.run("in al, dx", {"eax": 0})
            assert machine["eax"] == (0xFF if answer is None else 0x5A)

    def test_an_answer_that_does_not_fit(self) -> None:
        machine, _ = guest()
        with machine:
            machine.pv.on_userspace(lambda exit: b"\1\2")
            with pytest.raises(ValueError, match="takes 1 bytes"):
                machine.run("in al, dx")

    @pytest.mark.parametrize("variant", VARIANTS, ids=str)
    def test_pc_is_at_the_instruction_for_both(self, variant: Variant) -> None:
        """KVM moves it on re-entry, for out as for in."""
        machine, recorder = guest(variant.bits, paging=variant.paging)
        with machine:
            machine.run("nop\nout dx, al\nin al, dx")
            start = machine.platform.code
            assert recorder.pcs == [(start + 1, start + 1), (start + 2, start + 2)]
            assert machine.pv.arch.pc() == start + 3


class TestBus:
    @every_width
    def test_a_doorbell_of_its_width(self, width: int) -> None:
        machine, recorder = guest()
        with machine, EventFd() as kick:
            machine.pv.ioeventfd(kick, PORT, width, pio=True)
            machine.run("out dx, al\nout dx, ax\nout dx, eax\nin al, dx")
            assert kick.count == 1
            assert [e[2] for e in recorder.exits] == [*(w for w in (1, 2, 4) if w != width), 1]
            routes = [exit_.route for exit_ in machine.pv.exits]
            assert routes.count(Route.IOEVENTFD) == 1

    def test_any_length_and_datamatch(self) -> None:
        machine, recorder = guest()
        with machine, EventFd() as any_length, EventFd() as match:
            machine.pv.ioeventfd(any_length, PORT, 0, pio=True)
            machine.pv.ioeventfd(match, IMM, 2, datamatch=0x1234, pio=True)
            lines = ["out dx, al", "out dx, ax", "out dx, eax"]
            machine.run("\n".join([*lines, "out 0x80, ax", "inc eax", "out 0x80, ax"]), {"eax": 0x1233})
            assert (any_length.count, match.count) == (3, 1)
            assert [e[1] for e in recorder.exits] == [IMM]

    def test_an_access_that_spans_ports_is_one_access(self) -> None:
        machine, recorder = guest()
        with machine, EventFd() as kick:
            machine.pv.ioeventfd(kick, PORT, 1, pio=True)
            machine.run("out dx, ax", {"edx": PORT - 1})
            assert (kick.count, len(recorder.exits)) == (0, 1)

    def test_ports_and_addresses_do_not_meet(self) -> None:
        with Machine("x86") as machine, EventFd() as mmio, EventFd() as pio:
            machine.pv.ioeventfd(pio, PORT, 1, pio=True)
            machine.pv.ioeventfd(mmio, machine.platform.mmio + PORT, 1)
            machine.run("mov byte ptr [rbx], al", {"rbx": machine.platform.mmio + PORT})
            assert (mmio.count, pio.count) == (1, 0)
            machine.run("out dx, al", {"edx": PORT})
            assert (mmio.count, pio.count) == (1, 1)

    def test_a_device(self) -> None:
        machine, recorder = guest()
        device = Counter()
        with machine:
            machine.pv.device(PORT, 8, device, pio=True)
            machine.run("out dx, ax\nadd edx, 3\nout dx, al\nin ax, dx", {"eax": 0x55_1234})
            assert device.written == [(0, 2, 0x1234), (3, 1, 0x34)]
            assert machine["eax"] == 0x55_0001
            assert recorder.exits == []
            assert [exit_.route for exit_ in machine.pv.exits] == [Route.DEVICE] * 3

    def test_a_device_that_refuses(self) -> None:
        def refuse(reads: int) -> None:
            raise AccessRefused("not today")

        machine, _ = guest()
        with machine:
            machine.pv.device(PORT, 8, Counter(refuse), pio=True)
            machine.run("in al, dx", {"eax": 0})
            assert machine["eax"] == 0xFF
            assert machine.pv.exits[0].route == Route.ERROR


class TestCallbacks:
    @both_decodes
    @pytest.mark.parametrize("text", ["out dx, al", "in al, dx"])
    def test_an_exception_reaches_the_caller(self, decode: Decode, text: str) -> None:
        """The block runs to its end; what it asks for on the way is not asked any more."""
        machine, _ = guest(decode=decode)
        asked = []

        def fail(exit_: UserspaceExit) -> None:
            asked.append(exit_.address)
            raise Boom

        with machine:
            machine.pv.on_userspace(fail)
            with pytest.raises(Boom):
                machine.run(f"{text}\n{text}\n{text}")
            assert asked == [PORT]
            machine.pv.on_userspace(lambda exit: asked.append(0))
            machine.run(text)
            assert asked == [PORT, 0]

    def test_an_exception_in_rep_outs_keeps_what_is_done(self) -> None:
        machine, recorder = guest()

        def fail_at_3(exit_: UserspaceExit) -> bytes | None:
            if len(recorder.exits) == 3:
                raise Boom
            return recorder(exit_)

        with machine:
            machine.uc.mem_write(BUFFER, b"abcdefgh")
            machine["esi"], machine["ecx"] = BUFFER, 6
            machine.pv.on_userspace(fail_at_3)
            with pytest.raises(Boom):
                execute(machine, b"\xf3\x6e")
            assert [e[4] for e in recorder.exits] == [b"a", b"b", b"c"]
            start = machine.platform.code
            assert machine["rip"] == start
            assert machine["ecx"] == 2

    def test_an_exception_in_rep_ins_is_not_answered_with_zeroes_later(self) -> None:
        machine, recorder = guest()

        def fail(exit_: UserspaceExit) -> None:
            raise Boom

        with machine:
            machine["edi"], machine["ecx"] = BUFFER, 8
            machine.pv.on_userspace(fail)
            with pytest.raises(Boom):
                execute(machine, b"\xf3\x6c")
            assert machine["ecx"] == 8
            machine.pv.on_userspace(recorder)
            machine.uc.emu_start(machine["rip"], machine.platform.code + 2)
            assert machine.uc.mem_read(BUFFER, 8) == ramp(8)

    @both_decodes
    def test_a_stop_ends_the_run_with_its_block(self, decode: Decode) -> None:
        machine, recorder = guest(decode=decode)

        def stop(exit_: UserspaceExit) -> bytes | None:
            machine.uc.emu_stop()
            return recorder(exit_)

        with machine:
            machine.pv.on_userspace(stop)
            text = "again:\nout dx, al\ndec ecx\njnz again\nnop"
            machine.run(text, {"ecx": 5})
            assert len(recorder.exits) == 1
            assert (machine["ecx"], machine["rip"]) == (4, machine.platform.code)

    def test_a_stop_in_rep_outs_can_be_resumed(self) -> None:
        machine, recorder = guest()

        def stop(exit_: UserspaceExit) -> bytes | None:
            machine.uc.emu_stop()
            return recorder(exit_)

        with machine:
            machine.uc.mem_write(BUFFER, b"abcdefgh")
            machine["esi"], machine["ecx"] = BUFFER, 8
            machine.pv.on_userspace(stop)
            execute(machine, b"\xf3\x6e")
            for _ in range(7):
                machine.uc.emu_start(machine["rip"], machine.platform.code + 2)
            assert b"".join(e[4] for e in recorder.exits) == b"abcdefgh"
            assert machine["ecx"] == 0


def test_the_stub_of_the_machine() -> None:
    with Machine("x86") as machine, EventFd() as kick:
        machine.pv.ioeventfd(kick, PORT, 2, datamatch=7, pio=True)
        machine.run(machine.port_doorbell(PORT, size=2, value=7, count=20).text)
        assert kick.count == 20


def test_detached_ports_are_the_engine_s_again() -> None:
    machine, recorder = guest()
    machine.close()
    machine.uc.mem_write(0x1000, assemble("x86-64", "out dx, al\nin al, dx"))
    machine.uc.emu_start(0x1000, 0x1002)
    assert recorder.exits == []
