"""The guest that the scenarios were recorded with: its memory, and what user space answers it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DATA", "DATA_BASE", "RAM_SIZE", "ROM", "ROM_BASE", "answer", "runs", "string_answer"]

RAM_SIZE = 0x40000
"""RAM is gpa 0 up to here, in bytes."""

DATA_BASE = 0x10000
DATA = bytes((a * 7 + 3) & 255 for a in range(0x2000))
"""What stands at `DATA_BASE` before each guest access."""

ROM_BASE = 0x800000
ROM = DATA[:0x1000]
"""What the read-only slot holds, in scenarios that have one."""


def answer(address: int, size: int) -> bytes:
    """What user space answers a read of ``size`` bytes at a gpa or a port."""
    return bytes((a * 0x9D + (a >> 8) * 0x3B + 0x5A) & 255 for a in range(address, address + size))


def string_answer(port: int, size: int, count: int) -> bytes:
    """What it answers ``count`` elements of port input at once: each is one above the one before."""
    first = answer(port, size)
    return bytes((byte + unit) & 255 for unit in range(count) for byte in first)


def runs(changed: Mapping[int, int]) -> list[list[int | str]]:
    """Single bytes by address as the ``ram`` of a result: [[gpa, hex], ...], one for each unbroken run."""
    found: list[tuple[int, bytearray]] = []
    for address in sorted(changed):
        if not found or found[-1][0] + len(found[-1][1]) != address:
            found.append((address, bytearray()))
        found[-1][1].append(changed[address])
    return [[address, data.hex()] for address, data in found]
