"""A ppc engine whose system registers a test can set, one instruction at a time."""

from __future__ import annotations

from unicorn import Uc
from unicorn.ppc_const import (
    UC_CPU_PPC32_603E_V4_1,
    UC_CPU_PPC32_604,
    UC_CPU_PPC32_750CXE_V3_1,
    UC_CPU_PPC32_7400_V2_9,
    UC_CPU_PPC32_7448_V2_1,
    UC_CPU_PPC32_7457_V1_2,
    UC_CPU_PPC32_E600,
    UC_PPC_REG_3,
    UC_PPC_REG_MSR,
)
from unicorn.unicorn_const import UC_ARCH_PPC, UC_MODE_BIG_ENDIAN, UC_MODE_PPC32

from tests.arch.pagetables import Tables

MEMORY = 0x80_0000
STUB = 0x100
SDR1 = 25
IBATS = (*range(528, 536, 2), *range(560, 568, 2))
DBATS = (*range(536, 544, 2), *range(568, 576, 2))
LE, DR, IR, PR = 1, 1 << 4, 1 << 5, 1 << 14

HASHED = [UC_CPU_PPC32_750CXE_V3_1, UC_CPU_PPC32_7400_V2_9, UC_CPU_PPC32_7448_V2_1, UC_CPU_PPC32_604]
"""Models whose engine searches the hashed table; the others leave that to the guest's software."""
SOFTWARE = [UC_CPU_PPC32_7457_V1_2, UC_CPU_PPC32_603E_V4_1]
EIGHT_BATS = [UC_CPU_PPC32_750CXE_V3_1, UC_CPU_PPC32_E600, UC_CPU_PPC32_7457_V1_2]


def engine(model: int, tables: Tables | None = None) -> Uc:
    uc = Uc(UC_ARCH_PPC, UC_MODE_PPC32 | UC_MODE_BIG_ENDIAN, model)
    uc.mem_map(0, MEMORY)
    for gpa, data in (tables or {}).items():
        uc.mem_write(gpa, data)
    return uc


def execute(uc: Uc, instruction: int, r3: int = 0) -> int:
    """Run one instruction, translation off, that uses r3; return r3."""
    uc.mem_write(STUB, instruction.to_bytes(4, "big"))
    uc.ctl_flush_tb()
    uc.reg_write(UC_PPC_REG_3, r3)
    uc.emu_start(STUB, 0, count=1)
    value: int = uc.reg_read(UC_PPC_REG_3)
    return value


def set_spr(uc: Uc, spr: int, value: int) -> None:
    execute(uc, 0x7C60_03A6 | (spr & 31) << 16 | spr >> 5 << 11, value)


def mfspr(uc: Uc, spr: int) -> int:
    return execute(uc, 0x7C60_02A6 | (spr & 31) << 16 | spr >> 5 << 11, 0xDDDD_DDDD)


def set_segment(uc: Uc, n: int, value: int) -> None:
    execute(uc, 0x7C60_01A4 | n << 16, value)


def set_bat(uc: Uc, spr: int, pair: tuple[int, int]) -> None:
    set_spr(uc, spr, pair[0])
    set_spr(uc, spr + 1, pair[1])


def translation_on(uc: Uc, more: int = 0) -> None:
    uc.reg_write(UC_PPC_REG_MSR, DR | IR | more)
