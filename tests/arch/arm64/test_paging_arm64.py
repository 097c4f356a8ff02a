"""The arm64 walk against the engine's own MMU, on tables that were built and tables that are noise."""

from __future__ import annotations

import random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import Uc, UcError
from unicorn.arm64_const import (
    UC_ARM64_REG_PC,
    UC_ARM64_REG_X0,
    UC_ARM64_REG_X1,
    UC_CPU_ARM64_A53,
    UC_CPU_ARM64_A57,
    UC_CPU_ARM64_A72,
    UC_CPU_ARM64_MAX,
)
from unicorn.unicorn_const import UC_ARCH_ARM64, UC_HOOK_MEM_READ_UNMAPPED, UC_MODE_ARM

from pvmmio_uc.arch.arm64.paging import walk
from pvmmio_uc.arch.paging import Walk
from tests.arch.oracle import reader, translate
from tests.arch.pagetables import ARM64_PAGE_SIZES, Page, Tables, arm64_levels, arm64_tables

MEMORY = 0x100_0000
ROOT = (0x10_0000, 0x80_0000)
TBI = (1 << 37, 1 << 38)
TBID = (1 << 51, 1 << 52)
EPD = (1 << 7, 1 << 23)
EE = 1 << 25
TG = ({1 << 12: 0b00, 1 << 16: 0b01, 1 << 14: 0b10}, {1 << 14: 0b01, 1 << 12: 0b10, 1 << 16: 0b11})
MASK_64 = (1 << 64) - 1

granules = pytest.mark.parametrize("granule", TG[0], ids=["4K", "64K", "16K"])
halves = pytest.mark.parametrize("upper", [0, 1], ids=["TTBR0", "TTBR1"])


def tcr(granule: int, bits: tuple[int, int], upper_granule: int = 0) -> int:
    """Make a TCR_EL1 for a number of address bits in either half."""
    t0sz, t1sz = (64 - width for width in bits)
    return t0sz | TG[0][granule] << 14 | t1sz << 16 | TG[1][upper_granule or granule] << 30


def engine(
    control: int,
    tables: Tables,
    *,
    ttbr: tuple[int, int] = ROOT,
    sctlr: int = 1,
    model: int = UC_CPU_ARM64_A72,
) -> Uc:
    uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM, model)
    uc.mem_map(0, MEMORY)
    for gpa, data in tables.items():
        uc.mem_write(gpa, data)
    uc.cpr_write(3, 6, 1, 1, 0, 0x501)  # SCR_EL3: RW, HCE, NS. Without RW the engine takes EL1 for AArch32
    uc.cpr_write(3, 4, 1, 1, 0, 1 << 31)  # HCR_EL2.RW
    uc.cpr_write(3, 0, 2, 0, 2, control)
    uc.cpr_write(3, 0, 2, 0, 0, ttbr[0])
    uc.cpr_write(3, 0, 2, 0, 1, ttbr[1])
    uc.cpr_write(3, 0, 1, 0, 0, uc.cpr_read(3, 0, 1, 0, 0) | sctlr)
    return uc


def raised(gva: int, bits: int, upper: int) -> int:
    """Where ``gva``, which counts from 0, lies in the half of the address space."""
    return gva | (MASK_64 ^ ((1 << bits) - 1)) if upper else gva


def agrees(uc: Uc, gva: int, *, fetch: bool = False) -> Walk:
    result = walk(uc, reader(uc, MEMORY), gva, fetch=fetch)
    assert result.gpa == translate(uc, gva, fetch=fetch), result
    if result.gpa is None:
        assert f"{gva:#x}" in result.reason
    else:
        assert result.reason == ""
    return result


@st.composite
def pages(draw: st.DrawFn, granule: int, bits: int) -> list[Page]:
    """A few pages of any size, no two within the reach of one that is larger."""
    sizes = [size for size in ARM64_PAGE_SIZES[granule] if size < 1 << bits]
    regions = draw(
        st.lists(st.integers(0, (1 << bits) // sizes[-1] - 1), min_size=1, max_size=3, unique=True)
    )
    chosen = []
    for region in regions:
        size = draw(st.sampled_from(sizes))
        gva = region * sizes[-1] + draw(st.integers(0, sizes[-1] // size - 1)) * size
        chosen.append(Page(gva, draw(st.integers(0, (1 << 44) // size - 1)) * size, size))
    return chosen


@granules
@halves
@pytest.mark.parametrize("order", ["little", "big"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_page_size_as_the_engine_translates_it(
    granule: int, upper: int, order: Literal["little", "big"], data: st.DataObject
) -> None:
    bits = data.draw(st.integers(25, 48))
    wanted = data.draw(pages(granule, bits))
    widths = (40, bits) if upper else (bits, 40)
    tables = arm64_tables(granule, bits, wanted, ROOT[upper], order=order)
    uc = engine(tcr(granule, widths), tables, sctlr=1 | (EE if order == "big" else 0))
    levels = arm64_levels(granule, bits)
    for page in wanted:
        offset = data.draw(st.integers(0, page.size - 1))
        result = agrees(uc, raised(page.gva, bits, upper) + offset)
        assert result[1:3] == (page.gpa + offset, page.size)
        depth = [1 << level.shift for level in levels].index(page.size)
        first = 4 - len(levels)
        names = tuple(f"level {number} descriptor" for number in range(first, first + depth + 1))
        assert tuple(load.name for load in result.loads) == names
        agrees(uc, data.draw(st.integers(0, MASK_64)))


@granules
@pytest.mark.parametrize("upper_granule", TG[1], ids=["16K", "4K", "64K"])
def test_each_half_has_its_own_granule(granule: int, upper_granule: int) -> None:
    low, high = Page(0x1234_0000, 0x5_0000, granule), Page(0x5678_0000, 0x6_0000, upper_granule)
    tables = arm64_tables(granule, 39, [low], ROOT[0]) | arm64_tables(upper_granule, 42, [high], ROOT[1])
    uc = engine(tcr(granule, (39, 42), upper_granule), tables)
    assert agrees(uc, low.gva).page_size == granule
    assert agrees(uc, raised(high.gva, 42, 1)).page_size == upper_granule


def test_loads_are_the_descriptors_in_memory() -> None:
    page = Page(0x4321_0000, 0x1234_5000, 0x1000)
    uc = engine(tcr(1 << 12, (48, 48)), arm64_tables(1 << 12, 48, [page], ROOT[0]))
    loads = walk(uc, reader(uc, MEMORY), page.gva).loads
    for load in loads:
        assert load.value == int.from_bytes(uc.mem_read(load.gpa, 8), "little")
    assert [load.gpa >> 12 for load in loads] == [(ROOT[0] >> 12) + number for number in range(4)]


def noise(granule: int, rng: random.Random, order: Literal["little", "big"]) -> Tables:
    """Fill memory with descriptors that mostly lead to others, with any attribute now and then."""

    def descriptor() -> bytes:
        kind = rng.choices((0b00, 0b01, 0b10, 0b11), (2, 20, 2, 76))[0]
        # The engine does not mask the RES0 bits between a block's address and its attributes.
        block = kind == 0b01
        value = rng.randrange(0, 1 << 44, 1 << 30) if block else rng.randrange(0, MEMORY + 0x10_0000, granule)
        for _ in range(rng.choice((0, 0, 1, 2))):
            value ^= 1 << rng.choice([*range(2, 12), *range(30 if block else 12, 64)])
        return (value | kind | 1 << 10).to_bytes(8, order)  # the access flag is not the walk's business

    chunk = b"".join(descriptor() for _ in range(0x2_0000 // 8))
    return {
        gpa: chunk[gpa // 0x2_0000 * 8 :] + chunk[: gpa // 0x2_0000 * 8] for gpa in range(0, MEMORY, 0x2_0000)
    }


@granules
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("model", [UC_CPU_ARM64_A72, UC_CPU_ARM64_MAX], ids=["A72", "MAX"])
def test_noise_as_the_engine_translates_it(granule: int, order: Literal["little", "big"], model: int) -> None:
    rng = random.Random(f"{granule} {order} {model}")
    uc = engine(0, noise(granule, rng, order), sctlr=1 | (EE if order == "big" else 0), model=model)
    outcomes = set()
    for _ in range(60):
        control = rng.getrandbits(53) & ~(1 << 14 | 1 << 15 | 1 << 30 | 1 << 31)
        control &= ~(1 << 39 | 1 << 40)  # no hardware update of the flags
        uc.cpr_write(3, 0, 2, 0, 2, control | TG[0][granule] << 14 | TG[1][granule] << 30)
        for half in range(2):
            uc.cpr_write(3, 0, 2, 0, half, rng.randrange(MEMORY) & ~1 | rng.getrandbits(16) << 48)
        widths = [64 - min(max(control >> shift & 0x3F, 16), 39) for shift in (0, 16)]
        for _ in range(20):
            upper = rng.getrandbits(1)
            gva = raised(rng.getrandbits(widths[upper]), widths[upper], upper) ^ rng.choice(
                (0, 0, 0x5A << 56)
            )
            result = walk(uc, reader(uc, MEMORY), gva)
            if "a block, which" in result.reason:  # the engine takes these: see the next test
                outcomes.add("no block")
                continue
            agrees(uc, gva)
            outcomes.add(result.page_size if result.gpa is not None else result.reason[-12:])
    assert {0x1000: 1 << 30, 0x4000: 1 << 25, 0x1_0000: 1 << 29}[granule] in outcomes
    assert len(outcomes) >= 5, outcomes


@pytest.mark.parametrize(("granule", "level"), [(1 << 12, 0), (1 << 14, 0), (1 << 14, 1), (1 << 16, 1)])
def test_a_block_where_the_granule_has_none(granule: int, level: int) -> None:
    """Reserved by Arm ARM D8.3 without FEAT_LPA2; the engine is no oracle, it takes any of them."""
    tables = {ROOT[0]: (0x401).to_bytes(8, "little")}
    if granule == 1 << 14 and level == 1:
        tables = {ROOT[0]: (ROOT[1] | 3).to_bytes(8, "little"), ROOT[1]: (0x401).to_bytes(8, "little")}
    uc = engine(tcr(granule, (48, 48)), tables)
    assert translate(uc, 0x123) == 0x123
    result = walk(uc, reader(uc, MEMORY), 0x123)
    assert result.gpa is None
    assert result.loads[-1].name == f"level {level} descriptor"
    assert "is 0x401, a block" in result.reason


@pytest.mark.parametrize(("upper", "field"), [(0, 0b11), (1, 0b00)])
def test_a_reserved_granule(upper: int, field: int) -> None:
    """What it does is the implementation's choice; the engine's happens to be 64K and 4K."""
    uc = engine(tcr(1 << 12, (48, 48)) & ~(3 << 14 | 3 << 30) | field << (14, 30)[upper], {})
    result = walk(uc, reader(uc, MEMORY), raised(0x1000, 48, upper))
    assert (result.gpa, result.loads) == (None, ())
    assert f"TG{upper} is reserved" in result.reason


@halves
def test_a_disabled_half(upper: int) -> None:
    page = Page(0x1000, 0x5000, 0x1000)
    tables = arm64_tables(1 << 12, 39, [page], ROOT[0]) | arm64_tables(1 << 12, 39, [page], ROOT[1])
    uc = engine(tcr(1 << 12, (39, 39)) | EPD[upper], tables)
    assert f"EPD{upper}" in agrees(uc, raised(0x1000, 39, upper)).reason
    assert agrees(uc, raised(0x1000, 39, 1 - upper)).gpa == 0x5000


@halves
@pytest.mark.parametrize("bits", [25, 39, 48])
def test_the_end_of_each_half(bits: int, upper: int) -> None:
    last = Page((1 << bits) - 0x1000, 0x5000, 0x1000)
    first = Page(0, 0x6000, 0x1000)
    uc = engine(tcr(1 << 12, (bits, bits)), arm64_tables(1 << 12, bits, [first, last], ROOT[upper]))
    assert agrees(uc, raised(last.gva, bits, upper) + 0xFFF).gpa == 0x5FFF
    assert agrees(uc, raised(0, bits, upper)).gpa == 0x6000
    beyond = raised(0, bits, 1) - 1 if upper else 1 << bits
    assert f"T{upper}SZ" in agrees(uc, beyond).reason


@halves
@pytest.mark.parametrize("tag", [0x01, 0x5A, 0xFF])
@pytest.mark.parametrize("fetch", [False, True], ids=["data", "fetch"])
@pytest.mark.parametrize("tbid", [False, True], ids=["tbi", "tbid"])
def test_top_byte_ignored(upper: int, tag: int, fetch: bool, tbid: bool) -> None:
    page = Page(0x1000, 0x5000, 0x1000)
    control = tcr(1 << 12, (48, 48)) | TBI[upper] | (TBID[upper] if tbid else 0)
    uc = engine(control, arm64_tables(1 << 12, 48, [page], ROOT[upper]))
    plain = raised(page.gva, 48, upper)
    tagged = plain & (1 << 56) - 1 | tag << 56
    assert agrees(uc, plain, fetch=fetch).gpa == 0x5000
    counts = fetch and tbid and tagged != plain
    assert agrees(uc, tagged, fetch=fetch).gpa == (None if counts else 0x5000)


@pytest.mark.parametrize("model", [UC_CPU_ARM64_A53, UC_CPU_ARM64_A57, UC_CPU_ARM64_A72, UC_CPU_ARM64_MAX])
@halves
def test_every_size_of_the_address_space(model: int, upper: int) -> None:
    """Those out of range count as the nearest in range, which is the engine's choice of two."""
    for size in range(64):
        bits = 64 - min(max(size, 16), 39)
        page = Page(0x3000, 0x5000, 0x1000)
        tables = arm64_tables(1 << 12, bits, [page], ROOT[upper])
        control = tcr(1 << 12, (48, 48)) & ~(0x3F << 16 * upper) | size << 16 * upper
        uc = engine(control, tables, model=model)
        assert agrees(uc, raised(page.gva, bits, upper)).gpa == 0x5000, size


@pytest.mark.parametrize("gva", [0, 0x1234, 0xFFFF_FFFF, 0x800_0000_0000, 0xAB << 56 | 0x1234])
@pytest.mark.parametrize("control", [0, TBI[0], TBI[0] | TBID[0]])
@pytest.mark.parametrize("fetch", [False, True], ids=["data", "fetch"])
def test_mmu_off(gva: int, control: int, fetch: bool) -> None:
    uc = engine(control, {}, sctlr=0)
    expected = translate(uc, gva, fetch=fetch)
    if (
        expected is None
    ):  # beyond the model's physical addresses: the engine has faulted, the walk does not look
        expected = gva
    assert walk(uc, reader(uc, MEMORY), gva, fetch=fetch) == Walk(gva, expected, 0, ())


def test_mmu_off_at_reset_is_64_bits_wide() -> None:
    """EL1 is AArch32 to the engine then, which checks no address against the physical size."""
    uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    gva = 0xFFFF_8000_0000_1000
    assert agrees(uc, gva) == Walk(gva, gva, 0, ())


@granules
def test_a_table_outside_memory(granule: int) -> None:
    uc = engine(tcr(granule, (40, 40)), {}, ttbr=(MEMORY, 0))
    result = walk(uc, reader(uc, MEMORY), 0)
    assert (result.gpa, result.loads) == (None, ())
    assert f"gpa {MEMORY:#x} lies outside" in result.reason


@granules
def test_a_table_that_is_its_own_parent_ends(granule: int) -> None:
    uc = engine(tcr(granule, (48, 48)), {ROOT[0]: (ROOT[0] | 0x403).to_bytes(8, "little")})
    assert agrees(uc, 0x123).gpa == ROOT[0] | 0x123


@settings(deadline=None, max_examples=300)
@given(
    gva=st.integers(0, MASK_64),
    sctlr=st.sampled_from((0, 1, 1 | EE)),
    control=st.integers(0, MASK_64),
    ttbr=st.integers(0, MASK_64),
    fetch=st.booleans(),
    noise=st.randoms(use_true_random=False),
)
def test_nothing_a_guest_sets_up_raises(
    gva: int, sctlr: int, control: int, ttbr: int, fetch: bool, noise: random.Random
) -> None:
    class Registers:
        def cpr_read(self, *register: int) -> int:
            tables = {(3, 0, 2, 0, 0): ttbr, (3, 0, 2, 0, 1): ttbr}
            return {(3, 0, 1, 0, 0): sctlr, (3, 0, 2, 0, 2): control, **tables}[register]

    def read(gpa: int, size: int) -> bytes | None:
        assert 0 <= gpa < 1 << 48
        return noise.randbytes(size) if noise.random() < 0.9 else None

    result = walk(Registers(), read, gva, fetch=fetch)
    assert len(result.loads) <= 4
    assert (result.gpa is None) == bool(result.reason)
    assert result.gpa is None or 0 <= result.gpa < 1 << (48 if sctlr else 64)


def test_inside_a_hook_the_walk_gives_the_address_that_the_hook_reports() -> None:
    code, data = Page(0x40_0000, 0x6_0000, 0x1000), Page(0, 0xFE00_0000, 1 << 21)
    tables = arm64_tables(1 << 12, 39, [code], ROOT[0]) | arm64_tables(1 << 12, 39, [data], ROOT[1])
    uc = engine(tcr(1 << 12, (39, 39)), tables)
    uc.mem_write(code.gpa, (0xF940_0020).to_bytes(4, "little"))  # ldr x0, [x1]
    gva = raised(data.gva + 0x1238, 39, 1)
    uc.reg_write(UC_ARM64_REG_X1, gva)
    seen: list[tuple[int, Walk, Walk]] = []

    def unmapped(uc: Uc, _access: int, gpa: int, _size: int, _value: int, _data: object) -> bool:
        read = reader(uc, MEMORY)
        seen.append((gpa, walk(uc, read, gva), walk(uc, read, code.gva, fetch=True)))
        return False

    uc.hook_add(UC_HOOK_MEM_READ_UNMAPPED, unmapped)
    with pytest.raises(UcError):
        uc.emu_start(code.gva, 0)
    ((gpa, of_data, of_code),) = seen
    assert of_data.gpa == gpa == data.gpa + 0x1238
    assert of_code.gpa == code.gpa
    assert (uc.reg_read(UC_ARM64_REG_PC), uc.reg_read(UC_ARM64_REG_X0)) == (code.gva, 0)
