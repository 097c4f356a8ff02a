"""The x86 walk against the engine's own MMU, on tables that were built and tables that are noise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import Uc, UcError
from unicorn.unicorn_const import UC_ARCH_X86, UC_HOOK_MEM_READ_UNMAPPED, UC_MODE_16, UC_MODE_32, UC_MODE_64
from unicorn.x86_const import (
    UC_X86_REG_CR0,
    UC_X86_REG_CR3,
    UC_X86_REG_CR4,
    UC_X86_REG_RAX,
    UC_X86_REG_RBX,
    UC_X86_REG_RIP,
)

from pvmmio_uc.arch.paging import Walk
from pvmmio_uc.arch.x86.paging import walk
from tests.arch.oracle import reader, translate
from tests.arch.pagetables import X86_LEVELS, X86_PAGE_SIZES, Page, x86_tables

MEMORY = 0x80000
ROOT = 0x10000
EFER = 0xC000_0080
LMA_LME, NXE = 0x500, 0x800
CR4 = {"32-bit": 0x10, "pae": 0x20, "4-level": 0x20, "5-level": 0x1020}
ENTRY_NAMES = {
    "32-bit": ("PDE", "PTE"),
    "pae": ("PDPTE", "PDE", "PTE"),
    "4-level": ("PML4E", "PDPTE", "PDE", "PTE"),
    "5-level": ("PML5E", "PML4E", "PDPTE", "PDE", "PTE"),
}
GPA_BITS = 39
"""What the engine's default model has, less one: the walk takes MAXPHYADDR for 52."""

pagings = pytest.mark.parametrize("paging", X86_LEVELS)


def engine(paging: str, tables: dict[int, bytes], *, root: int = ROOT, nxe: bool = True, cr4: int = 0) -> Uc:
    long_mode = paging in ("4-level", "5-level")
    uc = Uc(UC_ARCH_X86, UC_MODE_64 if long_mode else UC_MODE_32)
    uc.mem_map(0, MEMORY)
    for gpa, data in tables.items():
        uc.mem_write(gpa, data)
    uc.reg_write(UC_X86_REG_CR4, CR4[paging] | cr4)
    uc.reg_write(UC_X86_REG_CR3, root)
    uc.msr_write(EFER, (LMA_LME if long_mode else 0) | (NXE if nxe else 0))
    uc.reg_write(UC_X86_REG_CR0, 0x8000_0011)
    return uc


def canonical(paging: str, gva: int) -> int:
    """Sign-extend a table index into an address."""
    width = sum(level.bits for level in X86_LEVELS[paging]) + 12
    if width > 32 and gva >> width - 1:
        gva |= (1 << 64) - (1 << width)
    return gva


@st.composite
def pages(draw: st.DrawFn, paging: str) -> list[Page]:
    """A few pages of any size, no two within the reach of one that is larger."""
    sizes = X86_PAGE_SIZES[paging]
    width = sum(level.bits for level in X86_LEVELS[paging]) + 12
    regions = draw(
        st.lists(st.integers(0, (1 << width) // sizes[-1] - 1), min_size=1, max_size=4, unique=True)
    )
    chosen = []
    for region in regions:
        size = draw(st.sampled_from(sizes))
        gva = region * sizes[-1] + draw(st.integers(0, sizes[-1] // size - 1)) * size
        gpa_bits = 32 if paging == "32-bit" and size == 1 << 12 else GPA_BITS
        gpa = draw(st.integers(0, (1 << gpa_bits) // size - 1)) * size
        chosen.append(Page(canonical(paging, gva), gpa, size))
    return chosen


def agrees(uc: Uc, gva: int, *, fetch: bool = False) -> Walk:
    result = walk(uc, reader(uc, MEMORY), gva, fetch=fetch)
    assert result.gpa == translate(uc, gva, fetch=fetch), result
    if result.gpa is None:
        assert f"{gva:#x}" in result.reason
    else:
        assert result.reason == ""
    return result


@pagings
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_page_size_as_the_engine_translates_it(paging: str, data: st.DataObject) -> None:
    wanted = data.draw(pages(paging))
    uc = engine(paging, x86_tables(paging, wanted, ROOT))
    for page in wanted:
        offset = data.draw(st.integers(0, page.size - 1))
        result = agrees(uc, page.gva + offset)
        assert result[1:3] == (page.gpa + offset, page.size)
        depth = [1 << level.shift for level in X86_LEVELS[paging]].index(page.size)
        assert tuple(load.name for load in result.loads) == ENTRY_NAMES[paging][: depth + 1]
        elsewhere = data.draw(st.integers(0, (1 << 64 if "level" in paging else 1 << 32) - 1))
        agrees(uc, elsewhere)


@pagings
def test_loads_are_the_entries_in_memory(paging: str) -> None:
    page = Page(0x40_0000, 0x1234_5000, 0x1000)
    uc = engine(paging, x86_tables(paging, [page], ROOT))
    loads = walk(uc, reader(uc, MEMORY), page.gva).loads
    entry_bytes = 4 if paging == "32-bit" else 8
    for load in loads:
        assert load.value == int.from_bytes(uc.mem_read(load.gpa, entry_bytes), "little")
    assert loads[0].gpa & ~0xFFF == ROOT
    assert loads[-1].value & ~0xFFF == page.gpa


def noise(paging: str, rng: random.Random) -> dict[int, bytes]:
    """Fill memory with entries that mostly lead to other entries, with any bit now and then."""
    entry_bytes = 4 if paging == "32-bit" else 8

    def entry() -> bytes:
        value = rng.randrange(0, MEMORY + 0x8000, 0x1000) | 0x6 | (rng.random() < 0.95)
        if rng.random() < 0.2:
            value |= 1 << 7
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            # Not the bits above the model's MAXPHYADDR: the walk cannot know it.
            value ^= 1 << rng.choice([*range(GPA_BITS), *range(52, 64)]) % (8 * entry_bytes)
        return value.to_bytes(entry_bytes, "little")

    if paging != "pae":
        return {0: b"".join(entry() for _ in range(MEMORY // entry_bytes))}
    tables = {0: b"".join(entry() for _ in range(MEMORY // entry_bytes))}
    tables[ROOT] = b"".join((rng.randrange(0, MEMORY, 0x1000) | 1).to_bytes(8, "little") for _ in range(4))
    return tables


@pagings
@pytest.mark.parametrize("nxe", [True, False], ids=["nxe", "no-nxe"])
@pytest.mark.parametrize("fetch", [True, False], ids=["fetch", "data"])
def test_noise_as_the_engine_translates_it(paging: str, nxe: bool, fetch: bool) -> None:
    rng = random.Random(f"{paging} {nxe} {fetch}")
    outcomes = set()
    uc = engine(paging, noise(paging, rng), nxe=nxe, cr4=rng.choice((0, 0x10)))
    width = sum(level.bits for level in X86_LEVELS[paging]) + 12
    for _ in range(1500):
        result = agrees(uc, canonical(paging, rng.getrandbits(width)), fetch=fetch)
        outcomes.add(result.page_size if result.gpa is not None else result.reason.rsplit(", ", 1)[-1][:8])
    assert len(outcomes) >= 3, outcomes


@pytest.mark.parametrize("pse", [True, False])
def test_without_pse_a_large_pde_names_a_table(pse: bool) -> None:
    tables = {
        ROOT: (ROOT + 0x1000 | 0x83).to_bytes(4, "little"),
        ROOT + 0x1000: (0x7000 | 3).to_bytes(4, "little"),
    }
    uc = engine("32-bit", tables)
    uc.reg_write(UC_X86_REG_CR4, 0x10 if pse else 0)
    assert agrees(uc, 0x123).page_size == (1 << 22 if pse else 1 << 12)


@pytest.mark.parametrize("bit", range(52, 64))
def test_reserved_bits_of_a_pae_pdpte(bit: int) -> None:
    tables = x86_tables("pae", [Page(0, 0x5000, 0x1000)], ROOT)
    tables[ROOT] = (int.from_bytes(tables[ROOT], "little") | 1 << bit).to_bytes(8, "little")
    result = agrees(engine("pae", tables), 0x123)
    assert f"reserved bits {1 << bit:#x}" in result.reason


@pagings
def test_the_low_bits_of_cr3_are_not_address(paging: str) -> None:
    tables = x86_tables(paging, [Page(0x40_0000, 0x5000, 0x1000)], ROOT)
    low_bits = 0x18  # PCD and PWT
    if paging == "pae":
        tables[ROOT + 0x20] = tables.pop(ROOT)
        low_bits |= 0x20
    assert agrees(engine(paging, tables, root=ROOT | low_bits), 0x40_0123).gpa == 0x5123


def test_pse36_takes_eight_address_bits_from_the_pde() -> None:
    tables = x86_tables("32-bit", [Page(0x80_0000, 0x12_3440_0000, 1 << 22)], ROOT)
    assert int.from_bytes(tables[ROOT][8:12], "little") == 0x3440_0083 | 0x12 << 13
    assert agrees(engine("32-bit", tables), 0x80_0123).gpa == 0x12_3440_0123


@pytest.mark.parametrize(("paging", "first_bad"), [("4-level", 1 << 47), ("5-level", 1 << 56)])
def test_canonical_holes(paging: str, first_bad: int) -> None:
    low, high = Page(first_bad - 0x1000, 0x5000, 0x1000), Page((1 << 64) - first_bad, 0x6000, 0x1000)
    uc = engine(paging, x86_tables(paging, [low, high], ROOT))
    assert agrees(uc, first_bad - 1).gpa == 0x5FFF
    assert agrees(uc, (1 << 64) - first_bad).gpa == 0x6000
    for gva in (first_bad, first_bad | 0x123, (1 << 64) - first_bad - 1, 1 << 63):
        result = agrees(uc, gva)
        assert not result.loads
        assert "not canonical" in result.reason


@pytest.mark.parametrize("mode", [UC_MODE_16, UC_MODE_32], ids=["16", "32"])
def test_paging_off_is_32_bits_wide(mode: int) -> None:
    uc = Uc(UC_ARCH_X86, mode)
    uc.mem_map(0, MEMORY)
    for gva in (0, 0x10_FFEF, 0xFFFF_FFFF):
        assert agrees(uc, gva) == Walk(gva, gva, 0, ())
    assert walk(uc, reader(uc, MEMORY), 0x1_0000_1234).gpa == 0x1234


@pytest.mark.parametrize("gva", [0x1000, 0x10_0000_1000, 0xFFFF_8000_0000_1000, (1 << 64) - 1])
def test_paging_off_in_long_mode_is_52_bits_wide(gva: int) -> None:
    """No processor does this, and every new 64-bit engine does."""
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    assert agrees(uc, gva) == Walk(gva, gva & (1 << 52) - 1, 0, ())


@pytest.mark.parametrize("paging", ["32-bit", "pae"])
def test_a_32_bit_linear_address_wraps(paging: str) -> None:
    uc = engine(paging, x86_tables(paging, [Page(0, 0x5000, 0x1000)], ROOT))
    assert walk(uc, reader(uc, MEMORY), 0x1_0000_0123).gpa == 0x5123


@pagings
def test_a_table_outside_memory(paging: str) -> None:
    uc = engine(paging, {}, root=MEMORY)
    result = walk(uc, reader(uc, MEMORY), 0x1234)
    assert result.gpa is None
    assert not result.loads
    assert f"{ENTRY_NAMES[paging][0]} at gpa {MEMORY:#x} lies outside" in result.reason


@pagings
def test_the_last_table_outside_memory(paging: str) -> None:
    tables = x86_tables(paging, [Page(0, 0x5000, 0x1000)], ROOT)
    above = max(tables) - 0x1000
    entry_bytes = 4 if paging == "32-bit" else 8
    tables[above] = (MEMORY | 3).to_bytes(entry_bytes, "little")
    uc = engine(paging, tables)
    result = walk(uc, reader(uc, MEMORY), 0x3123)
    assert f"PTE at gpa {MEMORY + 3 * entry_bytes:#x} lies outside" in result.reason
    assert len(result.loads) == len(ENTRY_NAMES[paging]) - 1


@pagings
def test_a_table_that_is_its_own_parent_ends(paging: str) -> None:
    entry_bytes = 4 if paging == "32-bit" else 8
    flags = 1 if paging == "pae" else 3
    uc = engine(paging, {ROOT: (ROOT | flags).to_bytes(entry_bytes, "little")})
    assert agrees(uc, 0x123).gpa == ROOT | 0x123


@settings(deadline=None, max_examples=300)
@given(
    gva=st.integers(0, (1 << 64) - 1),
    cr0=st.sampled_from((0x11, 0x8000_0011)),
    cr3=st.integers(0, (1 << 64) - 1),
    cr4=st.integers(0, 0x3FFFFF),
    efer=st.sampled_from((0, 0x400, 0x500, 0xD00)),
    fetch=st.booleans(),
    noise=st.randoms(use_true_random=False),
)
def test_nothing_a_guest_sets_up_raises(
    gva: int, cr0: int, cr3: int, cr4: int, efer: int, fetch: bool, noise: random.Random
) -> None:
    class Registers:
        def reg_read(self, register: int) -> int:
            return {UC_X86_REG_CR0: cr0, UC_X86_REG_CR3: cr3, UC_X86_REG_CR4: cr4}[register]

        def msr_read(self, register: int) -> int:
            return {EFER: efer}[register]

    def read(gpa: int, size: int) -> bytes | None:
        assert 0 <= gpa < 1 << 52
        return noise.randbytes(size) if noise.random() < 0.9 else None

    result = walk(Registers(), read, gva, fetch=fetch)
    assert len(result.loads) <= 5
    assert (result.gpa is None) == bool(result.reason)
    assert result.gpa is None or 0 <= result.gpa < 1 << 52


def test_inside_a_hook_the_walk_gives_the_address_that_the_hook_reports() -> None:
    code, data = Page(0x40_0000, 0x6_0000, 0x1000), Page(0xFFFF_8000_0000_0000, 0xFE00_0000, 1 << 21)
    uc = engine("4-level", x86_tables("4-level", [code, data], ROOT))
    uc.mem_write(code.gpa, bytes.fromhex("488b03"))  # mov rax, [rbx]
    uc.reg_write(UC_X86_REG_RBX, data.gva + 0x1238)
    seen: list[tuple[int, Walk, Walk]] = []

    def unmapped(uc: Uc, _access: int, gpa: int, _size: int, _value: int, _data: object) -> bool:
        read = reader(uc, MEMORY)
        seen.append((gpa, walk(uc, read, data.gva + 0x1238), walk(uc, read, code.gva, fetch=True)))
        return False

    uc.hook_add(UC_HOOK_MEM_READ_UNMAPPED, unmapped)
    with pytest.raises(UcError):
        uc.emu_start(code.gva, 0)
    ((gpa, of_data, of_code),) = seen
    assert of_data.gpa == gpa == data.gpa + 0x1238
    assert of_code.gpa == code.gpa
    assert (uc.reg_read(UC_X86_REG_RIP), uc.reg_read(UC_X86_REG_RAX)) == (code.gva, 0)
