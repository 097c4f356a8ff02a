"""One scenario on the real kernel and on the model, step by step, with the same outcome of each."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pvmmio_uc.bus import NR_IOBUS_DEVS
from pvmmio_uc.coalesced import CoalescedEntry
from pvmmio_uc.errors import RegistrationError
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.exits import Reason, Route, Steps, UserspaceExit
from pvmmio_uc.ioeventfd import IoEventFdFlag
from pvmmio_uc.kvm import KvmVm
from pvmmio_uc.kvm.guest import RAM_SIZE
from pvmmio_uc.vm import Vm, split_pages

from .scenario import (
    RESULTS,
    SSE_SOURCE,
    Access,
    Close,
    Drain,
    Dup,
    FillUp,
    Io,
    Run,
    Step,
    Undo,
    Zone,
    assemble,
    undone,
)


def pattern(address: int) -> int:
    """What user space answers to a read, byte by byte."""
    return (address * 0x9D + (address >> 8) * 0x3B + 0x5A) & 0xFF


class Kernel:
    """The real kernel."""

    def __init__(self, opened: ExitStack) -> None:
        self.vm = opened.enter_context(KvmVm())
        self._fds: dict[int, int] = {}
        self._null = os.open(os.devnull, os.O_RDONLY)
        opened.callback(os.close, self._null)
        opened.callback(self._close_all)

    def _close_all(self) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def _fd(self, key: int | str) -> int:
        if isinstance(key, str):
            return {"null": self._null, "closed": 1 << 20, "negative": -1}[key]
        if key not in self._fds:
            self._fds[key] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self._fds[key]

    def ioeventfd(self, step: Io) -> None:
        self.vm.ioeventfd(self._fd(step.eventfd), step.addr, step.length, step.flags, step.datamatch)

    def zone(self, step: Zone) -> None:
        call = self.vm.unregister_zone if step.remove else self.vm.register_zone
        call(step.addr, step.size, step.pio)

    def close_eventfd(self, key: int) -> None:
        os.close(self._fd(key))
        del self._fds[key]

    def dup(self, key: int, of: int) -> None:
        new = os.dup(self._fd(of))
        if key in self._fds:
            os.close(self._fds[key])
        self._fds[key] = new

    def drain(self) -> list[CoalescedEntry]:
        return self.vm.drain()

    def signals(self) -> dict[int, int]:
        return {key: count for key, fd in self._fds.items() if (count := take(fd))}

    def run(self, accesses: tuple[Access, ...]) -> list[object]:
        seen: list[object] = []

        def on_exit(exit_: UserspaceExit) -> bytes | None:
            note_signals(seen, self.signals())
            if not exit_.write:
                exit_.data = bytes(pattern(exit_.address + i) for i in range(exit_.size))
            seen.append((str(exit_.reason), exit_.write, exit_.address, exit_.data))
            return None

        for access in accesses:  # what movups stores, where no earlier store of the guest is lost
            if access.size == 16:
                self.vm.write_memory(SSE_SOURCE + 16 * accesses.index(access), access.data)
        result = self.vm.run(assemble(accesses), on_exit=on_exit)
        note_signals(seen, self.signals())
        loaded = [i for i, access in enumerate(accesses) if access.kind in ("load", "in")]
        seen += [self.vm.read_memory(RESULTS + 8 * i, 8) for i in loaded]
        return [*seen, result.end]

    def ram(self) -> bytes:
        return self.vm.read_memory(RAM_SIZE - 0x1000, 0x1000)


class Ram:
    """RAM of the model: what the guest code can reach."""

    def __init__(self) -> None:
        self.bytes = bytearray(RAM_SIZE)

    def read(self, gpa: int, size: int) -> bytes | None:
        return bytes(self.bytes[gpa : gpa + size]) if gpa + size <= RAM_SIZE else None

    def write(self, gpa: int, data: bytes) -> bool:
        if gpa + len(data) > RAM_SIZE:
            return False
        self.bytes[gpa : gpa + len(data)] = data
        return True


class Model:
    """pvmmio_uc.vm.Vm, driven with the accesses that the code makes."""

    def __init__(self, opened: ExitStack) -> None:
        self.vm = Vm()
        opened.callback(self.vm.close)
        self._eventfds: dict[int, EventFd] = {}
        self._null = os.open(os.devnull, os.O_RDONLY)
        opened.callback(os.close, self._null)
        opened.callback(self._close_all)
        self.memory = Ram()
        self._seen: list[object] = []

    def _close_all(self) -> None:
        for eventfd in self._eventfds.values():
            eventfd.close()

    def _source(self, key: int | str) -> EventFd | int:
        if isinstance(key, str):
            return {"null": self._null, "closed": 1 << 20, "negative": -1}[key]
        if key not in self._eventfds:
            self._eventfds[key] = EventFd(blocking=False)
        return self._eventfds[key]

    def ioeventfd(self, step: Io) -> None:
        table = self.vm.ioeventfds
        call = table.deassign if step.flags & IoEventFdFlag.DEASSIGN else table.assign
        call(self._source(step.eventfd), step.addr, step.length, step.flags, step.datamatch)

    def zone(self, step: Zone) -> None:
        call = self.vm.zones.unregister if step.remove else self.vm.zones.register
        call(step.addr, step.size, step.pio)

    def close_eventfd(self, key: int) -> None:
        self._source(key)
        self._eventfds.pop(key).close()

    def dup(self, key: int, of: int) -> None:
        self._source(of)
        new = self._eventfds[of].dup()
        if key in self._eventfds:
            self._eventfds[key].close()
        self._eventfds[key] = new

    def drain(self) -> list[CoalescedEntry]:
        return self.vm.ring.drain()

    def signals(self) -> dict[int, int]:
        counts = ((key, eventfd.wait(0)) for key, eventfd in self._eventfds.items())
        return {key: count for key, count in counts if count}

    def run(self, accesses: tuple[Access, ...]) -> list[object]:
        self._seen = []
        loads = [self._perform(access) for access in accesses]
        note_signals(self._seen, self.signals())
        return [*self._seen, *(load.ljust(8, b"\0") for load in loads if load is not None), "hlt"]

    def _perform(self, access: Access) -> bytes | None:
        pieces = split_pages(access.address, access.size)
        if access.kind == "store":
            start = access.address
            stored = [(gpa, access.data[gpa - start : gpa - start + size]) for gpa, size in pieces]
            self.vm.write(stored, self.memory, Steps(), self._userspace)
            return None
        if access.kind == "load":
            return self.vm.read(pieces, self.memory, Steps(), self._userspace)[0]
        if access.kind == "out":
            if self.vm.port_write(access.address, access.data, Steps()) is None:
                self._exit(Reason.IO, True, access.address, access.data)
            return None
        taken = self.vm.port_read(access.address, access.size, Steps())
        if taken is not None:
            assert taken.route is Route.DEVICE
            return taken.data
        return self._exit(Reason.IO, False, access.address, bytes(access.size))

    def _userspace(self, write: bool, address: int, data: bytes) -> bytes:
        return self._exit(Reason.MMIO, write, address, data)

    def _exit(self, reason: Reason, write: bool, address: int, data: bytes) -> bytes:
        note_signals(self._seen, self.signals())
        if not write:
            data = bytes(pattern(address + i) for i in range(len(data)))
        self._seen.append((str(reason), write, address, data))
        return data

    def ram(self) -> bytes:
        return bytes(self.memory.bytes[RAM_SIZE - 0x1000 :])


def take(fd: int) -> int:
    """What is read from a non-blocking eventfd; 0 where nothing is."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def note_signals(seen: list[object], signals: dict[int, int]) -> None:
    """Eventfds found signalled at this point of the order of events."""
    if signals:
        seen.append(dict(sorted(signals.items())))


@dataclass
class Both:
    """The two sides in step."""

    kernel: Kernel
    model: Model
    assigned: list[Io] = field(default_factory=list)
    errnos: list[str] = field(default_factory=list)

    def play(self, steps: list[Step]) -> None:
        """Every step on both sides, with the same outcome; and at the end the same ring and RAM."""
        for step in [*steps, Drain()]:
            self.do(step)
        assert self.kernel.ram() == self.model.ram()

    def do(self, step: Step) -> object:
        """One step on both sides; what came of it."""
        if isinstance(step, Undo):
            if not self.assigned:
                return None
            step = undone(self.assigned[-1 - step.back % len(self.assigned)], step.change)
        elif isinstance(step, Io) and not step.flags & IoEventFdFlag.DEASSIGN:
            self.assigned.append(step)
        kernel, model = outcome(self.kernel, step), outcome(self.model, step)
        assert model == kernel, f"{step}: the kernel answers {kernel}, the model {model}"
        return kernel


@contextmanager
def both_sides() -> Iterator[Both]:
    """A new VM on the real kernel, and its model."""
    with ExitStack() as opened:
        yield Both(Kernel(opened), Model(opened))


def outcome(side: Kernel | Model, step: Step) -> object:
    """What the call gives, or the name of the errno that it is refused with."""
    try:
        if isinstance(step, Run):
            return side.run(step.accesses)
        if isinstance(step, Drain):
            return side.drain()
        if isinstance(step, FillUp):
            return sum(outcome(side, Zone(0, 1, step.pio)) == "ok" for _ in range(NR_IOBUS_DEVS))
        if isinstance(step, Io):
            side.ioeventfd(step)
        elif isinstance(step, Zone):
            side.zone(step)
        elif isinstance(step, Close):
            side.close_eventfd(step.eventfd)
        elif isinstance(step, Dup):
            side.dup(step.eventfd, step.of)
    except RegistrationError as refused:
        return errno.errorcode[refused.errno or 0]
    return "ok"
