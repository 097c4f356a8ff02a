"""The ppc walk against the engine's own MMU: BATs, hashed pages, and registers that are noise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import Uc, UcError
from unicorn.ppc_const import UC_PPC_REG_3, UC_PPC_REG_4, UC_PPC_REG_MSR, UC_PPC_REG_PC
from unicorn.unicorn_const import UC_HOOK_MEM_READ_UNMAPPED

from pvmmio_uc.arch.paging import Walk
from pvmmio_uc.arch.ppc import _context
from pvmmio_uc.arch.ppc.paging import walk
from tests.arch.oracle import reader, translate
from tests.arch.pagetables import HashedPage, Page, ppc_bat, ppc_hashed_tables
from tests.arch.ppc.guest import (
    DBATS,
    DR,
    EIGHT_BATS,
    HASHED,
    IBATS,
    IR,
    LE,
    MEMORY,
    PR,
    SDR1,
    SOFTWARE,
    engine,
    set_bat,
    set_segment,
    set_spr,
    translation_on,
)

models = pytest.mark.parametrize("model", HASHED)
accesses = pytest.mark.parametrize("fetch", [False, True], ids=["data", "fetch"])


def agrees(uc: Uc, gva: int, *, fetch: bool = False) -> Walk:
    result = walk(uc, reader(uc, MEMORY), gva, fetch=fetch)
    assert result.gpa == translate(uc, gva, fetch=fetch), result
    if result.gpa is None:
        assert f"{gva:#x}" in result.reason
    else:
        assert result.reason == ""
    return result


@st.composite
def blocks(draw: st.DrawFn) -> list[Page]:
    """Up to four blocks of any size a BAT has, which may overlap: the first one counts."""
    chosen = []
    for size in draw(st.lists(st.sampled_from([128 << 10 << n for n in range(12)]), min_size=1, max_size=4)):
        gva, gpa = (draw(st.integers(0, (1 << 32) // size - 1)) * size for _ in range(2))
        chosen.append(Page(gva, gpa, size))
    return chosen


@accesses
@pytest.mark.parametrize("model", HASHED + SOFTWARE)
@settings(deadline=None, max_examples=25)
@given(wanted=blocks(), data=st.data())
def test_every_block_size_as_the_engine_translates_it(
    model: int, fetch: bool, wanted: list[Page], data: st.DataObject
) -> None:
    uc = engine(model)
    for spr, page in zip(IBATS if fetch else DBATS, wanted, strict=False):
        set_bat(uc, spr, ppc_bat(page))
    translation_on(uc)
    first = wanted[0]
    result = agrees(uc, first.gva + first.size - 1, fetch=fetch)
    assert result == Walk(first.gva + first.size - 1, first.gpa + first.size - 1, first.size, ())
    for page in wanted:
        agrees(uc, page.gva + data.draw(st.integers(0, page.size - 1)), fetch=fetch)


@accesses
@pytest.mark.parametrize("model", EIGHT_BATS)
def test_bats_4_to_7(model: int, fetch: bool) -> None:
    uc = engine(model)
    for number, spr in enumerate(IBATS if fetch else DBATS):
        set_bat(uc, spr, ppc_bat(Page(number << 28, (15 - number) << 28, 128 << 10)))
    translation_on(uc)
    for number in range(8):
        assert agrees(uc, number << 28 | 0x1_2345, fetch=fetch).gpa == (15 - number) << 28 | 0x1_2345


@accesses
@pytest.mark.parametrize("user", [False, True], ids=["supervisor", "user"])
def test_vs_and_vp(fetch: bool, user: bool) -> None:
    uc = engine(HASHED[0])
    bats = IBATS if fetch else DBATS
    set_bat(uc, bats[0], ppc_bat(Page(0x1000_0000, 0x2000_0000, 128 << 10), supervisor=True, user=False))
    set_bat(uc, bats[1], ppc_bat(Page(0x1000_0000, 0x3000_0000, 128 << 10), supervisor=False, user=True))
    translation_on(uc, PR if user else 0)
    assert agrees(uc, 0x1000_0004, fetch=fetch).gpa == (0x3000_0004 if user else 0x2000_0004)


@pytest.mark.parametrize("msr", [0, IR, DR, IR | DR], ids=["off", "IR", "DR", "both"])
def test_each_access_has_its_own_switch_and_bats(msr: int) -> None:
    """Seen by a guest that runs: uc_vmem_translate takes MSR.DR for fetches, too.

    The two BATs map different addresses, because the engine's TLB keeps one translation for both accesses.
    """
    uc = engine(HASHED[0])
    set_bat(uc, IBATS[0], ppc_bat(Page(0x4000_0000, 0x2_0000, 128 << 10)))
    set_bat(uc, DBATS[0], ppc_bat(Page(0x5000_0000, 0x4_0000, 128 << 10)))
    uc.mem_write(0x2_0000, (0x8064_0008).to_bytes(4, "big"))  # lwz r3, 8(r4)
    uc.mem_write(0x6_0008, (0x1111_1111).to_bytes(4, "big"))
    uc.mem_write(0x4_0008, (0x2222_2222).to_bytes(4, "big"))
    code = 0x4000_0000 if msr & IR else 0x2_0000
    data = 0x5000_0000 if msr & DR else 0x6_0000
    uc.reg_write(UC_PPC_REG_4, data)
    uc.reg_write(UC_PPC_REG_MSR, msr)
    uc.emu_start(code, 0, count=1)
    assert walk(uc, reader(uc, MEMORY), code, fetch=True).gpa == 0x2_0000
    gpa = walk(uc, reader(uc, MEMORY), data + 8).gpa
    assert gpa is not None
    assert uc.reg_read(UC_PPC_REG_3) == int.from_bytes(uc.mem_read(gpa, 4), "big") != 0


def test_noise_in_the_bats_as_the_engine_translates_it() -> None:
    rng = random.Random("bats")
    found = set()
    for _ in range(150):
        uc = engine(HASHED[0])
        for spr in DBATS:
            lengths = rng.choice([(1 << n) - 1 for n in range(12)] + [rng.getrandbits(11)])
            set_spr(uc, spr, rng.getrandbits(32) & ~0x1FFC | lengths << 2)
            set_spr(uc, spr + 1, rng.getrandbits(32) & ~0b11 | 0b10)
        translation_on(uc)
        for _ in range(20):
            found.add(agrees(uc, rng.getrandbits(32)).gpa is not None)
    assert found == {True, False}


@st.composite
def hashed_pages(draw: st.DrawFn) -> list[HashedPage]:
    pages = []
    for _ in range(draw(st.integers(1, 5))):
        gva, gpa = (draw(st.integers(0, (1 << 20) - 1)) << 12 for _ in range(2))
        vsid = gva >> 28 | draw(st.integers(0, 0xFFFF)) << 8
        pages.append(HashedPage(gva, gpa, vsid, draw(st.booleans()), draw(st.integers(0, 7))))
    return list({page.gva >> 28: page for page in pages}.values())


@models
@accesses
@settings(deadline=None, max_examples=25)
@given(
    pages=hashed_pages(), mask=st.sampled_from((0, 1, 3, 7, 0xF, 0x1F, 0x3F)), offset=st.integers(0, 0xFFF)
)
def test_hashed_pages_as_the_engine_translates_them(
    model: int, fetch: bool, pages: list[HashedPage], mask: int, offset: int
) -> None:
    sdr1 = 0x40_0000 | mask
    uc = engine(model, ppc_hashed_tables(sdr1, pages))
    set_spr(uc, SDR1, sdr1)
    for page in pages:
        set_segment(uc, page.gva >> 28, page.vsid)
    translation_on(uc)
    for page in pages:
        result = agrees(uc, page.gva | offset, fetch=fetch)
        agrees(uc, page.gva ^ 0x1000, fetch=fetch)
        agrees(uc, page.gva ^ 0x0FC0_0000, fetch=fetch)
    last = pages[-1]
    assert result[1:3] == (last.gpa | offset, 0x1000)
    assert result.loads[-1].name == f"{'secondary' if last.secondary else 'primary'} PTE {last.slot}"
    assert len(result.loads) == last.slot + (9 if last.secondary else 1)


def test_loads_are_the_ptes_in_memory_and_a_miss_examines_sixteen() -> None:
    sdr1 = 0x40_0003
    page = HashedPage(0x1234_5000, 0xABCD_E000, 0x98_7651, secondary=True, slot=7)
    uc = engine(HASHED[0], ppc_hashed_tables(sdr1, [page]))
    set_spr(uc, SDR1, sdr1)
    set_segment(uc, 1, page.vsid)
    translation_on(uc)
    hit, miss = (walk(uc, reader(uc, MEMORY), gva) for gva in (page.gva, page.gva ^ 0x2000))
    for result in (hit, miss):
        assert len(result.loads) == 16
        for load in result.loads:
            assert load.value == int.from_bytes(uc.mem_read(load.gpa, 8), "big")
    assert hit.gpa == page.gpa
    assert f"VSID {page.vsid:#x}" in miss.reason


def test_hashing_by_hand() -> None:
    """VSID 0xc7f01c, page 0xffa1 of segment 3, SDR1 0x0e0001ff: both groups worked out on paper.

    The hash is 0x7f01c ^ 0xffa1 = 0x70fbd. Its nine upper bits, 0x1c3, are or'ed into HTABORG; the ten
    lower, 0x3bd, make 0xef40. The secondary hash 0x0f042 has 0x03c and 0x042, which make 0x1080.
    """
    groups: list[int] = []

    def read(gpa: int, size: int) -> bytes:
        groups.append(gpa)
        return bytes(size)

    uc = engine(HASHED[0])
    set_spr(uc, SDR1, 0x0E00_01FF)
    set_segment(uc, 3, 0x00C7_F01C)
    translation_on(uc)
    assert walk(uc, read, 0x3FFA_1000).gpa is None
    assert groups == [0x0FC3_EF40, 0x0E3C_1080]


def test_ptes_are_big_endian_for_a_little_endian_guest() -> None:
    sdr1 = 0x40_0000
    page = HashedPage(0x1234_5000, 0xABCD_E000, 0x1, secondary=False, slot=2)
    uc = engine(HASHED[0], ppc_hashed_tables(sdr1, [page]))
    set_spr(uc, SDR1, sdr1)
    set_segment(uc, 1, page.vsid)
    translation_on(uc, LE)
    assert agrees(uc, page.gva | 4).gpa == page.gpa | 4


@models
def test_a_bat_goes_before_a_page(model: int) -> None:
    sdr1 = 0x40_0000
    page = HashedPage(0x1234_5000, 0xABCD_E000, 0x1, secondary=False, slot=0)
    uc = engine(model, ppc_hashed_tables(sdr1, [page]))
    set_spr(uc, SDR1, sdr1)
    set_segment(uc, 1, page.vsid)
    set_bat(uc, DBATS[3], ppc_bat(Page(0x1234_0000, 0x5678_0000, 128 << 10)))
    translation_on(uc)
    assert agrees(uc, page.gva).gpa == 0x5678_5000
    assert agrees(uc, page.gva, fetch=True).gpa == page.gpa


def test_a_segment_that_is_not_executable() -> None:
    sdr1 = 0x40_0000
    page = HashedPage(0x1234_5000, 0xABCD_E000, 0x1, secondary=False, slot=0)
    uc = engine(HASHED[0], ppc_hashed_tables(sdr1, [page]))
    set_spr(uc, SDR1, sdr1)
    set_segment(uc, 1, 0x1000_0000 | page.vsid)
    translation_on(uc)
    assert agrees(uc, page.gva).gpa == page.gpa
    assert "(N)" in agrees(uc, page.gva, fetch=True).reason


def test_a_direct_store_segment() -> None:
    """No oracle here: the engine ends the process (cpu_abort) at an access to such a segment."""
    uc = engine(HASHED[0])
    set_segment(uc, 9, 0x8000_1234)
    translation_on(uc)
    result = walk(uc, reader(uc, MEMORY), 0x9000_0010)
    assert (result.gpa, result.loads) == (None, ())
    assert "0x90000010" in result.reason
    assert "0x80001234, a direct-store segment" in result.reason


@pytest.mark.parametrize("model", SOFTWARE)
def test_a_model_whose_software_loads_the_tlb_searches_the_hashed_table(model: int) -> None:
    """No oracle here: the engine leaves the search to the guest, and its interrupts are not delivered."""
    sdr1 = 0x40_0000
    page = HashedPage(0x1234_5000, 0xABCD_E000, 0x1, secondary=True, slot=5)
    uc = engine(model, ppc_hashed_tables(sdr1, [page]))
    set_spr(uc, SDR1, sdr1)
    set_segment(uc, 1, page.vsid)
    translation_on(uc)
    assert walk(uc, reader(uc, MEMORY), page.gva).gpa == page.gpa


def test_a_hashed_table_outside_memory() -> None:
    uc = engine(HASHED[0])
    set_spr(uc, SDR1, 0x7F00_0000)
    translation_on(uc)
    result = walk(uc, reader(uc, MEMORY), 0)
    assert (result.gpa, result.loads) == (None, ())
    assert "gpa 0x7f000000 (SDR1 0x7f000000) lies outside" in result.reason


@accesses
def test_translation_off_is_32_bits_wide(fetch: bool) -> None:
    uc = engine(HASHED[0])
    for gva in (0, 0x1234_5678, 0xFFFF_FFFF):
        assert agrees(uc, gva, fetch=fetch) == Walk(gva, gva, 0, ())
    assert walk(uc, reader(uc, MEMORY), 0x1_0000_1234, fetch=fetch).gpa == 0x1234


@settings(deadline=None, max_examples=150)
@given(
    gva=st.integers(0, (1 << 64) - 1),
    msr=st.integers(0, 0xFFFF).map(lambda msr: msr & ~0x4_0000),
    registers=st.randoms(use_true_random=False),
    fetch=st.booleans(),
)
def test_nothing_a_guest_sets_up_raises(gva: int, msr: int, registers: random.Random, fetch: bool) -> None:
    uc = engine(HASHED[0])
    for n in range(16):
        set_segment(uc, n, registers.getrandbits(32))
    for spr in (SDR1, *registers.sample(IBATS, 2), *registers.sample(DBATS, 2)):
        set_spr(uc, spr, registers.getrandbits(32))
    uc.reg_write(UC_PPC_REG_MSR, msr)

    def read(gpa: int, size: int) -> bytes | None:
        assert 0 <= gpa < 1 << 32
        return registers.randbytes(size) if registers.random() < 0.9 else None

    result = walk(uc, read, gva, fetch=fetch)
    assert len(result.loads) <= 16
    assert (result.gpa is None) == bool(result.reason)
    assert result.gpa is None or 0 <= result.gpa < 1 << 32


def test_inside_a_hook_the_walk_gives_the_address_that_the_hook_reports() -> None:
    """The first walk of all, too: the private engine then runs inside the hook of the user's."""
    _context.find_layout.cache_clear()
    page = HashedPage(0x1234_5000, 0xFE00_0000, 0x1, secondary=True, slot=6)
    uc = engine(HASHED[0], ppc_hashed_tables(0x40_0000, [page]))
    set_spr(uc, SDR1, 0x40_0000)
    set_segment(uc, 1, page.vsid)
    set_bat(uc, IBATS[2], ppc_bat(Page(0x4000_0000, 0x2_0000, 128 << 10)))
    uc.mem_write(0x2_0000, (0x8064_0008).to_bytes(4, "big"))  # lwz r3, 8(r4)
    uc.reg_write(UC_PPC_REG_3, 0)
    uc.reg_write(UC_PPC_REG_4, page.gva + 0x230)
    translation_on(uc)
    seen: list[tuple[int, Walk, Walk]] = []

    def unmapped(uc: Uc, _access: int, gpa: int, _size: int, _value: int, _data: object) -> bool:
        read = reader(uc, MEMORY)
        seen.append((gpa, walk(uc, read, page.gva + 0x238), walk(uc, read, 0x4000_0000, fetch=True)))
        return False

    uc.hook_add(UC_HOOK_MEM_READ_UNMAPPED, unmapped)
    with pytest.raises(UcError):
        uc.emu_start(0x4000_0000, 0)
    ((gpa, of_data, of_code),) = seen
    assert of_data.gpa == gpa == page.gpa + 0x238
    assert of_code.gpa == 0x2_0000
    assert (uc.reg_read(UC_PPC_REG_PC), uc.reg_read(UC_PPC_REG_3)) == (0x4000_0000, 0)
