"""PowerPC guests for the twins: both byte orders and widths, BATs and the hashed table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from unicorn import Uc
from unicorn.ppc_const import UC_CPU_PPC32_750CXE_V3_1, UC_PPC_REG_MSR, UC_PPC_REG_PC
from unicorn.unicorn_const import UC_ARCH_PPC, UC_MODE_BIG_ENDIAN, UC_MODE_PPC64, UC_TLB_VIRTUAL

from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.arch.ppc import machine
from tests.arch.pagetables import HashedPage, ppc_hashed_tables
from tests.arch.ppc.encode_ppc import CR, FORMS, FORMS_64, GENERAL, Generator
from tests.arch.ppc.guest import LE, SDR1, engine, set_segment, set_spr, translation_on
from tests.arch.twins import PAGE, Setup

Order = Literal["little", "big"]
TABLE = 0x40_0000
WINDOW = (0xFEC0_0000, 0x4000)
CODE, DATA = 0x3000, 0x8000_0000
VSID = {CODE >> 28: 0x123, DATA >> 28: 0x45678}
SHORES = (0x1_0000, 0x1_2000)


def scattered() -> list[tuple[int, int]]:
    """From DATA a page of RAM, the window backwards, a page of RAM: (gva, gpa) of each."""
    device = range(sum(WINDOW) - PAGE, WINDOW[0] - 1, -PAGE)
    return [(DATA + PAGE * n, gpa) for n, gpa in enumerate((SHORES[0], *device, SHORES[1]))]


def hashed(order: Order, data: list[tuple[int, int]]) -> Uc:
    """Code is at its own gpa."""
    places = [*data, *((CODE + PAGE * n,) * 2 for n in range(4))]
    pages = [HashedPage(*at, VSID[at[0] >> 28], bool(n & 1), n % 8) for n, at in enumerate(places)]
    uc = engine(UC_CPU_PPC32_750CXE_V3_1, ppc_hashed_tables(TABLE, pages))
    set_spr(uc, SDR1, TABLE)
    for number, vsid in VSID.items():
        set_segment(uc, number, vsid)
    translation_on(uc, LE if order == "little" else 0)
    return uc


def narrow(order: Order) -> Uc:
    """A 64-bit processor in 32-bit mode."""
    uc = Uc(UC_ARCH_PPC, UC_MODE_PPC64 | UC_MODE_BIG_ENDIAN)
    uc.ctl_set_tlb_mode(UC_TLB_VIRTUAL)
    uc.mem_map(0, 0x1_0000)
    uc.reg_write(UC_PPC_REG_MSR, LE if order == "little" else 0)
    return uc


def setup(
    name: str,
    make: Callable[[], Uc],
    order: Order,
    window: tuple[int, int],
    *,
    gva: int | None = None,
    shores: tuple[int, int] | None = None,
    bits: int = 32,
    address_bits: int = 0,
) -> Setup:
    """A `Setup` whose accessible range is the window and a page of RAM on either side."""
    return Setup(
        name=name,
        arch="ppc",
        make=make,
        window=window,
        gva=window[0] - PAGE if gva is None else gva,
        span=window[1] + 2 * PAGE,
        shores=shores or (window[0] - PAGE, sum(window)),
        code=(CODE, CODE),
        code_size=0x2000,
        numbers=(*GENERAL, CR),
        pc=UC_PPC_REG_PC,
        forms=FORMS_64 if bits == 64 else FORMS,
        generator=lambda rng: Generator(order, rng, bits, address_bits),
        before=0x7C03_2040.to_bytes(4, order),  # cmplw 3, 4
        after=0x7CA0_0026.to_bytes(4, order),  # mfcr 5
    )


def with_shores(create: Callable[[], Uc], window: tuple[int, int]) -> Callable[[], Uc]:
    def make() -> Uc:
        uc = create()
        uc.mem_map(window[0] - PAGE, PAGE)
        uc.mem_map(sum(window), PAGE)
        return uc

    return make


def variant(which: Variant) -> Setup:
    """As `Machine` makes it."""
    window = (machine.platform(which).mmio + 0x1_0000, 0x4000)
    name = f"Machine ppc{which.bits} {which.order}-endian{', paging' if which.paging else ''}"
    make = with_shores(lambda: machine.create(which), window)
    return setup(name, make, which.order, window, bits=which.bits)


def hashed_setup(order: Order) -> Setup:
    name = f"ppc32 hashed, {order}-endian"
    return setup(name, lambda: hashed(order, scattered()), order, WINDOW, gva=DATA, shores=SHORES)


def narrow_setup(order: Order) -> Setup:
    make = with_shores(lambda: narrow(order), WINDOW)
    name = f"ppc64 in 32-bit mode, {order}-endian"
    return setup(name, make, order, WINDOW, bits=64, address_bits=32)


def end_of_space() -> Setup:
    """The page behind the last one is the first one."""
    window, shores = ((1 << 32) - 2 * PAGE, 2 * PAGE), ((1 << 32) - 3 * PAGE, 0)

    def make() -> Uc:
        uc = machine.create(Variant(32, False, "big"))
        uc.mem_map(shores[0], PAGE)
        return uc

    return setup("ppc32 end of space", make, "big", window, shores=shores)


SETUPS = (
    *(variant(which) for which in machine.VARIANTS),
    hashed_setup("big"),
    hashed_setup("little"),
    narrow_setup("big"),
    narrow_setup("little"),
    end_of_space(),
)
