"""PowerPC registers, pc, and the byte order (Power ISA Book III, MSR.LE)."""

from __future__ import annotations

from unicorn import Uc, ppc_const
from unicorn.ppc_const import UC_PPC_REG_0, UC_PPC_REG_MSR, UC_PPC_REG_PC
from unicorn.unicorn_const import UC_MODE_PPC64

from ...device import ByteOrder

__all__ = ["Registers", "register"]

_MSR_LE = 1
_MSR_PR = 1 << 14
_MSR_SF = 1 << 63


def register(name: str) -> int:
    """The engine's number of a register by its manual name: ``r3``, ``msr``, ``ctr``."""
    bare = name[1:] if name[:1] == "r" and name[1:].isdigit() else name
    number: int | None = getattr(ppc_const, f"UC_PPC_REG_{bare.upper()}", None)
    if number is None:
        raise ValueError(f"ppc has no register {name!r}")
    return number


class Registers:
    """The general registers of one engine, as instructions name them."""

    def __init__(self, uc: Uc) -> None:
        self.uc = uc
        self.bits = 64 if uc.ctl_get_mode() & UC_MODE_PPC64 else 32
        self.mask = (1 << self.bits) - 1

    def pc(self) -> int:
        """The address of the next instruction (NIP)."""
        return int(self.uc.reg_read(UC_PPC_REG_PC)) & self.mask

    def set_pc(self, pc: int) -> None:
        """Write it, wrapped to its width."""
        self.uc.reg_write(UC_PPC_REG_PC, pc & self.mask)

    def get(self, number: int) -> int:
        """r0 to r31."""
        return int(self.uc.reg_read(UC_PPC_REG_0 + number)) & self.mask

    def set(self, number: int, value: int) -> None:
        """Write one, wrapped to its width."""
        self.uc.reg_write(UC_PPC_REG_0 + number, value & self.mask)

    def get_base(self, number: int) -> int:
        """r1 to r31; as a base, 0 is the number zero."""
        return self.get(number) if number else 0

    def call_bits(self) -> int:
        """64 on a 64-bit engine in 64-bit mode (MSR.SF), else 32."""
        return 64 if self.bits == 64 and self.uc.reg_read(UC_PPC_REG_MSR) & _MSR_SF else 32

    def problem_state(self) -> bool:
        """MSR.PR."""
        return bool(self.uc.reg_read(UC_PPC_REG_MSR) & _MSR_PR)

    def data_order(self) -> ByteOrder:
        """Little where MSR.LE is set, for instructions and data alike."""
        return "little" if self.uc.reg_read(UC_PPC_REG_MSR) & _MSR_LE else "big"
