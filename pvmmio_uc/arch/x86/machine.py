"""A ready x86 guest: real mode, 32-bit flat, 64-bit; with paging an identity map of 4 GiB."""

from __future__ import annotations

from unicorn import UC_ARCH_X86, Uc
from unicorn.unicorn_const import UC_MODE_16, UC_MODE_32, UC_MODE_64
from unicorn.x86_const import (
    UC_X86_REG_CR0,
    UC_X86_REG_CR3,
    UC_X86_REG_CR4,
    UC_X86_REG_ESP,
    UC_X86_REG_RSP,
    UC_X86_REG_SP,
)

from ..layout import Platform, StubWords, Variant, map_ram

__all__ = ["DEFAULT", "VARIANTS", "create", "doorbell", "platform", "port_doorbell"]

DEFAULT = Variant(64, False, "little")
VARIANTS = tuple(Variant(bits, paging, "little") for bits in (16, 32, 64) for paging in (False, True))[1:]
VARIANTS = (Variant(16, False, "little"), *(v for v in VARIANTS if v.bits != 16))

_MODES = {16: UC_MODE_16, 32: UC_MODE_32, 64: UC_MODE_64}
_STACK = {16: UC_X86_REG_SP, 32: UC_X86_REG_ESP, 64: UC_X86_REG_RSP}
_WIDTHS = {1: ("byte", "al"), 2: ("word", "ax"), 4: ("dword", "eax"), 8: ("qword", "rax")}
_TABLES = 0x0020_0000
_CR0_PG = 1 << 31
_CR0_PE = 1
_CR4_PSE = 1 << 4
_CR4_PAE = 1 << 5
_EFER = 0xC000_0080
_EFER_LME = 1 << 8
_LARGE = 1 << 7 | 0b11  # present, writable, large page


def platform(variant: Variant) -> Platform:
    """A PC: RAM below 640 KiB and from 1 MiB; devices at 0xd0000000, in real mode at 0xd0000."""
    return Platform(
        dialect=f"x86-{variant.bits}",
        ram=((0, 0xA0000), (0x100000, 0x300000)),
        code=0x1000,
        stack=0x9000,
        mmio=0xD0000 if variant.bits == 16 else 0xD000_0000,
    )


def create(variant: Variant) -> Uc:
    """The engine, its RAM mapped, its paging on if asked for."""
    uc = Uc(UC_ARCH_X86, _MODES[variant.bits])
    place = platform(variant)
    map_ram(uc, place)
    uc.reg_write(_STACK[variant.bits], place.stack)
    if variant.paging:
        (_page_32 if variant.bits == 32 else _page_64)(uc)
    return uc


def doorbell(variant: Variant, address: int, size: int, value: int, count: int) -> StubWords:
    """Store ``value`` at ``address``, ``count`` times."""
    width, source = _WIDTHS[size]
    wide = {16: "", 32: "e", 64: "r"}[variant.bits]
    base, where = f"mov {wide}bx, {address:#x}", f"[{wide}bx]"
    if variant.bits == 16:
        base, where = f"mov bx, {address >> 4:#x}\nmov ds, bx\nmov bx, {address & 15:#x}", "[bx]"
    accumulator = "rax" if size == 8 else "eax"
    setup = f"{base}\nmov {accumulator}, {value:#x}\nmov ecx, {count:#x}"
    return StubWords(setup, f"mov {width} ptr {where}, {source}", "dec ecx\njnz again")


def port_doorbell(variant: Variant, port: int, size: int, value: int, count: int) -> StubWords:
    """Output ``value`` to ``port``, ``count`` times."""
    setup = f"mov dx, {port:#x}\nmov eax, {value:#x}\nmov ecx, {count:#x}"
    return StubWords(setup, f"out dx, {_WIDTHS[size][1]}", "dec ecx\njnz again")


def _page_32(uc: Uc) -> None:
    """1,024 pages of 4 MiB, identity."""
    entries = b"".join((page << 22 | _LARGE).to_bytes(4, "little") for page in range(1024))
    uc.mem_write(_TABLES, entries)
    uc.reg_write(UC_X86_REG_CR3, _TABLES)
    uc.reg_write(UC_X86_REG_CR4, uc.reg_read(UC_X86_REG_CR4) | _CR4_PSE)
    uc.reg_write(UC_X86_REG_CR0, uc.reg_read(UC_X86_REG_CR0) | _CR0_PG | _CR0_PE)


def _page_64(uc: Uc) -> None:
    """2,048 pages of 2 MiB below four page directories, identity."""
    pdpt, directories = _TABLES + 0x1000, _TABLES + 0x2000
    uc.mem_write(_TABLES, (pdpt | 0b11).to_bytes(8, "little"))
    for index in range(4):
        directory = directories + index * 0x1000
        uc.mem_write(pdpt + 8 * index, (directory | 0b11).to_bytes(8, "little"))
        pages = range(index * 512, index * 512 + 512)
        uc.mem_write(directory, b"".join((page << 21 | _LARGE).to_bytes(8, "little") for page in pages))
    uc.reg_write(UC_X86_REG_CR3, _TABLES)
    uc.reg_write(UC_X86_REG_CR4, uc.reg_read(UC_X86_REG_CR4) | _CR4_PAE)
    uc.msr_write(_EFER, uc.msr_read(_EFER) | _EFER_LME)
    uc.reg_write(UC_X86_REG_CR0, uc.reg_read(UC_X86_REG_CR0) | _CR0_PG | _CR0_PE)
