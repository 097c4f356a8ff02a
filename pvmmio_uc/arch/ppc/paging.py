"""The 32-bit PowerPC walk: BATs, segment registers and the hashed page table.

After the Programming Environments Manual for 32-bit implementations (MPCFPE32B), chapter 7. Only validity
is looked at, and the no-execute bit of a segment on a fetch: the processor has already checked the
protection keys of the access that led here. BATs 4 to 7 count wherever the model has them, whatever HID0
says, as they do in the engine. A 603 or 745x loads its TLB by software; what its handler would search is
taken to be the hashed table that SDR1 names, as in those manuals' own handlers.

An engine in ``UC_TLB_VIRTUAL`` mode does not consult the guest's tables, and does not say so: do not walk
there.
"""

from __future__ import annotations

import struct

from unicorn import Uc
from unicorn.ppc_const import UC_PPC_REG_MSR

from ..paging import PageTableLoad, ReadPhysical, Walk
from ._context import SavedContext, read_segment_register, read_spr, saved_context

__all__ = ["read_segment_register", "read_spr", "walk"]

_MSR_SF = 1 << 63
_MSR_PR = 1 << 14
_MSR_IR = 1 << 5
_MSR_DR = 1 << 4

_BATU_BEPI = 0xFFFE_0000
_BATU_BL = 0x1FFC
_BATU_VS = 0b10
_BATU_VP = 0b01
_SMALLEST_BLOCK = 1 << 17

_SR_T = 1 << 31
_SR_N = 1 << 28
_SR_VSID = 0x00FF_FFFF

_SPR_SDR1 = 25
_PTEG = struct.Struct(">8Q")
_NAMES = tuple(tuple(f"{which} PTE {slot}" for slot in range(8)) for which in ("primary", "secondary"))
_MASK_32 = (1 << 32) - 1
_MASK_64 = (1 << 64) - 1


def walk(uc: Uc, read: ReadPhysical, gva: int, *, fetch: bool = False) -> Walk:
    """Translate the effective address ``gva`` as MSR.IR (``fetch``) or MSR.DR asks for.

    A load is one PTE examined, 8 bytes. With translation off ``gpa`` is ``gva`` in 32 bits, or in 64 where
    MSR.SF is set. Raises UnsupportedArchitecture where the registers are not to be found.
    """
    msr = uc.reg_read(UC_PPC_REG_MSR)
    if not msr & (_MSR_IR if fetch else _MSR_DR):
        gva &= _MASK_64 if msr & _MSR_SF else _MASK_32
        return Walk(gva, gva, 0, ())
    if msr & _MSR_SF:
        return Walk(gva, None, 0, (), f"gva {gva:#x}: MSR is {msr:#x}, and only 32-bit translation is known")
    context = saved_context(uc)
    gva &= _MASK_32
    return _block(context, gva, msr, fetch) or _segment(context, read, gva, fetch)


def _block(context: SavedContext, gva: int, msr: int, fetch: bool) -> Walk | None:
    """Return the translation of the first BAT that matches ``gva``, None where none does."""
    bats = context.layout.bats
    if bats is None:
        why = f"gva {gva:#x}: CPU model {context.model:#x} has no BATs that can be read, and its TLB cannot"
        return Walk(gva, None, 0, (), why)
    valid = _BATU_VP if msr & _MSR_PR else _BATU_VS
    uppers = context.bats(bats.instruction_upper if fetch else bats.data_upper)
    for number, upper in enumerate(uppers):
        if not upper & valid:
            continue
        in_block = (upper & _BATU_BL) << 15 | _SMALLEST_BLOCK - 1
        if (gva ^ upper) & _BATU_BEPI & ~in_block:
            continue
        lower = context.bats(bats.instruction_lower if fetch else bats.data_lower)[number]
        # BL with a 0 between its 1s is for the guest to regret: the size is that of its unbroken part.
        size = in_block + 1 & ~in_block
        return Walk(gva, lower & _BATU_BEPI & ~in_block | gva & in_block, size, ())
    return None


def _segment(context: SavedContext, read: ReadPhysical, gva: int, fetch: bool) -> Walk:
    number = gva >> 28
    if context.layout.segments is None:
        why = f"gva {gva:#x}: CPU model {context.model:#x} has no segment register {number:#x}"
        return Walk(gva, None, 0, (), why)
    segment = context.word(context.layout.segments + 4 * number)
    if segment & _SR_T:
        why = f"gva {gva:#x}: segment register {number:#x} is {segment:#x}, a direct-store segment (T)"
        return Walk(gva, None, 0, (), why)
    if fetch and segment & _SR_N:
        why = f"gva {gva:#x}: segment register {number:#x} is {segment:#x}, not executable (N)"
        return Walk(gva, None, 0, (), why)
    return _walk_hashed(read, gva, segment & _SR_VSID, context.spr(_SPR_SDR1))


def _walk_hashed(read: ReadPhysical, gva: int, vsid: int, sdr1: int) -> Walk:
    """Search the primary PTE group, then the secondary one (MPCFPE32B, "Hashed Page Tables")."""
    loads: list[PageTableLoad] = []
    page_hash = vsid & 0x7_FFFF ^ gva >> 12 & 0xFFFF
    wanted = 1 << 31 | vsid << 7 | gva >> 22 & 0x3F
    for secondary, names in enumerate(_NAMES):
        pteg_gpa = _pteg(sdr1, ~page_hash if secondary else page_hash)
        raw = read(pteg_gpa, _PTEG.size)
        if raw is None:
            why = (
                f"gva {gva:#x}: its PTE group at gpa {pteg_gpa:#x} (SDR1 {sdr1:#x}) lies outside guest memory"
            )
            return Walk(gva, None, 0, tuple(loads), why)
        for slot, pte in enumerate(_PTEG.unpack(raw)):
            loads.append(PageTableLoad(names[slot], pteg_gpa + 8 * slot, pte))
            if pte >> 32 == wanted | secondary << 6:
                return Walk(gva, pte & 0xFFFF_F000 | gva & 0xFFF, 1 << 12, tuple(loads))
    why = f"gva {gva:#x}: no PTE with VSID {vsid:#x} in either group of the table that SDR1 {sdr1:#x} names"
    return Walk(gva, None, 0, tuple(loads), why)


def _pteg(sdr1: int, page_hash: int) -> int:
    """HTABORG, the hash bits that HTABMASK lets in, and the ten that always count."""
    return sdr1 & 0xFFFF_0000 | (page_hash & ((sdr1 & 0x1FF) << 10 | 0x3FF)) << 6
