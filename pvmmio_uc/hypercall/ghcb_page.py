"""The layout of a GHCB as data, and one page of it during an exit (arch/x86/include/asm/svm.h)."""

from __future__ import annotations

from .cpu import Cpu

__all__ = ["FIELDS", "PAGE_SIZE", "SHARED_BUFFER", "SHARED_BUFFER_END", "VALID_BITMAP", "GhcbPage"]

PAGE_SIZE = 4096
FIELDS = {
    "cpl": (0xCB, 1),
    "rax": (0x1F8, 8),
    "rcx": (0x308, 8),
    "rdx": (0x310, 8),
    "rbx": (0x318, 8),
    "rsi": (0x330, 8),
    "sw_exit_code": (0x390, 8),
    "sw_exit_info_1": (0x398, 8),
    "sw_exit_info_2": (0x3A0, 8),
    "sw_scratch": (0x3A8, 8),
}
"""Offset and size in bytes; the bit in the valid bitmap is the offset divided by 8."""
VALID_BITMAP, BITMAP_BYTES = 0x3F0, 16
SHARED_BUFFER, SHARED_BUFFER_END = 0x800, 0xFF0
USAGE = 0xFFC

_WRITTEN_BACK = (("rcx", "rdx", "rbx"), ("rax",), ("sw_exit_info_1", "sw_exit_info_2"))
"""Neighbours in the page, which are stored together (sev_es_sync_to_ghcb)."""


class GhcbPage:
    """What the guest has put into the page at ``gpa``, and what goes back there."""

    def __init__(self, cpu: Cpu, gpa: int, data: bytes) -> None:
        self._cpu, self.gpa, self._data = cpu, gpa, data
        self._bitmap = int.from_bytes(data[VALID_BITMAP : VALID_BITMAP + BITMAP_BYTES], "little")
        self._results: dict[str, int] = {}

    @classmethod
    def at(cls, cpu: Cpu, gpa: int) -> GhcbPage | None:
        """The page at a page-aligned address; None where there is no memory, or no address yet (0)."""
        data = cpu.read(gpa, PAGE_SIZE) if gpa else None
        return None if data is None else cls(cpu, gpa, data)

    @property
    def usage(self) -> int:
        """0 is the standard one."""
        return int.from_bytes(self._data[USAGE : USAGE + 4], "little")

    def valid(self, name: str) -> bool:
        """Whether the guest has marked the field."""
        return bool(self._bitmap >> FIELDS[name][0] // 8 & 1)

    def raw(self, name: str) -> int:
        """The field, marked or not."""
        offset, size = FIELDS[name]
        return int.from_bytes(self._data[offset : offset + size], "little")

    def get(self, name: str) -> int:
        """The field, or 0 where it is not marked."""
        return self.raw(name) if self.valid(name) else 0

    def in_shared_buffer(self, gpa: int, size: int) -> bool:
        """Whether all of it is."""
        return self.gpa + SHARED_BUFFER <= gpa and gpa + size <= self.gpa + SHARED_BUFFER_END

    def clear_bitmap(self) -> bool:
        """Take note of the fields: none is valid twice. False where the page cannot be written."""
        return self._cpu.write(self.gpa + VALID_BITMAP, bytes(BITMAP_BYTES))

    def set(self, name: str, value: int) -> None:
        """A result; `write_back` stores it."""
        self._results[name] = value

    def write_back(self) -> None:
        """Store results and registers (those that the guest gave, where there is no other), and mark them."""
        bitmap = 0
        for names in _WRITTEN_BACK:
            values = [self._results.get(name, self.get(name)) for name in names]
            data = b"".join(value.to_bytes(8, "little") for value in values)
            self._cpu.write(self.gpa + FIELDS[names[0]][0], data)
            for name in names:
                bitmap |= 1 << FIELDS[name][0] // 8
        self._cpu.write(self.gpa + VALID_BITMAP, bitmap.to_bytes(BITMAP_BYTES, "little"))
