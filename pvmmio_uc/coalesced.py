"""Coalesced MMIO and PIO: writes that are kept in a ring until user space looks.

Source: virt/kvm/coalesced_mmio.c, Documentation/virt/kvm/api.rst (KVM_REGISTER_COALESCED_MMIO).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from .bus import Bus
from .errors import RegistrationError
from .exits import Route

__all__ = ["CoalescedEntry", "CoalescedRing", "CoalescedZone", "CoalescedZones"]

_HEADER_BYTES = 8
_ENTRY_BYTES = 24
_INT32_MAX = (1 << 31) - 1
U32 = (1 << 32) - 1
U64 = (1 << 64) - 1


class CoalescedEntry(NamedTuple):
    """One write in the ring; ``address`` is a gpa, or a port where ``pio``; ``data`` as in memory."""

    pio: bool
    address: int
    data: bytes


class CoalescedRing:
    """The ring that all zones of a VM share: one page, of which one slot always stays free.

    ``page_size`` is the host's: 4096 gives 169 usable entries, 16384 gives 681, 65536 gives 2729.
    """

    def __init__(self, page_size: int = 4096) -> None:
        self.capacity = (page_size - _HEADER_BYTES) // _ENTRY_BYTES - 1
        self._entries: deque[CoalescedEntry] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, entry: CoalescedEntry) -> bool:
        """Append, or return False when the ring is full."""
        if len(self._entries) >= self.capacity:
            return False
        self._entries.append(entry)
        return True

    def drain(self) -> list[CoalescedEntry]:
        """Take everything out, oldest first. User space does this before it handles any exit."""
        entries = list(self._entries)
        self._entries.clear()
        return entries


class CoalescedZone:
    """A range whose writes go to the ring."""

    __slots__ = ("addr", "pio", "ring", "size")

    route = Route.COALESCED

    def __init__(self, ring: CoalescedRing, addr: int, size: int, pio: bool) -> None:
        self.ring, self.addr, self.size, self.pio = ring, addr, size, pio

    def contains(self, addr: int, size: int) -> bool:
        """Whether ``size`` bytes at ``addr`` lie wholly inside, as coalesced_mmio_in_range computes it.

        ``size`` is a C int there: from 2**31 on it is negative, and nothing contains it. The end of the
        zone wraps at 2**64: a zone that reaches the very last byte contains nothing.
        """
        if size > _INT32_MAX or addr < self.addr:
            return False
        return addr + size <= (self.addr + self.size) & U64

    def write(self, addr: int, data: bytes) -> bool:
        """Take a write that lies wholly inside while the ring has room."""
        return self.contains(addr, len(data)) and self.ring.push(CoalescedEntry(self.pio, addr, data))

    def read(self, addr: int, size: int) -> bytes | None:
        """Never: reads of a zone exit to user space."""
        return None

    def __repr__(self) -> str:
        return f"<CoalescedZone {self.addr:#x}+{self.size:#x}{', pio' if self.pio else ''}>"


class CoalescedZones:
    """All zones of a VM."""

    def __init__(self, mmio: Bus, pio: Bus, ring: CoalescedRing) -> None:
        self._buses = (mmio, pio)
        self._ring = ring
        self._zones: list[CoalescedZone] = []

    def __len__(self) -> int:
        return len(self._zones)

    def __iter__(self) -> Iterator[CoalescedZone]:
        return iter(self._zones)

    def register(self, addr: int, size: int, pio: int = 0) -> None:
        """Add a zone. Size 0, duplicates and overlaps are accepted, as on KVM.

        Raises RegistrationError: EINVAL where ``pio`` is not 0 or 1 (or a number does not fit its
        field), ENOSPC for the 1001st device of a bus.
        """
        _check(addr, size, pio)
        zone = CoalescedZone(self._ring, addr, size, bool(pio))
        self._buses[pio].register(addr, _as_int32(size), zone)
        self._zones.append(zone)

    def unregister(self, addr: int, size: int, pio: int = 0) -> None:
        """Remove **every** zone of that kind that contains ``size`` bytes at ``addr``; none is fine.

        Raises RegistrationError(EINVAL) as `register` does.
        """
        _check(addr, size, pio)
        for zone in [z for z in self._zones if z.pio == bool(pio) and z.contains(addr, size)]:
            self._buses[pio].unregister(zone.addr, _as_int32(zone.size), zone)
            self._zones.remove(zone)


def _check(addr: int, size: int, pio: int) -> None:
    if pio not in (0, 1):
        raise RegistrationError(errno.EINVAL, f"pio is {pio:#x}: give 0 for memory or 1 for ports")
    if not 0 <= addr <= U64 or not 0 <= size <= U32:
        raise RegistrationError(
            errno.EINVAL, f"a zone at {addr:#x} of {size:#x} bytes: the fields have 64 and 32 bits"
        )


def _as_int32(size: int) -> int:
    """The length of a bus entry is a C int: 0xffffffff becomes -1."""
    return size - (1 << 32) if size > _INT32_MAX else size
