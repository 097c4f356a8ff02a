"""A ready arm64 guest at EL1; with its MMU on an identity map of 4 GiB, devices as Device-nGnRE."""

from __future__ import annotations

from unicorn import UC_ARCH_ARM64, Uc
from unicorn.arm64_const import UC_ARM64_REG_SP
from unicorn.unicorn_const import UC_MODE_ARM

from ..layout import Platform, StubWords, Variant, map_ram

__all__ = ["DEFAULT", "VARIANTS", "create", "doorbell", "platform", "port_doorbell"]

DEFAULT = Variant(64, False, "little")
VARIANTS = (DEFAULT, Variant(64, True, "little"))

_TABLE = 0x4030_0000
_WIDTHS = {1: ("strb", "w0"), 2: ("strh", "w0"), 4: ("str", "w0"), 8: ("str", "x0")}
_SCR_EL3 = (3, 6, 1, 1, 0)
_HCR_EL2 = (3, 4, 1, 1, 0)
_SCTLR_EL1 = (3, 0, 1, 0, 0)
_TCR_EL1 = (3, 0, 2, 0, 2)
_TTBR0_EL1 = (3, 0, 2, 0, 0)
_MAIR_EL1 = (3, 0, 10, 2, 0)
_SCR_RW_HCE_NS = 0x501
_HCR_RW = 1 << 31
_MAIR = 0xFF | 0x04 << 8  # attribute 0 normal write-back, 1 Device-nGnRE
_TCR = 25 | 1 << 23 | 0b10 << 32  # T0SZ: 39 bits, so level 1 first; EPD1; 40-bit physical addresses
_BLOCK = 0b01 | 1 << 10  # valid block, access flag


def platform(variant: Variant) -> Platform:
    """As QEMU's virt: devices from 0x0a000000, RAM from 0x40000000."""
    return Platform(
        dialect="arm64",
        ram=((0x4000_0000, 0x40_0000),),
        code=0x4000_1000,
        stack=0x4000_9000,
        mmio=0x0A00_0000,
    )


def create(variant: Variant) -> Uc:
    """The engine, its RAM mapped, its MMU on if asked for."""
    uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    place = platform(variant)
    map_ram(uc, place)
    uc.reg_write(UC_ARM64_REG_SP, place.stack)
    # At reset EL1 is AArch32 for the engine's table walker, and hvc is undefined.
    uc.cpr_write(*_SCR_EL3, _SCR_RW_HCE_NS)
    uc.cpr_write(*_HCR_EL2, _HCR_RW)
    if variant.paging:
        blocks = [gigabyte << 30 | _BLOCK | (0 if gigabyte == 1 else 1 << 2) for gigabyte in range(4)]
        uc.mem_write(_TABLE, b"".join(block.to_bytes(8, "little") for block in blocks))
        uc.cpr_write(*_MAIR_EL1, _MAIR)
        uc.cpr_write(*_TCR_EL1, _TCR)
        uc.cpr_write(*_TTBR0_EL1, _TABLE)
        uc.cpr_write(*_SCTLR_EL1, uc.cpr_read(*_SCTLR_EL1) | 1)
    return uc


def doorbell(variant: Variant, address: int, size: int, value: int, count: int) -> StubWords:
    """Store ``value`` at ``address``, ``count`` times."""
    store, source = _WIDTHS[size]
    setup = "\n".join((_immediate("x1", address), _immediate("x0", value), _immediate("x2", count)))
    return StubWords(setup, f"{store} {source}, [x1]", "subs x2, x2, #1\nb.ne again")


def port_doorbell(variant: Variant, port: int, size: int, value: int, count: int) -> StubWords:
    """arm64 has no ports: ValueError."""
    raise ValueError("arm64 has no port I/O: use the doorbell() stub")


def _immediate(name: str, value: int) -> str:
    """movz and as many movk as it takes: Keystone does not do it for ``mov``."""
    rest = [(shift, value >> shift & 0xFFFF) for shift in (16, 32, 48)]
    first = f"movz {name}, #{value & 0xFFFF:#x}"
    return "\n".join([first, *(f"movk {name}, #{part:#x}, lsl #{shift}" for shift, part in rest if part)])
