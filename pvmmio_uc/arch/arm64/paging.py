"""The arm64 walk: stage 1 of the EL1&0 translation regime (Arm ARM DDI 0487, chapter D8).

Only validity and reserved shapes are looked at: the processor has already checked permissions, the access
flag and the output size of the access that led here. Virtual and physical addresses end at 48 bits and
T0SZ/T1SZ at 16 to 39, as on every model of the engine (no FEAT_LVA, FEAT_LPA, FEAT_LPA2, FEAT_TTST).

EL1 is AArch64 here, whatever SCR_EL3.RW and HCR_EL2.RW say. The engine's own walker believes them, and at
reset they are 0: a guest that turns its MMU on without them gets nothing but aborts.
An engine in ``UC_TLB_VIRTUAL`` mode does not consult the guest's tables, and does not say so: do not walk
there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

from unicorn import Uc

from ..paging import PageTableLoad, ReadPhysical, Walk

__all__ = ["walk"]

# op0, op1, CRn, CRm, op2, as in MRS.
_SCTLR_EL1 = (3, 0, 1, 0, 0)
_TCR_EL1 = (3, 0, 2, 0, 2)
_TTBR_EL1 = ((3, 0, 2, 0, 0), (3, 0, 2, 0, 1))

_SCTLR_M = 1 << 0
_SCTLR_EE = 1 << 25

_GRANULE_SHIFT = ({0b00: 12, 0b01: 16, 0b10: 14}, {0b01: 14, 0b10: 12, 0b11: 16})
"""TCR_EL1.TG0 and .TG1 number the granules differently."""

_FIRST_BLOCK_LEVEL = {12: 1, 14: 2, 16: 2}
_NAMES = tuple(f"level {level} descriptor" for level in range(4))

_VALID = 0b01
_TABLE_OR_PAGE = 0b10
_OUTPUT = (1 << 48) - 1
_MASK_64 = (1 << 64) - 1
_TAG = 0xFF << 56


class _Half(NamedTuple):
    """What TCR_EL1 says of one half of the address space; ``granule_shift`` 0 is a reserved TG."""

    granule_shift: int
    input_bits: int
    first_level: int
    disabled: bool
    ignores_tag: bool
    ignores_tag_on_fetch: bool


def walk(uc: Uc, read: ReadPhysical, gva: int, *, fetch: bool = False) -> Walk:
    """Translate ``gva`` by the guest's own stage 1; ``gpa`` is what Arm calls the IPA.

    ``fetch`` matters only for the tag (TCR_EL1.TBIDn). With the MMU off ``gpa`` is ``gva`` less its tag, in
    64 bits.
    """
    gva &= _MASK_64
    sctlr = uc.cpr_read(*_SCTLR_EL1)
    if not sctlr & _SCTLR_M:
        return _walk_nothing(uc, gva, fetch)
    upper = gva >> 55 & 1
    half = _half(uc.cpr_read(*_TCR_EL1), upper)
    reason = _refuse(gva, half, upper, fetch)
    if reason:
        return Walk(gva, None, 0, (), reason)
    table = uc.cpr_read(*_TTBR_EL1[upper])
    return _descend(read, gva, table, half, "big" if sctlr & _SCTLR_EE else "little")


@lru_cache(maxsize=64)
def _half(tcr: int, upper: int) -> _Half:
    """Read TCR_EL1 for the lower (0, TTBR0_EL1) or the upper (1, TTBR1_EL1) half."""
    half = tcr >> 16 * upper
    granule_shift = _GRANULE_SHIFT[upper].get(tcr >> (30 if upper else 14) & 3, 0)
    # A size out of range is, by choice of the implementation, a fault or the nearest one that is in range:
    # the engine does the latter, and TxSZ left at 0 is not rare in bare-metal code.
    input_bits = 64 - min(max(half & 0x3F, 16), 39)
    levels = -(-(input_bits - granule_shift) // (granule_shift - 3)) if granule_shift else 4
    ignores_tag = bool(tcr >> 37 + upper & 1)
    return _Half(
        granule_shift,
        input_bits,
        4 - levels,
        bool(half >> 7 & 1),
        ignores_tag,
        ignores_tag and not tcr >> 51 + upper & 1,
    )


def _refuse(gva: int, half: _Half, upper: int, fetch: bool) -> str:
    """Say why no table is even consulted for ``gva``, or nothing."""
    if half.disabled:
        return f"gva {gva:#x}: TCR_EL1.EPD{upper} forbids walks from TTBR{upper}_EL1"
    if not half.granule_shift:
        return f"gva {gva:#x}: TCR_EL1.TG{upper} is reserved"
    untagged = _strip_tag(gva, half, fetch)
    if untagged >> half.input_bits != (_MASK_64 >> half.input_bits if upper else 0):
        return f"gva {gva:#x} is beyond the {half.input_bits} address bits that TCR_EL1.T{upper}SZ leaves"
    return ""


def _strip_tag(gva: int, half: _Half, fetch: bool) -> int:
    """Replace a tag that is to be ignored by copies of bit 55."""
    if not (half.ignores_tag_on_fetch if fetch else half.ignores_tag):
        return gva
    return gva | _TAG if gva >> 55 & 1 else gva & ~_TAG


def _descend(read: ReadPhysical, gva: int, ttbr: int, half: _Half, order: Literal["little", "big"]) -> Walk:
    loads: list[PageTableLoad] = []
    granule_shift, stride = half.granule_shift, half.granule_shift - 3
    shift = granule_shift + stride * (3 - half.first_level)
    address = gva & (1 << half.input_bits) - 1
    # The first table may be smaller than a granule, and is aligned to its own size: AArch64.S1TTBaseAddress.
    table = ttbr & _OUTPUT & -(8 << half.input_bits - shift)
    for level in range(half.first_level, 4):
        entry_gpa = table + (address >> shift & (1 << stride) - 1) * 8
        raw = read(entry_gpa, 8)
        if raw is None:
            why = f"gva {gva:#x}: its {_NAMES[level]} at gpa {entry_gpa:#x} lies outside guest memory"
            return Walk(gva, None, 0, tuple(loads), why)
        entry = int.from_bytes(raw, order)
        loads.append(PageTableLoad(_NAMES[level], entry_gpa, entry))
        if not entry & _VALID:
            return _refused(gva, loads, "not valid")
        if not entry & _TABLE_OR_PAGE:
            if not _FIRST_BLOCK_LEVEL[granule_shift] <= level < 3:
                return _refused(
                    gva, loads, f"a block, which a {1 << granule_shift:#x} granule has not got here"
                )
            break
        if level < 3:
            table = entry & _OUTPUT & -(1 << granule_shift)
            shift -= stride
    in_page = (1 << shift) - 1
    return Walk(gva, entry & _OUTPUT & ~in_page | address & in_page, in_page + 1, tuple(loads))


def _refused(gva: int, loads: list[PageTableLoad], why: str) -> Walk:
    name, entry_gpa, entry = loads[-1]
    return Walk(
        gva, None, 0, tuple(loads), f"gva {gva:#x}: its {name} at gpa {entry_gpa:#x} is {entry:#x}, {why}"
    )


def _walk_nothing(uc: Uc, gva: int, fetch: bool) -> Walk:
    """Stage 1 off: only an address that may have a tag costs a look at TCR_EL1."""
    if not gva & _TAG:
        return Walk(gva, gva, 0, ())
    half = _half(uc.cpr_read(*_TCR_EL1), gva >> 55 & 1)
    ignored = half.ignores_tag_on_fetch if fetch else half.ignores_tag
    return Walk(gva, gva & ~_TAG if ignored else gva, 0, ())
