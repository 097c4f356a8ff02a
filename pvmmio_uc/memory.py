"""The memory slots of a guest: the RAM that the user mapped into the engine."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from unicorn import Uc, UcError
from unicorn.unicorn_const import UC_PROT_READ, UC_PROT_WRITE

__all__ = ["GuestMemory", "Slot"]

U64 = (1 << 64) - 1


class Slot(NamedTuple):
    """A mapped range, both ends inclusive. Not writable is a read-only slot: its writes go to the bus."""

    first: int
    last: int
    readable: bool
    writable: bool


class GuestMemory:
    """The slots as of the last `refresh`, and reads and writes that stay inside them."""

    def __init__(self, uc: Uc) -> None:
        self._uc = uc
        self.windows: set[tuple[int, int]] = set()
        """Mapped by the plugin itself, both ends inclusive: no slots, the holes go on under them."""
        self.slots: tuple[Slot, ...] = ()
        self._starts: list[int] = []

    def refresh(self) -> bool:
        """Look at what is mapped now; True where it changed."""
        regions = sorted(self._uc.mem_regions())
        slots = tuple(
            Slot(first, last, bool(perms & UC_PROT_READ), bool(perms & UC_PROT_WRITE))
            for first, last, perms in regions
            if (first, last) not in self.windows
        )
        if slots == self.slots:
            return False
        self.slots = slots
        self._starts = [slot.first for slot in slots]
        return True

    def holes(self, taken: Iterable[tuple[int, int]] = ()) -> list[tuple[int, int]]:
        """Everything that is not mapped (or ``taken``), both ends inclusive: MMIO."""
        holes, first = [], 0
        for start, last in sorted([*((slot.first, slot.last) for slot in self.slots), *taken]):
            if start > first:
                holes.append((first, start - 1))
            first = last + 1
        if first <= U64:
            holes.append((first, U64))
        return holes

    def read_only(self) -> list[tuple[int, int]]:
        """The slots whose writes go to the bus."""
        return [(slot.first, slot.last) for slot in self.slots if slot.readable and not slot.writable]

    def read(self, gpa: int, size: int) -> bytes | None:
        """The bytes at ``gpa``, or None where they are not all in readable slots."""
        if not self._covered(gpa, size, writing=False):
            return None
        try:
            return bytes(self._uc.mem_read(gpa, size))
        except UcError:
            return None  # unmapped since the last refresh

    def load(self, gpa: int, size: int) -> bytes | None:
        """As `read`, for code and page tables: RAM that was mapped since the last `refresh` counts."""
        data = self.read(gpa, size)
        return self.read(gpa, size) if data is None and self.refresh() else data

    def write(self, gpa: int, data: bytes) -> bool:
        """Store ``data``; False where it does not lie wholly in writable slots."""
        if not self._covered(gpa, len(data), writing=True):
            return False
        try:
            self._uc.mem_write(gpa, data)
        except UcError:
            return False
        return True

    def write_reaches(self, gpa: int, size: int) -> bool:
        """Whether ``size`` bytes at ``gpa`` lie wholly in writable slots."""
        return self._covered(gpa, size, writing=True)

    def __contains__(self, gpa: int) -> bool:
        return self._covered(gpa, 1, writing=False)

    def _covered(self, gpa: int, size: int, *, writing: bool) -> bool:
        end = gpa + size - 1
        while gpa <= end:
            index = bisect_right(self._starts, gpa) - 1
            if index < 0:
                return False
            slot = self.slots[index]
            if gpa > slot.last or not (slot.writable if writing else slot.readable):
                return False
            gpa = slot.last + 1
        return True
