"""Instructions at a device that are no plain load or store: the run ends, and nothing has happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from pvmmio_uc.assembler import assemble
from pvmmio_uc.errors import EmulationFailure
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.exits import Reason, Route, UserspaceExit
from pvmmio_uc.machine import Machine
from tests.arch.twins import RegisterFile


@dataclass(frozen=True)
class Guest:
    """Around the instruction: code that sets the flags, and code that an engine that runs on would execute.

    ``registers`` are by name, those in ``at_device`` hold its address, ``ram`` one of RAM; ``numbers`` and
    ``vectors`` are compared.
    """

    arch: str
    dialect: str
    before: str
    after: str
    registers: Mapping[str, int]
    at_device: Sequence[str]
    ram: str
    numbers: Sequence[int]
    vectors: Sequence[int]


RAM = 0x3000
OFFSET = 0x100


def check_refused(guest: Guest, what: str) -> None:
    """``what`` is assembly, or bytes in hex after a dot."""
    with Machine(guest.arch) as machine, EventFd() as kick:
        device = machine.platform.mmio + OFFSET
        ram = machine.platform.code + RAM
        for size in (1, 2, 4, 8):
            machine.pv.ioeventfd(kick, device, size)
        asked: list[UserspaceExit] = []
        machine.pv.on_userspace(asked.append)
        uc, file = machine.uc, RegisterFile(machine.uc, guest.numbers)

        def reset() -> None:
            for name, value in guest.registers.items():
                machine[name] = value
            machine[guest.ram] = ram
            for name in guest.at_device:
                machine[name] = device

        start = machine.platform.code
        before, after = (assemble(guest.dialect, text, start) for text in (guest.before, guest.after))
        pc = start + len(before)
        code = bytes.fromhex(what[1:]) if what[0] == "." else assemble(guest.dialect, what, pc)
        uc.mem_write(start, before + code + after)
        reset()
        uc.emu_start(start, pc)
        expected = (file.read(), [uc.reg_read(number) for number in guest.vectors])
        reset()
        with pytest.raises(EmulationFailure) as caught:
            uc.emu_start(start, pc + len(code) + len(after))

        assert (caught.value.pc, machine.pv.arch.pc()) == (pc, pc)
        assert caught.value.insn_bytes[: len(code)] == code
        assert f"{pc:#x}" in str(caught.value)
        assert f"{caught.value.address:#x}" in str(caught.value)
        assert (file.read(), [uc.reg_read(number) for number in guest.vectors]) == expected
        assert (kick.count, asked) == (0, [])
        exit_ = machine.pv.exits[-1]
        assert (exit_.reason, exit_.pc, exit_.route, exit_.accesses) == (Reason.MMIO, pc, Route.ERROR, ())
        assert exit_.address == caught.value.address
        assert "EmulationFailure" in exit_.note
        machine.run("nop")
        assert file.read() == expected[0]
        _check_alive(machine, device, kick)


def _check_alive(machine: Machine, device: int, kick: EventFd) -> None:
    machine.run(machine.doorbell(device, size=4, count=3).text)
    assert kick.count == 3
