"""The kernel's bus by the letter: a plain list, insertion by a linear scan, the literal binary search."""

from __future__ import annotations

from typing import NamedTuple

U64 = (1 << 64) - 1


class Range(NamedTuple):
    """struct kvm_io_range: a 64-bit address, a signed 32-bit length, and who stands there."""

    addr: int
    length: int
    name: object


def compare(first: Range, second: Range) -> int:
    """kvm_io_bus_cmp."""
    if first.addr < second.addr:
        return -1
    end1, end2 = first.addr, second.addr
    if second.length != 0:
        end1 = (end1 + first.length) & U64
        end2 = (end2 + second.length) & U64
    return 1 if end1 > end2 else 0


class BusModel:
    """The array of one bus. ``comparisons`` counts since the last `offered`."""

    def __init__(self) -> None:
        self.ranges: list[Range] = []
        self.comparisons = 0

    def register(self, addr: int, length: int, name: object) -> None:
        """kvm_io_bus_register_dev."""
        new = Range(addr, length, name)
        for index, present in enumerate(self.ranges):
            if compare(present, new) > 0:
                self.ranges.insert(index, new)
                return
        self.ranges.append(new)

    def unregister(self, name: object) -> None:
        """kvm_io_bus_unregister_dev."""
        self.ranges = [present for present in self.ranges if present.name != name]

    def offered(self, addr: int, size: int) -> tuple[list[object], list[int]]:
        """Who is offered an access that nobody takes, in order; the comparisons until each, and in all."""
        self.comparisons = 0
        key = Range(addr, size, None)
        index = self._first(key)
        names: list[object] = []
        reached: list[int] = []
        while 0 <= index < len(self.ranges) and self._compared(key, index) == 0:
            names.append(self.ranges[index].name)
            reached.append(self.comparisons)
            index += 1
        return names, [*reached, self.comparisons]

    def _first(self, key: Range) -> int:
        """kvm_io_bus_get_first_dev: __inline_bsearch, then back while the one before is the same."""
        base, num, index = 0, len(self.ranges), -1
        while num > 0:
            pivot = base + (num >> 1)
            order = self._compared(key, pivot)
            if order == 0:
                index = pivot
                break
            if order > 0:
                base = pivot + 1
                num -= 1
            num >>= 1
        while index > 0 and self._compared(key, index - 1) == 0:
            index -= 1
        return index

    def _compared(self, key: Range, index: int) -> int:
        self.comparisons += 1
        return compare(key, self.ranges[index])
