"""PowerPC registers, pc, and the byte order (Power ISA Book III, MSR.LE)."""

from __future__ import annotations

from unicorn import Uc
from unicorn.ppc_const import UC_PPC_REG_0, UC_PPC_REG_MSR, UC_PPC_REG_PC

from ...device import ByteOrder

__all__ = ["Registers", "register"]

_MSR_LE = 1
U32 = (1 << 32) - 1


def register(number: int) -> int:
    """The engine's number of r0 to r31."""
    first: int = UC_PPC_REG_0
    return first + number


class Registers:
    """The general registers of one engine, as instructions name them."""

    def __init__(self, uc: Uc) -> None:
        self.uc = uc

    def pc(self) -> int:
        """The address of the next instruction (NIP)."""
        return int(self.uc.reg_read(UC_PPC_REG_PC)) & U32

    def set_pc(self, pc: int) -> None:
        """Write it, wrapped to 32 bits."""
        self.uc.reg_write(UC_PPC_REG_PC, pc & U32)

    def get(self, number: int) -> int:
        """r0 to r31."""
        return int(self.uc.reg_read(UC_PPC_REG_0 + number)) & U32

    def set(self, number: int, value: int) -> None:
        """Write one, wrapped to 32 bits."""
        self.uc.reg_write(UC_PPC_REG_0 + number, value & U32)

    def get_base(self, number: int) -> int:
        """r1 to r31; as a base, 0 is the number zero."""
        return self.get(number) if number else 0

    def data_order(self) -> ByteOrder:
        """Little where MSR.LE is set, for instructions and data alike."""
        return "little" if self.uc.reg_read(UC_PPC_REG_MSR) & _MSR_LE else "big"
