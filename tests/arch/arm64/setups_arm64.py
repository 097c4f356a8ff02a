"""arm64 guests for the twins: both exception levels, both byte orders, the guest's own translation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from unicorn import Uc
from unicorn.arm64_const import UC_ARM64_REG_PC, UC_ARM64_REG_PSTATE, UC_CPU_ARM64_A72, UC_CPU_ARM64_MAX
from unicorn.unicorn_const import UC_ARCH_ARM64, UC_MODE_ARM, UC_MODE_BIG_ENDIAN

from pvmmio_uc.arch.arm64 import machine
from pvmmio_uc.arch.layout import Variant
from tests.arch.arm64.encode_arm64 import FLAGS, FORMS, GENERAL, LATER_FORMS, SP, Form, Generator
from tests.arch.pagetables import Page, arm64_tables
from tests.arch.twins import PAGE, Setup

SCR_EL3, HCR_EL2, SCTLR_EL1 = (3, 6, 1, 1, 0), (3, 4, 1, 1, 0), (3, 0, 1, 0, 0)
TCR_EL1, TTBR0_EL1, TTBR1_EL1 = (3, 0, 2, 0, 2), (3, 0, 2, 0, 0), (3, 0, 2, 0, 1)
E0E, EE = 1 << 24, 1 << 25
EL0 = 0
USER = 1 << 6  # AP[1]
TG0, TG1 = {0x1000: 0b00, 0x10000: 0b01}, {0x1000: 0b10, 0x10000: 0b11}
ROOT, CODE = 0x40_0000, 0x10_0000
WINDOW = (0x2000_0000, 0x20000)
SHORES = (0x2_0000, 0x4_0000)
UPPER = 0xFFFF_FFC0_0000_0000
U64 = (1 << 64) - 1
Order = Literal["little", "big"]


def opened(
    model: int = UC_CPU_ARM64_A72, *, mode: int = UC_MODE_ARM, sctlr: int = 0, el0: bool = False
) -> Uc:
    """RAM around the window; ``sctlr`` bits on."""
    uc = Uc(UC_ARCH_ARM64, mode, model)
    uc.mem_map(WINDOW[0] - 0x8_0000, 0x8_0000)
    uc.mem_map(sum(WINDOW), 0x10000)
    uc.cpr_write(*SCR_EL3, 0x501)  # RW, HCE, NS: without RW the engine takes EL1 for AArch32
    uc.cpr_write(*HCR_EL2, 1 << 31)
    if el0:
        uc.reg_write(UC_ARM64_REG_PSTATE, EL0)
    # Only this write has the engine look at PSTATE and at the byte order again.
    uc.cpr_write(*SCTLR_EL1, uc.cpr_read(*SCTLR_EL1) | sctlr)
    return uc


def scattered(granule: int, gva: int) -> list[Page]:
    """From ``gva`` a page of RAM, the window backwards, a page of RAM."""
    places = (SHORES[0], *range(sum(WINDOW) - granule, WINDOW[0] - 1, -granule), SHORES[1])
    return [Page(gva + granule * n & U64, gpa, granule) for n, gpa in enumerate(places)]


def translated(granule: int, order: Order, data: list[Page], code: int) -> Uc:
    """Pages of ``data`` wherever they are, and a page for code in the upper half."""
    uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    uc.mem_map(0, 0x100_0000)
    upper = [page for page in data if page.gva >> 63]
    lower = [page for page in data if not page.gva >> 63]
    for root, pages in ((ROOT, [*upper, Page(code, CODE, granule)]), (ROOT * 2, lower)):
        for gpa, raw in arm64_tables(granule, 39, pages, root, order=order).items():
            uc.mem_write(gpa, user_accessible(raw, {page.gpa for page in data}, order))
    uc.cpr_write(*SCR_EL3, 0x501)
    uc.cpr_write(*HCR_EL2, 1 << 31)
    uc.cpr_write(*TCR_EL1, 25 << 16 | 25 | TG1[granule] << 30 | TG0[granule] << 14 | 0b10 << 32)
    uc.cpr_write(*TTBR0_EL1, ROOT * 2)
    uc.cpr_write(*TTBR1_EL1, ROOT)
    uc.cpr_write(*SCTLR_EL1, uc.cpr_read(*SCTLR_EL1) | 1 | (EE if order == "big" else 0))
    return uc


def user_accessible(table: bytes, pages: set[int], order: Order) -> bytes:
    """ldtr and sttr ask for it; code must not be, for what EL0 can write EL1 cannot execute."""
    entries = (int.from_bytes(table[at : at + 8], order) for at in range(0, len(table), 8))
    marked = (e | USER if e & 0b11 == 0b11 and e & 0xFFFF_FFFF_F000 in pages else e for e in entries)
    return b"".join(entry.to_bytes(8, order) for entry in marked)


def setup(
    name: str,
    make: Callable[[], Uc],
    window: tuple[int, int],
    code: tuple[int, int],
    *,
    gva: int | None = None,
    shores: tuple[int, int] | None = None,
    margin: int = PAGE,
    forms: tuple[Form, ...] = FORMS,
) -> Setup:
    """A `Setup` whose accessible range is the window and ``margin`` bytes of RAM on either side."""
    return Setup(
        name=name,
        arch="arm64",
        make=make,
        window=window,
        gva=window[0] - margin if gva is None else gva,
        span=window[1] + 2 * margin,
        shores=shores or (window[0] - PAGE, sum(window)),
        code=code,
        code_size=0x1000,
        numbers=(*GENERAL, SP, FLAGS),
        pc=UC_ARM64_REG_PC,
        forms=forms,
        generator=Generator,
        before=0x6B02_003F.to_bytes(4, "little"),  # cmp w1, w2
        after=0x9A04_0063.to_bytes(4, "little"),  # adc x3, x3, x4
    )


def variant(which: Variant) -> Setup:
    """As `Machine` makes it: EL0 may touch nothing, which ldtr and sttr would notice with paging on."""
    place = machine.platform(which)
    window = (place.ram[0][0] - 0x5000, 0x4000)

    def make() -> Uc:
        uc = machine.create(which)
        uc.mem_map(window[0] - PAGE, PAGE)
        uc.mem_map(sum(window), PAGE)
        return uc

    forms = tuple(form for form in FORMS if not which.paging or form.kind != "unprivileged")
    name = f"Machine arm64{', paging' if which.paging else ''}"
    return setup(name, make, window, (place.code, place.code), forms=forms)


def paged(granule: int, order: Order, gva: int, where: str) -> Setup:
    make = partial(translated, granule, order, scattered(granule, gva), gva - granule)
    name = f"arm64 {granule >> 10} KiB pages, {where}, {order}-endian"
    return setup(name, make, WINDOW, (gva - granule, CODE), gva=gva, shores=SHORES, margin=granule)


_FLAT = (WINDOW[0] - 0x4000,) * 2
SETUPS = (
    *(variant(which) for which in machine.VARIANTS),
    setup("arm64 MAX", partial(opened, UC_CPU_ARM64_MAX), WINDOW, _FLAT, forms=FORMS + LATER_FORMS),
    setup("arm64 big-endian", partial(opened, sctlr=EE), WINDOW, _FLAT),
    setup("arm64 opened big-endian", partial(opened, mode=UC_MODE_BIG_ENDIAN), WINDOW, _FLAT),
    setup("arm64 EL0", partial(opened, sctlr=EE, el0=True), WINDOW, _FLAT),
    setup("arm64 EL0 big-endian", partial(opened, sctlr=E0E, el0=True), WINDOW, _FLAT),
    paged(0x1000, "little", UPPER, "upper half"),
    paged(0x1000, "big", UPPER, "upper half"),
    paged(0x10000, "little", UPPER, "upper half"),
    paged(0x10000, "big", (1 << 64) - WINDOW[1] - 0x10000, "end of space"),
)
