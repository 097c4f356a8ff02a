"""x86 guests for the twins: every mode that code can be in, segments with bases, the guest's own paging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from unicorn import Uc, x86_const
from unicorn.unicorn_const import UC_ARCH_X86, UC_MODE_16, UC_MODE_32, UC_MODE_64
from unicorn.x86_const import (
    UC_X86_REG_CR0,
    UC_X86_REG_CR3,
    UC_X86_REG_CR4,
    UC_X86_REG_EIP,
    UC_X86_REG_GDTR,
    UC_X86_REG_RIP,
    UC_X86_REG_RSP,
)

from pvmmio_uc.arch.layout import Variant
from pvmmio_uc.arch.x86 import machine
from pvmmio_uc.assembler import assemble
from tests.arch.pagetables import Page, x86_tables
from tests.arch.twins import PAGE, Setup
from tests.arch.x86.encode_x86 import FLAGS, FORMS, Generator, Segments, general

EFER = 0xC000_0080
PE, PG, NE_ET, PAE = 1, 1 << 31, 0x30, 1 << 5
MODES = {16: UC_MODE_16, 32: UC_MODE_32, 64: UC_MODE_64}
ORDER = ("cs", "ds", "es", "ss", "fs", "gs")
CS, DS, ES, SS, FS, GS = (8 * number for number in range(1, 7))
FLAT = dict.fromkeys(ORDER, 0)
U64 = (1 << 64) - 1


def descriptor(base: int, *, code: bool = False, bits: int = 32) -> bytes:
    """A present segment of 4 GiB from ``base`` at privilege level 0."""
    size = {16: 0, 32: 1 << 54, 64: 1 << 53}[bits]
    low = 0xFFFF | (base & 0xFF_FFFF) << 16 | (0x9B if code else 0x93) << 40
    return (low | 0xF << 48 | 1 << 55 | size | base >> 24 << 56).to_bytes(8, "little")


def segments(uc: Uc, gdt: int, bases: Mapping[str, int], bits: int) -> None:
    """Put a table with the six segments at ``gdt`` and have GDTR point to it."""
    code = descriptor(bases["cs"], code=True, bits=bits)
    uc.mem_write(gdt, bytes(8) + code + b"".join(descriptor(bases[name]) for name in ORDER[1:]))
    uc.reg_write(UC_X86_REG_GDTR, (0, gdt, 0x37, 0))


def load_by_guest(uc: Uc, bits: int, at: int, names: Sequence[str] = ORDER[1:]) -> None:
    """Have guest code at ``at`` load data segments, as code of ``bits`` does it."""
    lines = [line for name in names for line in (f"mov ax, {8 * (ORDER.index(name) + 1)}", f"mov {name}, ax")]
    code = assemble(f"x86-{bits}", "\n".join(lines), at)
    uc.mem_write(at, code)
    uc.emu_start(at, at + len(code))


def register(name: str) -> int:
    number: int = getattr(x86_const, f"UC_X86_REG_{name.upper()}")
    return number


def opened(bits: int, *ram: tuple[int, int]) -> Uc:
    uc = Uc(UC_ARCH_X86, MODES[bits])
    for first, size in ram:
        uc.mem_map(first, size)
    return uc


def real(bases: Mapping[str, int], window: tuple[int, int]) -> Uc:
    uc = opened(16, (0, window[0]), (sum(window), PAGE))
    for name, base in bases.items():
        uc.reg_write(register(name), base >> 4)
    return uc


def unreal(bases: Mapping[str, int], window: tuple[int, int]) -> Uc:
    """Back in real mode, with bases from when it was not."""
    uc = opened(16, (0, 0x10000), (window[0] - PAGE, PAGE), (sum(window), PAGE))
    segments(uc, 0x500, bases, 16)
    uc.reg_write(UC_X86_REG_CR0, uc.reg_read(UC_X86_REG_CR0) | PE)
    load_by_guest(uc, 16, 0x600)
    uc.reg_write(UC_X86_REG_CR0, uc.reg_read(UC_X86_REG_CR0) & ~PE)
    return uc


def virtual_8086(bases: Mapping[str, int], window: tuple[int, int]) -> Uc:
    """An 8086 task: 16-bit code whose selectors are no selectors though CR0.PE is on."""
    uc = opened(32, (0, window[0]), (sum(window), PAGE))
    segments(uc, 0x500, FLAT, 32)
    for name, selector in zip(ORDER, (CS, DS, ES, SS, FS, GS), strict=True):
        uc.reg_write(register(name), selector)
    others = (bases[name] >> 4 for name in ("ss", "es", "ds", "fs", "gs"))
    frame = [0, bases["cs"] >> 4, 0x2_3002, 0x100, *others]  # EIP, CS, EFLAGS with VM, ESP
    uc.mem_write(0x800, b"".join(word.to_bytes(4, "little") for word in frame))
    uc.reg_write(register("esp"), 0x800)
    uc.mem_write(0x600, b"\xcf")
    uc.emu_start(0x600, 0, count=1)
    return uc


def protected(bases: Mapping[str, int], window: tuple[int, int]) -> Uc:
    uc = opened(32, (0, window[0]), (sum(window), 0x10_0000))
    segments(uc, 0x500, bases, 32)
    for name, selector in zip(ORDER, (CS, DS, ES, SS, FS, GS), strict=True):
        uc.reg_write(register(name), selector)
    return uc


def protected_16(bases: Mapping[str, int], window: tuple[int, int]) -> Uc:
    """A 16-bit code segment in an engine opened for 32-bit code: only a far jump gets there."""
    uc = protected(bases, window)
    uc.mem_write(0x500 + 8 * 7, descriptor(bases["cs"], code=True, bits=16))
    uc.reg_write(UC_X86_REG_GDTR, (0, 0x500, 0x3F, 0))
    uc.mem_write(0x600, b"\xea" + (0x700).to_bytes(4, "little") + (8 * 7).to_bytes(2, "little"))
    uc.emu_start(0x600, 0, count=1)
    return uc


def compatibility(bases: Mapping[str, int], pages: Sequence[Page], window: tuple[int, int], bits: int) -> Uc:
    """32- or 16-bit code in long mode."""
    uc = opened(64, (0, 0x20_0000))
    segments(uc, 0x500, bases, bits)
    long_mode(uc, pages)
    uc.reg_write(UC_X86_REG_RSP, 0x900)
    uc.mem_write(0x600, bytes.fromhex("6a08 6800070000 48cb"))  # push CS; push 0x700; retfq
    uc.emu_start(0x600, 0, count=3)
    load_by_guest(uc, bits, 0x700)
    return uc


def long_mode(uc: Uc, pages: Sequence[Page]) -> None:
    page_tables(uc, "4-level", pages)
    uc.reg_write(UC_X86_REG_CR4, uc.reg_read(UC_X86_REG_CR4) | PAE)
    uc.msr_write(EFER, uc.msr_read(EFER) | 1 << 8)
    uc.reg_write(UC_X86_REG_CR0, PG | NE_ET | PE)


def page_tables(uc: Uc, paging: str, pages: Sequence[Page]) -> None:
    for gpa, data in x86_tables(paging, pages, 0x10_0000).items():
        uc.mem_write(gpa, data)
    uc.reg_write(UC_X86_REG_CR3, 0x10_0000)


def paged(paging: str, bases: Mapping[str, int], pages: Sequence[Page]) -> Uc:
    if paging == "4-level":
        uc = opened(64, (0, 0x20_0000))
        long_mode(uc, pages)
        for name in ("fs", "gs"):
            uc.reg_write(register(f"{name}_base"), bases[name])
        return uc
    uc = protected(bases, (0x20_0000, 0))
    page_tables(uc, paging, pages)
    uc.reg_write(UC_X86_REG_CR4, uc.reg_read(UC_X86_REG_CR4) | (PAE if paging == "pae" else 0))
    uc.reg_write(UC_X86_REG_CR0, PG | NE_ET | PE)
    return uc


def flat_64(bases: Mapping[str, int], window: tuple[int, int]) -> Uc:
    uc = opened(64, (window[0] - 0x10_0000, 0x10_0000), (sum(window), PAGE))
    for name in ("fs", "gs"):
        uc.reg_write(register(f"{name}_base"), bases[name])
    return uc


def setup(
    name: str,
    bits: int,
    make: Callable[[], Uc],
    bases: Mapping[str, int],
    window: tuple[int, int],
    code: tuple[int, int],
    *,
    gva: int | None = None,
    shores: tuple[int, int] | None = None,
    engine_bits: int = 0,
    code_size: int = 0x8000,
    flags: bool = True,
    code_base: int = 0,
) -> Setup:
    """A `Setup` whose accessible range is the window and a page of RAM on either side."""
    engine_bits = engine_bits or bits
    return Setup(
        name=name,
        arch="x86",
        make=make,
        window=window,
        gva=window[0] - PAGE if gva is None else gva,
        span=window[1] + 2 * PAGE,
        shores=shores or (window[0] - PAGE, sum(window)),
        code=code,
        code_size=code_size,
        numbers=(*general(engine_bits), *([FLAGS] if flags else [])),
        pc=UC_X86_REG_RIP if engine_bits == 64 else UC_X86_REG_EIP,
        forms=tuple(form for form in FORMS if bits in form.bits),
        generator=lambda rng: Generator(bits, Segments(bases), rng, engine_bits),
        before=b"\x39\xc8",  # cmp eax, ecx
        after=b"\xf5",  # cmc
        code_base=code_base,
    )


def scattered(gva: int, window: tuple[int, int], shores: tuple[int, int], *more: Page) -> list[Page]:
    """From ``gva``: a page of RAM, the window's pages in reverse order, a page of RAM; and ``more``."""
    places = (shores[0], *range(sum(window) - PAGE, window[0] - 1, -PAGE), shores[1])
    return [*(Page(gva + PAGE * n & U64, gpa, PAGE) for n, gpa in enumerate(places)), *more]


# Every segment reaches every address here, with 16-bit addresses too; one base is negative.
LOW = {"cs": 0, "ds": 0, "es": 0x1000, "ss": 0xFFFF_8000, "fs": 0x4321, "gs": 0x6FF0}
LOW_16 = {"cs": 0, "ds": 0x8000, "es": 0x9000, "ss": 0x1_0000, "fs": 0xC321, "gs": 0xEFF0}
REAL = {"cs": 0xC_8000, "ds": 0xC_8000, "es": 0xC_F000, "ss": 0xC_6230, "fs": 0xC_FFF0, "gs": 0xC_7FF0}
HIGH = {"cs": 0, "ds": 0xCFFF_8000, "es": 0xCFFF_F000, "ss": 0xCFFF_6234, "fs": 0xCFFF_0FFF, "gs": 0}
LONG = {"fs": 0xFFFF_FFFF_F000_1234, "gs": 0x3FFF_8888}
UPPER_HALF = 0xFFFF_8000_1234_5000
REAL_WINDOW, LOW_WINDOW, LOW_WINDOW_16 = (0xD_0000, 0x4000), (0x8000, 0x4000), (0x1_2000, 0x4000)
HIGH_WINDOW = (0xD000_0000, 0x4000)
FLAT_WINDOW = (0x4000_0000, 0x4000)
FAR_WINDOW, FAR_SHORES = (0x12_3456_0000, 0x4000), (0x5000, 0x7000)
CODE_PAGES = [Page(0x2000 + PAGE * n, 0x2000 + PAGE * n, PAGE) for n in range(2)]


def long_paged(name: str, gva: int) -> Setup:
    """64-bit code and data in the upper half, far from their gpa."""
    code = (UPPER_HALF - PAGE * 16, 0x2000)
    pages = scattered(gva, FAR_WINDOW, FAR_SHORES, Page(*code, PAGE))
    make = partial(paged, "4-level", LONG, pages)
    return setup(
        name, 64, make, LONG, FAR_WINDOW, code, gva=gva, shores=FAR_SHORES, code_size=PAGE
    )  # fmt: skip


def end_of_space(bits: int, gpa_bits: int) -> Setup:
    """No translation, and the page behind the last one is the first one."""
    top = 1 << gpa_bits
    window, shores = (top - 2 * PAGE, 2 * PAGE), (top - 3 * PAGE, 0)
    make = partial(opened, bits, (0, 0x1_0000), (shores[0], PAGE))
    return setup(
        f"x86-{bits} end of space", bits, make, FLAT, window, (0x3000, 0x3000),
        gva=(1 << bits) - 3 * PAGE, shores=shores, code_size=0x2000,
    )  # fmt: skip


def translated(paging: str, bits: int) -> Setup:
    """32-bit code, or 16-bit code in long mode, behind tables; the tables and the GDT are at their gpa."""
    window = (0x1_2345_0000, 0x4000) if paging == "4-level" else (0xFEE0_0000, 0x4000)
    low = [Page(PAGE * n, PAGE * n, PAGE) for n in range(4)]
    pages = scattered(LOW_WINDOW[0] - PAGE, window, FAR_SHORES, *low)
    make = partial(paged, paging, LOW, pages)
    if paging == "4-level":
        make = partial(compatibility, LOW, pages, window, bits)
    name = f"x86-{bits} in long mode" if paging == "4-level" else f"x86-{bits} {paging} paging"
    return setup(
        name, bits, make, LOW, window, (0x2000, 0x2000), gva=LOW_WINDOW[0] - PAGE, shores=FAR_SHORES,
        engine_bits=64 if paging == "4-level" else 32, code_size=2 * PAGE,
    )  # fmt: skip


def variant(which: Variant) -> Setup:
    """As `Machine` makes it; the platform's devices, all segments flat."""
    place = machine.platform(which)
    window = (place.mmio + 0x1_0000 if which.bits > 16 else place.mmio, 0x4000)
    shores = (window[0] - PAGE, sum(window))
    bases = {name: window[0] - 0x8000 if which.bits == 16 and name != "cs" else 0 for name in ORDER}

    def make() -> Uc:
        uc = machine.create(which)
        for shore in shores:
            uc.mem_map(shore, PAGE)
        if which.bits == 16:
            for name in ORDER[1:]:
                uc.reg_write(register(name), bases[name] >> 4)
        return uc

    paging = ", paging" if which.paging else ""
    return setup(f"Machine x86-{which.bits}{paging}", which.bits, make, bases, window, (place.code,) * 2)


def untranslated(
    name: str,
    bits: int,
    make: Callable[[Mapping[str, int], tuple[int, int]], Uc],
    bases: Mapping[str, int],
    window: tuple[int, int],
    code: int,
    **more: Any,
) -> Setup:
    return setup(name, bits, partial(make, bases, window), bases, window, (code, code), **more)


def task_8086() -> Setup:
    """The engine starts it at EIP, and stops it at a linear address."""
    base = REAL["cs"]
    return setup(
        "x86-16 8086 task", 16, partial(virtual_8086, REAL, REAL_WINDOW), REAL, REAL_WINDOW,
        (0x1000, base + 0x1000), engine_bits=32, code_size=0x6000, flags=False, code_base=base,
    )  # fmt: skip


SETUPS = (
    untranslated("x86-16 real mode", 16, real, REAL, REAL_WINDOW, REAL["cs"], code_size=0x7000),
    untranslated("x86-16 unreal mode", 16, unreal, HIGH, HIGH_WINDOW, 0x1000),
    task_8086(),
    untranslated("x86-16 protected", 16, protected_16, LOW_16, LOW_WINDOW_16, 0x1000, engine_bits=32),
    untranslated("x86-32 segments", 32, protected, LOW, LOW_WINDOW, 0x1_0000),
    untranslated("x86-64 flat", 64, flat_64, LONG, FLAT_WINDOW, FLAT_WINDOW[0] - 0x10_0000),
    *(translated(paging, 32) for paging in ("32-bit", "pae", "4-level")),
    translated("4-level", 16),
    long_paged("x86-64 4-level, upper half", UPPER_HALF),
    long_paged("x86-64 4-level, end of space", (1 << 64) - PAGE * 5),
    end_of_space(32, 32),
    end_of_space(64, 52),
    *(variant(which) for which in machine.VARIANTS),
)
