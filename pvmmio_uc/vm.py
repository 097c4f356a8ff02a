"""A virtual machine as the bus sees it: KVM's four buses and the way an access takes over them.

No engine and no architecture: the recorded scenarios drive this directly.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from .bus import Bus, Verdict
from .coalesced import CoalescedRing, CoalescedZones
from .errors import RegistrationError
from .exits import Access, Route, Steps
from .ioeventfd import IoEventFds
from .irqchip import LocalApic, Pit, create_irqchip, create_pit

__all__ = ["Memory", "Userspace", "Vm", "split_pages"]

PAGE_SIZE = 4096
_CHUNK = 8  # the bus is offered at most this many bytes at a time (vcpu_mmio_write)

Userspace = Callable[[bool, int, bytes], bytes]
"""``userspace(write, address, data)`` is the exit that nobody on the bus took; it returns a read's bytes."""


class Memory(Protocol):
    """The memory slots."""

    def read(self, gpa: int, size: int) -> bytes | None:
        """The bytes there, or None where no slot holds all of them."""

    def write(self, gpa: int, data: bytes) -> bool:
        """Store them; False where no writable slot holds all of them."""


def split_pages(address: int, size: int) -> list[tuple[int, int]]:
    """An access as the pieces that a page boundary makes of it: (address, size) each."""
    pieces = []
    while size > 0:
        piece = min(size, PAGE_SIZE - address % PAGE_SIZE)
        pieces.append((address, piece))
        address, size = address + piece, size - piece
    return pieces


class Vm:
    """The buses, what stands on them, and the dispatch of one access.

    ``page_size`` is the host's, in bytes; it sets the size of the coalesced ring.
    """

    def __init__(self, page_size: int = PAGE_SIZE) -> None:
        self.mmio = Bus("MMIO")
        self.pio = Bus("PIO")
        self.ccw = Bus("VIRTIO_CCW_NOTIFY")
        self.fast = Bus("FAST_MMIO")
        self.ioeventfds = IoEventFds(self.mmio, self.pio, self.ccw, self.fast)
        self.ring = CoalescedRing(page_size)
        self.zones = CoalescedZones(self.mmio, self.pio, self.ring)
        self.lapic: LocalApic | None = None
        self.pit: Pit | None = None

    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP: in-kernel interrupt controllers, which keep their addresses to themselves.

        Raises RegistrationError: EEXIST the second time, ENOSPC on a full bus.
        """
        if self.lapic is not None:
            raise RegistrationError(errno.EEXIST, "the in-kernel interrupt controllers are there already")
        self.lapic = create_irqchip(self.mmio, self.pio)

    def create_pit(self) -> None:
        """KVM_CREATE_PIT2. Raises RegistrationError: ENOENT without the irqchip, EEXIST the second time."""
        if self.pit is not None:
            raise RegistrationError(errno.EEXIST, "the in-kernel timer is there already")
        self.pit = create_pit(self.pio, self.lapic)

    def close(self) -> None:
        """Drop every registration and with it every reference to an eventfd."""
        self.ioeventfds.close()

    def fast_write(self, gpa: int, steps: Steps) -> bool:
        """The 2013 idea: ask the fast bus with the address alone; True where it signalled."""
        verdict = self.fast.write(gpa, b"")
        _count(verdict, steps)
        return verdict.device is not None

    def write(
        self, pieces: Iterable[tuple[int, bytes]], memory: Memory, steps: Steps, userspace: Userspace
    ) -> list[Access]:
        """One instruction's write, already split at pages.

        Every piece is offered to memory and to the bus before user space sees the first exit; of a
        piece above 8 bytes the first refusal ends the offering and the rest exits (vcpu_mmio_write,
        emulator_read_write_onepage).
        """
        accesses: list[Access] = []
        left: list[tuple[int, bytes]] = []
        for gpa, data in pieces:
            if memory.write(gpa, data):
                accesses.append(Access(True, gpa, len(data), data, Route.MEMORY))
                continue
            taken = self._offer_write(gpa, data, steps, accesses)
            left += _chunks(gpa + taken, data[taken:])
        for gpa, data in left:
            userspace(True, gpa, data)
            accesses.append(Access(True, gpa, len(data), data, Route.USERSPACE))
        return accesses

    def read(
        self, pieces: Sequence[tuple[int, int]], memory: Memory, steps: Steps, userspace: Userspace
    ) -> tuple[bytes, list[Access]]:
        """One instruction's read likewise: its bytes in guest memory order, and where each came from."""
        accesses: list[Access | None] = []
        left: list[tuple[int, int, bytes]] = []
        for gpa, size in pieces:
            data = memory.read(gpa, size)
            if data is not None:
                accesses.append(Access(False, gpa, size, data, Route.MEMORY))
                continue
            taken = self._offer_read(gpa, size, steps, accesses)
            for address, ones in _chunks(gpa + taken, b"\xff" * (size - taken)):
                left.append((len(accesses), address, ones))
                accesses.append(None)
        for index, gpa, ones in left:
            data = userspace(False, gpa, ones)
            accesses[index] = Access(False, gpa, len(data), data, Route.USERSPACE)
        done = [access for access in accesses if access is not None]
        return b"".join(access.data for access in done), done

    def port_write(self, port: int, data: bytes, steps: Steps) -> Access | None:
        """One element of port output: the access, or None where it is user space's."""
        verdict = self.pio.write(port, data)
        _count(verdict, steps)
        if verdict.device is None:
            return None
        return Access(True, port, len(data), data, verdict.device.route)

    def port_read(self, port: int, size: int, steps: Steps) -> Access | None:
        """One element of port input likewise."""
        verdict = self.pio.read(port, size)
        _count(verdict, steps)
        if verdict.device is None:
            return None
        return Access(False, port, size, verdict.data, verdict.device.route)

    def _offer_write(self, gpa: int, data: bytes, steps: Steps, accesses: list[Access]) -> int:
        """Offer a piece in chunks until one is refused; how many bytes were taken."""
        taken = 0
        for address, chunk in _chunks(gpa, data):
            if self.lapic is not None and self.lapic.write(address, chunk):
                route = self.lapic.route
            else:
                verdict = self.mmio.write(address, chunk)
                _count(verdict, steps)
                if verdict.device is None:
                    break
                route = verdict.device.route
            accesses.append(Access(True, address, len(chunk), chunk, route))
            taken += len(chunk)
        return taken

    def _offer_read(self, gpa: int, size: int, steps: Steps, accesses: list[Access | None]) -> int:
        taken = 0
        for address, chunk in _chunks(gpa, bytes(size)):
            data = self.lapic.read(address, len(chunk)) if self.lapic is not None else None
            route = Route.DEVICE
            if data is None:
                verdict = self.mmio.read(address, len(chunk))
                _count(verdict, steps)
                if verdict.device is None:
                    break
                data, route = verdict.data, verdict.device.route
            accesses.append(Access(False, address, len(data), data, route))
            taken += len(chunk)
        return taken


def _chunks(address: int, data: bytes) -> list[tuple[int, bytes]]:
    return [(address + start, data[start : start + _CHUNK]) for start in range(0, len(data), _CHUNK)]


def _count(verdict: Verdict, steps: Steps) -> None:
    steps.bus += verdict.comparisons
    if verdict.device is not None and verdict.device.route in (Route.FAST, Route.IOEVENTFD):
        steps.signals += 1
