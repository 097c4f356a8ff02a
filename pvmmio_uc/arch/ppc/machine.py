"""A ready 32-bit PowerPC guest, big-endian or little-endian by MSR.LE; with translation on, by BATs."""

from __future__ import annotations

from unicorn import UC_ARCH_PPC, Uc
from unicorn.ppc_const import UC_CPU_PPC32_7400_V2_9, UC_PPC_REG_1, UC_PPC_REG_MSR
from unicorn.unicorn_const import UC_MODE_BIG_ENDIAN, UC_MODE_PPC32, UC_MODE_PPC64, UC_TLB_VIRTUAL

from ...assembler import assemble
from ..layout import Platform, StubWords, Variant, map_ram

__all__ = ["DEFAULT", "VARIANTS", "create", "doorbell", "platform", "port_doorbell"]

DEFAULT = Variant(32, False, "big")
VARIANTS = (
    *(Variant(32, paging, order) for order in ("big", "little") for paging in (False, True)),
    *(Variant(64, False, order) for order in ("big", "little")),
)

_STORES = {1: "stb", 2: "sth", 4: "stw", 8: "std"}
_MSR_LE = 1
_MSR_DR_IR = 0x30
_BAT_256M = 0x1FFC | 0b10  # block length 256 MiB, valid for the supervisor
_READ_WRITE = 0b10
_CACHE_INHIBITED_GUARDED = 0b0101 << 3
_IBAT0U, _DBAT0U, _DBAT1U = 528, 536, 538


def platform(variant: Variant) -> Platform:
    """RAM from 0, devices from 0xe0000000."""
    dialect = "ppc64" if variant.bits == 64 else "ppc"
    return Platform(dialect=dialect, ram=((0, 0x40_0000),), code=0x1000, stack=0x9000, mmio=0xE000_0000)


def create(variant: Variant) -> Uc:
    """The engine, its RAM mapped, its BATs and MSR set as asked for.

    The 32-bit model is a 7400: the engine's default (7457) reloads its TLB in software. The 64-bit
    one is the engine's default, which runs without translation only (unicorn #1591).
    """
    if variant.bits == 64:
        uc = Uc(UC_ARCH_PPC, UC_MODE_PPC64 | UC_MODE_BIG_ENDIAN)
        uc.ctl_set_tlb_mode(UC_TLB_VIRTUAL)
    else:
        uc = Uc(UC_ARCH_PPC, UC_MODE_PPC32 | UC_MODE_BIG_ENDIAN, UC_CPU_PPC32_7400_V2_9)
    place = platform(variant)
    map_ram(uc, place)
    if variant.paging:
        _set_bats(uc, place)
    msr = uc.reg_read(UC_PPC_REG_MSR)
    msr |= (_MSR_DR_IR if variant.paging else 0) | (_MSR_LE if variant.order == "little" else 0)
    uc.reg_write(UC_PPC_REG_MSR, msr)
    uc.reg_write(UC_PPC_REG_1, place.stack)
    return uc


def doorbell(variant: Variant, address: int, size: int, value: int, count: int) -> StubWords:
    """Store ``value`` at ``address``, ``count`` times."""
    if size not in _STORES or 8 * size > variant.bits:
        raise ValueError(
            f"a doorbell of {size} bytes: {variant.bits}-bit PowerPC stores up to {variant.bits // 8}"
        )
    constants = ((4, address), (3, value), (5, count))
    setup = "\n".join((*(_immediate(number, what, variant.bits) for number, what in constants), "mtctr 5"))
    return StubWords(setup, f"{_STORES[size]} 3, 0(4)", "bdnz again")


def port_doorbell(variant: Variant, port: int, size: int, value: int, count: int) -> StubWords:
    """PowerPC has no ports: ValueError."""
    raise ValueError("ppc has no port I/O: use the doorbell() stub")


def _immediate(number: int, value: int, bits: int = 32) -> str:
    """Load a constant; on 64-bit processors lis would extend the sign of the upper half."""
    low = f"ori {number}, {number}, {value & 0xFFFF:#x}"
    if bits == 32:
        return f"lis {number}, {value >> 16 & 0xFFFF:#x}\n{low}"
    top = f"lis {number}, {value >> 48 & 0xFFFF:#x}\nori {number}, {number}, {value >> 32 & 0xFFFF:#x}"
    return f"{top}\nsldi {number}, {number}, 32\noris {number}, {number}, {value >> 16 & 0xFFFF:#x}\n{low}"


def _set_bats(uc: Uc, place: Platform) -> None:
    """Map RAM for instructions and data, and 256 MiB of devices; SPRs are not in the engine's API."""
    pairs = {
        _IBAT0U: (_BAT_256M, _READ_WRITE),
        _DBAT0U: (_BAT_256M, _READ_WRITE),
        _DBAT1U: (place.mmio | _BAT_256M, place.mmio | _CACHE_INHIBITED_GUARDED | _READ_WRITE),
    }
    lines = []
    for upper, values in pairs.items():
        for spr, value in zip((upper, upper + 1), values, strict=True):
            lines += [_immediate(3, value), f"mtspr {spr}, 3"]
    code = assemble(place.dialect, "\n".join([*lines, "isync"]), place.code)
    uc.mem_write(place.code, code)
    uc.emu_start(place.code, place.code + len(code))
