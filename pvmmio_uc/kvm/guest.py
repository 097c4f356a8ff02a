"""The guest that runs the code: 256 KiB of RAM, 64-bit mode at CPL 0, identity paging, an IDT that halts.

    0x01000   the code, then hlt; zeroes up to 0x10000
    0x10000   free for data
    0x20000   the first stack slot is below this
    0x30000   the guest's own tables, below
    0x3c000   free up to 0x3ffff

Guest virtual 0 .. 4 GiB and 0x3ffc0000000 .. +1 GiB are guest-physical addresses of the same number, in
pages of 2 MiB. What is not RAM is a device. Exception ``v`` ends at a hlt of its own.

Source for the formats: Intel SDM vol. 3A chapters 3 (segments), 4.5 (4-level paging), 6.14 (IDT), 8.7 (TSS).
"""

from __future__ import annotations

import functools
import struct

from .ioctls import KvmSegment, KvmSregs

__all__ = [
    "CODE",
    "CODE_LIMIT",
    "HIGH_WINDOW",
    "RAM_SIZE",
    "STACK",
    "TABLES",
    "exception_at",
    "set_long_mode",
    "tables",
]

RAM_SIZE = 0x40000
CODE = 0x1000
CODE_LIMIT = 0x10000
STACK = 0x20000
TABLES = 0x30000
HIGH_WINDOW = 0x3FFC0000000
"""The second window of identity paging, 1 GiB."""

_PML4 = TABLES
_PDPT_LOW, _PD_LOW = TABLES + 0x1000, TABLES + 0x2000  # four page directories
_PDPT_HIGH, _PD_HIGH = TABLES + 0x6000, TABLES + 0x7000
_GDT, _TSS = TABLES + 0x8000, TABLES + 0x8100
_IDT = TABLES + 0x9000
_HANDLERS = TABLES + 0xA000
_EXCEPTION_STACK = TABLES + 0xC000
_END = TABLES + 0xC000

_PRESENT_WRITABLE = 0b11
_LARGE_PAGE = 1 << 7
_GIB, _LARGE = 1 << 30, 1 << 21
_CODE_SELECTOR, _DATA_SELECTOR, _TSS_SELECTOR = 0x08, 0x10, 0x18
_TSS_LIMIT = 0x67
_HLT = 0xF4


@functools.cache
def tables() -> bytes:
    """What is at TABLES before the guest starts: page tables, GDT, TSS, IDT and the exception handlers."""
    image = bytearray(_END - TABLES)

    def put(at: int, *words: int) -> None:
        struct.pack_into(f"<{len(words)}Q", image, at - TABLES, *words)

    def directory(at: int, first: int) -> None:
        put(at, *(page | _PRESENT_WRITABLE | _LARGE_PAGE for page in range(first, first + _GIB, _LARGE)))

    put(_PML4, _PDPT_LOW | _PRESENT_WRITABLE)
    put(_PML4 + 8 * (HIGH_WINDOW >> 39), _PDPT_HIGH | _PRESENT_WRITABLE)
    for gib in range(4):
        put(_PDPT_LOW + 8 * gib, (_PD_LOW + 0x1000 * gib) | _PRESENT_WRITABLE)
        directory(_PD_LOW + 0x1000 * gib, gib * _GIB)
    put(_PDPT_HIGH + 8 * (HIGH_WINDOW >> 30 & 511), _PD_HIGH | _PRESENT_WRITABLE)
    directory(_PD_HIGH, HIGH_WINDOW)
    put(_GDT, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, _TSS_LIMIT | (_TSS & 0xFFFFFF) << 16 | 0x8B << 40, 0)
    struct.pack_into("<Q", image, _TSS + 36 - TABLES, _EXCEPTION_STACK)  # IST1
    for vector in range(256):
        handler = _HANDLERS + vector
        put(
            _IDT + 16 * vector,
            handler & 0xFFFF | _CODE_SELECTOR << 16 | 0x8E01 << 32 | handler >> 16 << 48,
            0,
        )
    image[_HANDLERS - TABLES : _HANDLERS - TABLES + 256] = bytes((_HLT,)) * 256
    return bytes(image)


def exception_at(rip: int) -> int | None:
    """The exception whose handler's hlt ended at ``rip``, or None."""
    vector = rip - 1 - _HANDLERS
    return vector if 0 <= vector < 256 else None


def set_long_mode(sregs: KvmSregs) -> None:
    """Put a fresh vCPU's system registers into 64-bit mode on the tables above; IF, APIC and TPR stay."""
    code = KvmSegment(limit=0xFFFFFFFF, selector=_CODE_SELECTOR, type=0xB, present=1, s=1, l=1, g=1)
    data = KvmSegment(limit=0xFFFFFFFF, selector=_DATA_SELECTOR, type=0x3, present=1, s=1, db=1, g=1)
    sregs.cs = code
    for name in ("ds", "es", "fs", "gs", "ss"):
        setattr(sregs, name, data)
    sregs.tr = KvmSegment(base=_TSS, limit=_TSS_LIMIT, selector=_TSS_SELECTOR, type=0xB, present=1)
    sregs.ldt = KvmSegment(unusable=1)
    sregs.gdt.base, sregs.gdt.limit = _GDT, 0x27
    sregs.idt.base, sregs.idt.limit = _IDT, 0xFFF
    sregs.cr0 = 0x80010033  # PG, WP, NE, ET, MP, PE
    sregs.cr3 = _PML4
    sregs.cr4 = 0x620  # OSXMMEXCPT, OSFXSR, PAE
    sregs.efer = 0x500  # LMA, LME
