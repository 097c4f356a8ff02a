"""KVM's I/O bus: an ordered array of ranges, with the kernel's own comparison, insertion and search.

The comparison is containment, not order, so the array is not sorted by anything and *which* entry a
search finds depends on the order of registration, down to entries that are accepted and never found.
All of that is kept (virt/kvm/kvm_main.c: kvm_io_bus_cmp, kvm_io_bus_register_dev,
kvm_io_bus_get_first_dev). What is not kept is the price: registration finds its place by bisection
and a search is remembered until the next change, so 100,000 entries cost what ten cost. (Ranges that
nest out of order break the array into stretches, and each of those is bisected by itself.)

This module knows no architecture and no engine.
"""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from .errors import RegistrationError
from .exits import Route

__all__ = ["NR_IOBUS_DEVS", "Bus", "BusDevice", "Found", "Verdict"]

NR_IOBUS_DEVS = 1000
"""How many devices that are not ioeventfds one bus holds (include/linux/kvm_host.h)."""

U64 = (1 << 64) - 1
_REMEMBERED_AT_LEAST = 4096

_BEHIND_ALL = float("inf")


class BusDevice(Protocol):
    """What sits on a bus."""

    @property
    def route(self) -> Route:
        """Where an access that this device takes has ended."""

    def write(self, addr: int, data: bytes) -> bool:
        """Take the write of ``data`` (guest memory order) at ``addr``, or return False: not mine."""

    def read(self, addr: int, size: int) -> bytes | None:
        """The ``size`` bytes at ``addr`` in guest memory order, or None: not mine."""


_Entry = tuple[int, int, int, int, BusDevice]  # addr, end, serial number, length, device


class Found(NamedTuple):
    """The entries that a search offers an access to, in order.

    ``comparisons[i]`` is how many times ranges had been compared when entry ``i`` was reached;
    the last element is the total for an access that nobody takes.
    """

    devices: tuple[BusDevice, ...]
    comparisons: tuple[int, ...]


class Verdict(NamedTuple):
    """What the bus answered: who took the access (None: nobody), a read's bytes, and the work it took."""

    device: BusDevice | None
    data: bytes
    comparisons: int


@dataclass
class Bus:
    """One of KVM's buses. ``name`` is for people: ``MMIO``, ``PIO``, ``FAST_MMIO``, ``VIRTIO_CCW``."""

    name: str

    def __post_init__(self) -> None:
        self._entries: list[_Entry] = []
        # Where each stretch begins whose (addr, end) never decrease. One stretch unless ranges nest.
        self._stretches: list[int] = []
        self._others = 0
        self._ioeventfds = 0
        self._serial = 0
        self._serials: dict[int, int] = {}  # by the device's id(): it stays alive while it is here
        self._remembered: dict[tuple[int, int], Found] = {}
        self.generation = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[BusDevice]:
        return iter([entry[4] for entry in self._entries])

    def register(self, addr: int, length: int, device: BusDevice, *, ioeventfd: bool = False) -> None:
        """Insert ``device`` in front of the first entry that compares as *after* it.

        ``length`` is the kernel's signed 32-bit int: a zone of 0xffffffff bytes has length -1, is
        accepted, and is never found. Raises RegistrationError(ENOSPC) when the bus already holds
        1000 devices that are not ioeventfds.
        """
        if self._others > NR_IOBUS_DEVS - 1:
            raise RegistrationError(
                errno.ENOSPC,
                f"the {self.name} bus holds {self._others} devices, the limit is {NR_IOBUS_DEVS}; "
                f"{addr:#x}+{length:#x} does not fit: unregister a device or zone first",
            )
        self._serial += 1
        self._serials[id(device)] = self._serial
        entry = (addr, (addr + length) & U64, self._serial, length, device)
        self._insert(self._place(addr, entry[1], length), entry)
        if ioeventfd:
            self._ioeventfds += 1
        else:
            self._others += 1
        self._changed()

    def unregister(self, addr: int, length: int, device: BusDevice, *, ioeventfd: bool = False) -> None:
        """Remove ``device``, registered with this range; the order of the rest stays.

        Raises RegistrationError(ENOENT) where it is not registered.
        """
        self._remove(self._index_of(addr, (addr + length) & U64, device))
        del self._serials[id(device)]
        if ioeventfd:
            self._ioeventfds -= 1
        else:
            self._others -= 1
        self._changed()

    def write(self, addr: int, data: bytes) -> Verdict:
        """Offer a write to each entry that contains it, in order, until one takes it."""
        found = self.find(addr, len(data))
        for device, comparisons in zip(found.devices, found.comparisons, strict=False):
            if device.write(addr, data):
                return Verdict(device, b"", comparisons)
        return Verdict(None, b"", found.comparisons[-1])

    def read(self, addr: int, size: int) -> Verdict:
        """Offer a read likewise; ``data`` of the verdict is what the device supplied."""
        found = self.find(addr, size)
        for device, comparisons in zip(found.devices, found.comparisons, strict=False):
            data = device.read(addr, size)
            if data is not None:
                return Verdict(device, data, comparisons)
        return Verdict(None, b"", found.comparisons[-1])

    def find(self, addr: int, size: int) -> Found:
        """The entries that ``size`` bytes at ``addr`` are offered to (size 0: the address alone)."""
        key = (addr, size)
        found = self._remembered.get(key)
        if found is None:
            if len(self._remembered) >= max(_REMEMBERED_AT_LEAST, 2 * len(self._entries)):
                self._remembered.clear()  # a guest that sweeps the address space must not fill memory
            found = self._remembered[key] = self._search(addr, size)
        return found

    def _changed(self) -> None:
        self.generation += 1
        self._remembered.clear()

    def _search(self, addr: int, size: int) -> Found:
        """The kernel's bsearch, its walk back, and its walk forward, counted."""
        entries, end = self._entries, (addr + size) & U64
        comparisons, base, count, hit = 0, 0, len(entries), -1
        while count:
            pivot = base + (count >> 1)
            comparisons += 1
            order = _compare(addr, end, entries[pivot])
            if order == 0:
                hit = pivot
                break
            if order > 0:
                base = pivot + 1
                count -= 1
            count >>= 1
        if hit < 0:
            return Found((), (comparisons,))
        while hit > 0:
            comparisons += 1
            if _compare(addr, end, entries[hit - 1]):
                break
            hit -= 1
        devices, reached = [], []
        for index in range(hit, len(entries)):  # no slice: that would copy all entries behind the hit
            comparisons += 1
            if _compare(addr, end, entries[index]):
                break
            devices.append(entries[index][4])
            reached.append(comparisons)
        return Found(tuple(devices), (*reached, comparisons))

    def _place(self, addr: int, end: int, length: int) -> int:
        """The index of the first entry that compares as after (addr, length), or the end."""
        entries = self._entries
        for start, stop in self._spans():
            if length == 0:
                index = bisect_right(entries, (addr, _BEHIND_ALL), start, stop)
            else:
                index = bisect_right(entries, (addr, end, _BEHIND_ALL), start, stop)
                while index < stop and entries[index][1] <= end:
                    index += 1
            if index < stop:
                return index
        return len(entries)

    def _index_of(self, addr: int, end: int, device: BusDevice) -> int:
        entries, serial = self._entries, self._serials.get(id(device), 0)
        for start, stop in self._spans():
            index = bisect_left(entries, (addr, end, serial), start, stop)
            if index < stop and entries[index][4] is device:
                return index
        for index, entry in enumerate(entries):  # where stretches have merged serial numbers may jump
            if entry[4] is device and entry[:2] == (addr, end):
                return index
        raise RegistrationError(
            errno.ENOENT, f"nothing like it on the {self.name} bus at {addr:#x}..{end:#x}"
        )

    def _spans(self) -> list[tuple[int, int]]:
        borders = [*self._stretches, len(self._entries)]
        return list(pairwise(borders))

    def _insert(self, index: int, entry: _Entry) -> None:
        self._entries.insert(index, entry)
        self._stretches = [s if s < index else s + 1 for s in self._stretches]
        self._mark(index)
        self._mark(index + 1)

    def _remove(self, index: int) -> None:
        del self._entries[index]
        self._stretches = [s if s < index else s - 1 for s in self._stretches if s != index]
        self._mark(index)

    def _mark(self, index: int) -> None:
        """Note whether a stretch begins at ``index``, now that its neighbours may have changed."""
        if index >= len(self._entries):
            return
        begins = index == 0 or self._entries[index - 1][:2] > self._entries[index][:2]
        known = index in self._stretches
        if begins and not known:
            insort(self._stretches, index)
        elif known and not begins:
            self._stretches.remove(index)


def _compare(addr: int, end: int, entry: _Entry) -> int:
    """kvm_io_bus_cmp of a range against an entry: -1 before, 0 inside, +1 after.

    Where the entry has length 0 the lengths are left out on both sides.
    """
    if addr < entry[0]:
        return -1
    if entry[3]:
        return 1 if end > entry[1] else 0
    return 1 if addr > entry[0] else 0
