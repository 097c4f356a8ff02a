"""The x86 walk: 32-bit, PAE, 4-level and 5-level paging (Intel SDM volume 3A, chapter "Paging").

Only presence and reserved bits are looked at: the processor has already checked the permissions of the
access that led here, and knows more about them (SMAP, protection keys, CPL) than a walk does. Two things
are not to be had from the engine: MAXPHYADDR, taken as 52 (an address bit beyond the model's own width is
not seen as reserved), and the PDPTE registers of PAE, read from memory instead, as after a ``mov cr3``.

An engine in ``UC_TLB_VIRTUAL`` mode does not consult the guest's tables, and does not say so: do not walk
there.
"""

from __future__ import annotations

from typing import NamedTuple

from unicorn import Uc
from unicorn.x86_const import UC_X86_REG_CR0, UC_X86_REG_CR3, UC_X86_REG_CR4

from ..paging import PageTableLoad, ReadPhysical, Walk

__all__ = ["walk"]

_CR0_PG = 1 << 31
_CR4_PSE = 1 << 4
_CR4_PAE = 1 << 5
_CR4_LA57 = 1 << 12
_MSR_EFER = 0xC000_0080
_EFER_LMA = 1 << 10
_EFER_NXE = 1 << 11

_PRESENT = 1 << 0
_PAGE_SIZE = 1 << 7
_EXECUTE_DISABLE = 1 << 63

_LINEAR_32 = (1 << 32) - 1
_LINEAR_64 = (1 << 64) - 1
_PHYSICAL = (1 << 52) - 1
_CR3_LONG = 0x000F_FFFF_FFFF_F000
_CR3_PAE = 0xFFFF_FFE0
_CR3_32BIT = 0xFFFF_F000
_TABLE_ADDRESS = 0x000F_FFFF_FFFF_F000


class _Level(NamedTuple):
    """One level of a table of 64-bit entries: ``shift`` is the lowest address bit of its index."""

    name: str
    shift: int
    large_pages: bool
    reserved: int


# Reserved in the entry itself, as the manual's figures of each paging mode have it. PAE keeps bits 62:52
# reserved, where long mode leaves them to software; its PDPTE's low ones are for ``mov cr3`` to check.
_PAE_HIGH = ((1 << 63) - 1) & ~((1 << 52) - 1)
_LONG_4 = (
    _Level("PML4E", 39, False, _PAGE_SIZE),
    _Level("PDPTE", 30, True, 0),
    _Level("PDE", 21, True, 0),
    _Level("PTE", 12, False, 0),
)
_LONG_5 = (_Level("PML5E", 48, False, _PAGE_SIZE), *_LONG_4)
_PAE = (
    _Level("PDPTE", 30, False, _PAE_HIGH | _EXECUTE_DISABLE),
    _Level("PDE", 21, True, _PAE_HIGH),
    _Level("PTE", 12, False, _PAE_HIGH),
)


def walk(uc: Uc, read: ReadPhysical, gva: int, *, fetch: bool = False) -> Walk:
    """Translate the linear address ``gva`` (segment base already added) by the guest's own tables.

    ``fetch`` also refuses a page that EFER.NXE and a no-execute bit keep from being executed. With paging
    off, ``gpa`` is ``gva`` in 32 bits; in 52, the most that MAXPHYADDR can be, where EFER.LMA is set (no
    processor is ever in that state, and every new 64-bit engine is).
    """
    if not uc.reg_read(UC_X86_REG_CR0) & _CR0_PG:
        return _walk_nothing(uc, gva)
    cr3 = uc.reg_read(UC_X86_REG_CR3)
    cr4 = uc.reg_read(UC_X86_REG_CR4)
    if not cr4 & _CR4_PAE:
        return _walk_32bit(read, gva, cr3 & _CR3_32BIT, large_pages=bool(cr4 & _CR4_PSE))
    efer = uc.msr_read(_MSR_EFER)
    reserved = 0 if efer & _EFER_NXE else _EXECUTE_DISABLE
    forbidden = _EXECUTE_DISABLE if fetch else 0
    if not efer & _EFER_LMA:
        gva &= _LINEAR_32
        return _walk_64bit(read, gva, cr3 & _CR3_PAE, _PAE, reserved, forbidden)
    levels, width = (_LONG_5, 57) if cr4 & _CR4_LA57 else (_LONG_4, 48)
    gva &= _LINEAR_64
    if gva >> width - 1 not in (0, (1 << 65 - width) - 1):
        return Walk(gva, None, 0, (), f"gva {gva:#x} is not canonical: bits 63:{width - 1} differ")
    return _walk_64bit(read, gva, cr3 & _CR3_LONG, levels, reserved, forbidden)


def _walk_nothing(uc: Uc, gva: int) -> Walk:
    gpa = gva & _LINEAR_32
    if gpa != gva and uc.msr_read(_MSR_EFER) & _EFER_LMA:
        gva &= _LINEAR_64
        gpa = gva & _PHYSICAL
        return Walk(gva, gpa, 0, ())
    return Walk(gpa, gpa, 0, ())


def _walk_64bit(
    read: ReadPhysical, gva: int, table: int, levels: tuple[_Level, ...], reserved: int, forbidden: int
) -> Walk:
    loads: list[PageTableLoad] = []
    for name, shift, large_pages, level_reserved in levels:
        entry_gpa = table + (gva >> shift & 0x1FF) * 8
        raw = read(entry_gpa, 8)
        if raw is None:
            return _outside(gva, name, entry_gpa, loads)
        entry = int.from_bytes(raw, "little")
        loads.append(PageTableLoad(name, entry_gpa, entry))
        if not entry & _PRESENT:
            return _refused(gva, loads, "not present")
        table = entry & _TABLE_ADDRESS
        is_page = shift == 12 or (large_pages and entry & _PAGE_SIZE)
        bad = entry & (reserved | level_reserved | (_reserved_in_page(shift) if is_page else 0))
        if bad:
            return _refused(gva, loads, f"reserved bits {bad:#x} set")
        if entry & forbidden:
            return _refused(gva, loads, "not executable")
        if is_page:
            break
    in_page = (1 << shift) - 1
    return Walk(gva, table & ~in_page | gva & in_page, in_page + 1, tuple(loads))


def _reserved_in_page(shift: int) -> int:
    """A large page has no address below its size; bit 12 is its PAT there."""
    return (1 << shift) - (1 << 13) if shift > 12 else 0


def _walk_32bit(read: ReadPhysical, gva: int, directory: int, *, large_pages: bool) -> Walk:
    """Intel SDM 3A "32-bit paging": 4 KiB pages, and 4 MiB ones with 8 address bits more (PSE-36)."""
    gva &= _LINEAR_32
    loads: list[PageTableLoad] = []
    entry_gpa = directory + (gva >> 22) * 4
    raw = read(entry_gpa, 4)
    if raw is None:
        return _outside(gva, "PDE", entry_gpa, loads)
    entry = int.from_bytes(raw, "little")
    loads.append(PageTableLoad("PDE", entry_gpa, entry))
    if not entry & _PRESENT:
        return _refused(gva, loads, "not present")
    if large_pages and entry & _PAGE_SIZE:
        if entry & 1 << 21:
            return _refused(gva, loads, f"reserved bits {1 << 21:#x} set")
        page = entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32
        return Walk(gva, page | gva & 0x003F_FFFF, 1 << 22, tuple(loads))
    entry_gpa = (entry & 0xFFFF_F000) + (gva >> 12 & 0x3FF) * 4
    raw = read(entry_gpa, 4)
    if raw is None:
        return _outside(gva, "PTE", entry_gpa, loads)
    entry = int.from_bytes(raw, "little")
    loads.append(PageTableLoad("PTE", entry_gpa, entry))
    if not entry & _PRESENT:
        return _refused(gva, loads, "not present")
    return Walk(gva, entry & 0xFFFF_F000 | gva & 0xFFF, 1 << 12, tuple(loads))


def _outside(gva: int, name: str, entry_gpa: int, loads: list[PageTableLoad]) -> Walk:
    reason = f"gva {gva:#x}: its {name} at gpa {entry_gpa:#x} lies outside guest memory"
    return Walk(gva, None, 0, tuple(loads), reason)


def _refused(gva: int, loads: list[PageTableLoad], why: str) -> Walk:
    name, entry_gpa, entry = loads[-1]
    return Walk(
        gva, None, 0, tuple(loads), f"gva {gva:#x}: its {name} at gpa {entry_gpa:#x} is {entry:#x}, {why}"
    )
