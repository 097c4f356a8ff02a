"""Build guest page tables: pure functions from a wish to ``{gpa: bytes}``.

Written from the manuals and apart from the walkers, so that a walker is never compared with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

Tables = dict[int, bytes]
Order = Literal["little", "big"]


class Page(NamedTuple):
    """One page: where it is seen, where it is, how large it is (bytes; both addresses aligned to it)."""

    gva: int
    gpa: int
    size: int


class Level(NamedTuple):
    """One level of a radix tree: the lowest address bit of its index, the number of index bits."""

    shift: int
    bits: int


def radix_tables(
    levels: Sequence[Level],
    pages: Iterable[Page],
    root: int,
    *,
    entry_bytes: int,
    order: Order,
    spacing: int,
    to_table: Callable[[int, int], int],
    to_page: Callable[[int, int], int],
) -> Tables:
    """Lay out the tables for ``pages`` from ``root`` up, ``spacing`` bytes apart.

    ``to_table`` and ``to_page`` make an entry from (level number, gpa). Raises ValueError where pages
    overlap.
    """
    tables: dict[int, dict[int, int]] = {root: {}}
    below: dict[tuple[int, int], int] = {}
    for page in pages:
        table = root
        for depth, (shift, bits) in enumerate(levels):
            index = page.gva >> shift & (1 << bits) - 1
            if page.size == 1 << shift:
                if index in tables[table]:
                    raise ValueError(f"gva {page.gva:#x} is mapped already")
                tables[table][index] = to_page(depth, page.gpa)
                break
            if (table, index) not in below:
                if index in tables[table]:
                    raise ValueError(f"gva {page.gva:#x} lies in a larger page")
                below[table, index] = root + len(tables) * spacing
                tables[below[table, index]] = {}
                tables[table][index] = to_table(depth, below[table, index])
            table = below[table, index]
        else:
            raise ValueError(f"no level has pages of {page.size:#x} bytes")
    return {
        gpa: b"".join(
            entries.get(index, 0).to_bytes(entry_bytes, order) for index in range(max(entries, default=0) + 1)
        )
        for gpa, entries in tables.items()
    }


X86_LEVELS: Mapping[str, tuple[Level, ...]] = {
    "32-bit": (Level(22, 10), Level(12, 10)),
    "pae": (Level(30, 2), Level(21, 9), Level(12, 9)),
    "4-level": (Level(39, 9), Level(30, 9), Level(21, 9), Level(12, 9)),
    "5-level": (Level(48, 9), Level(39, 9), Level(30, 9), Level(21, 9), Level(12, 9)),
}
X86_PAGE_SIZES: Mapping[str, tuple[int, ...]] = {
    "32-bit": (1 << 12, 1 << 22),
    "pae": (1 << 12, 1 << 21),
    "4-level": (1 << 12, 1 << 21, 1 << 30),
    "5-level": (1 << 12, 1 << 21, 1 << 30),
}


def x86_tables(paging: str, pages: Iterable[Page], root: int, *, flags: int = 0b11) -> Tables:
    """Tables for ``paging`` (a key of X86_LEVELS); a 4 MiB page may lie above 4 GiB (PSE-36)."""
    levels = X86_LEVELS[paging]

    def to_table(depth: int, gpa: int) -> int:
        return gpa | (1 if paging == "pae" and depth == 0 else flags)

    def to_page(depth: int, gpa: int) -> int:
        large = 1 << 7 if depth < len(levels) - 1 else 0
        if paging == "32-bit":
            gpa = gpa & 0xFFFF_FFFF | (gpa >> 32) << 13
        return gpa | large | flags

    entry_bytes = 4 if paging == "32-bit" else 8
    return radix_tables(
        levels,
        pages,
        root,
        entry_bytes=entry_bytes,
        order="little",
        spacing=0x1000,
        to_table=to_table,
        to_page=to_page,
    )


def arm64_levels(granule: int, input_bits: int) -> tuple[Level, ...]:
    """Return the levels for a ``granule`` (bytes) and a number of address bits, outermost first."""
    shift = granule.bit_length() - 1
    levels: list[Level] = []
    while shift < input_bits:
        bits = min(granule.bit_length() - 4, input_bits - shift)
        levels.insert(0, Level(shift, bits))
        shift += bits
    return tuple(levels)


ARM64_PAGE_SIZES: Mapping[int, tuple[int, ...]] = {
    1 << 12: (1 << 12, 1 << 21, 1 << 30),
    1 << 14: (1 << 14, 1 << 25),
    1 << 16: (1 << 16, 1 << 29),
}


def arm64_tables(
    granule: int, input_bits: int, pages: Iterable[Page], root: int, *, order: Order = "little"
) -> Tables:
    """Tables for one half of the address space; every page is global, accessed, read-write at EL1."""
    levels = arm64_levels(granule, input_bits)
    return radix_tables(
        levels,
        pages,
        root,
        entry_bytes=8,
        order=order,
        spacing=granule,
        to_table=lambda _, gpa: gpa | 0b11,
        to_page=lambda depth, gpa: gpa | 1 << 10 | (0b11 if depth == len(levels) - 1 else 0b01),
    )


class HashedPage(NamedTuple):
    """One 4 KiB page of a ppc hashed table and the slot (0 to 7) of the group that it lies in."""

    gva: int
    gpa: int
    vsid: int
    secondary: bool
    slot: int


def ppc_hashed_tables(sdr1: int, pages: Iterable[HashedPage]) -> Tables:
    """Return PTEs for ``pages`` in the table that ``sdr1`` names; the later of two in one slot stays."""
    return dict(_ppc_pte(sdr1, page) for page in pages)


def _ppc_pte(sdr1: int, page: HashedPage) -> tuple[int, bytes]:
    page_hash = page.vsid % (1 << 19) ^ page.gva // 4096 % (1 << 16)
    if page.secondary:
        page_hash = (1 << 19) - 1 - page_hash
    low, high = page_hash % 1024, page_hash // 1024
    group = sdr1 // 65536 * 65536 | (high & sdr1 % 512) * 65536 | low * 64
    upper = 1 << 31 | page.vsid << 7 | page.secondary << 6 | page.gva % (1 << 28) >> 22
    lower = page.gpa | 0b10  # PP: read-write for everyone
    return group + 8 * page.slot, upper.to_bytes(4, "big") + lower.to_bytes(4, "big")


def ppc_bat(page: Page, *, supervisor: bool = True, user: bool = True) -> tuple[int, int]:
    """Return the upper and the lower register of a BAT for a block of 128 KiB to 256 MiB."""
    blocks = page.size // (128 << 10)
    if blocks * (128 << 10) != page.size or blocks & blocks - 1 or not 1 <= blocks <= 2048:
        raise ValueError(f"a BAT has no block of {page.size:#x} bytes")
    return page.gva | (blocks - 1) << 2 | supervisor << 1 | user, page.gpa | 0b10
