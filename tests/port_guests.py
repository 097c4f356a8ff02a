"""A guest that does port I/O, and what answers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pvmmio_uc.exits import Reason, UserspaceExit
from pvmmio_uc.machine import Machine
from pvmmio_uc.plugin import Decode

PORT = 0x3F8
BUFFER = 0x5000


@dataclass
class Recorder:
    """User space: what it was asked, and a ramp of bytes for an answer."""

    machine: Machine
    exits: list[tuple[bool, int, int, int, bytes]] = field(default_factory=list)
    pcs: list[tuple[int | None, int]] = field(default_factory=list)

    def __call__(self, exit_: UserspaceExit) -> bytes | None:
        assert exit_.reason == Reason.IO
        self.exits.append((exit_.write, exit_.address, exit_.size, exit_.count, exit_.data))
        self.pcs.append((exit_.pc, self.machine.pv.arch.pc()))
        return None if exit_.write else ramp(exit_.size * exit_.count)


class Counter:
    """A device on ports that counts its reads, and keeps what is written."""

    def __init__(self, on_read: Callable[[int], None] | None = None) -> None:
        self.reads = 0
        self.written: list[tuple[int, int, int]] = []
        self._on_read = on_read

    def mmio_read(self, offset: int, size: int) -> int:
        self.reads += 1
        if self._on_read is not None:
            self._on_read(self.reads)
        return self.reads

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


def ramp(size: int) -> bytes:
    return bytes((0xA0 + n) & 0xFF for n in range(size))


def guest(bits: int = 64, *, decode: Decode = "software", paging: bool = False) -> tuple[Machine, Recorder]:
    """DX is PORT."""
    machine = Machine("x86", bits=bits, decode=decode, paging=paging)
    recorder = Recorder(machine)
    machine.pv.on_userspace(recorder)
    machine["edx"] = PORT
    return machine, recorder


def execute(machine: Machine, code: bytes) -> None:
    start = machine.platform.code
    machine.uc.mem_write(start, code)
    machine.uc.ctl_flush_tb()
    machine.uc.emu_start(start, start + len(code))
