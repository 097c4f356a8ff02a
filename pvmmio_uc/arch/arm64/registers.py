"""arm64 registers, pc, and the byte order of data (Arm ARM DDI 0487, B1.2, D19.2.129 SCTLR_EL1)."""

from __future__ import annotations

from unicorn import Uc, arm64_const
from unicorn.arm64_const import UC_ARM64_REG_PC, UC_ARM64_REG_PSTATE, UC_ARM64_REG_SP

from ...device import ByteOrder

__all__ = ["Registers", "register"]

X = tuple(getattr(arm64_const, f"UC_ARM64_REG_X{n}") for n in range(31))
_ZERO_OR_SP = 31
_SCTLR_EL1 = (3, 0, 1, 0, 0)
_SCTLR_E0E = 1 << 24
_SCTLR_EE = 1 << 25
_PSTATE_EL = 0b1100


def register(name: str) -> int:
    """The engine's number of a register by its manual name, in small letters."""
    number: int | None = getattr(arm64_const, f"UC_ARM64_REG_{name.upper()}", None)
    if number is None:
        raise ValueError(f"arm64 has no register {name!r}")
    return number


class Registers:
    """The general registers of one engine, as instructions name them."""

    def __init__(self, uc: Uc) -> None:
        self.uc = uc

    def pc(self) -> int:
        """PC."""
        pc: int = self.uc.reg_read(UC_ARM64_REG_PC)
        return pc

    def set_pc(self, pc: int) -> None:
        """Write it."""
        self.uc.reg_write(UC_ARM64_REG_PC, pc & ((1 << 64) - 1))

    def get(self, number: int) -> int:
        """X0 to X30; 31 is zero."""
        return 0 if number == _ZERO_OR_SP else int(self.uc.reg_read(X[number]))

    def set(self, number: int, value: int) -> None:
        """Write one; 31 is dropped."""
        if number != _ZERO_OR_SP:
            self.uc.reg_write(X[number], value & ((1 << 64) - 1))

    def get_base(self, number: int) -> int:
        """X0 to X30; 31 is the current SP."""
        return int(self.uc.reg_read(UC_ARM64_REG_SP if number == _ZERO_OR_SP else X[number]))

    def set_base(self, number: int, value: int) -> None:
        """Write one; 31 is the current SP."""
        target = UC_ARM64_REG_SP if number == _ZERO_OR_SP else X[number]
        self.uc.reg_write(target, value & ((1 << 64) - 1))

    def data_order(self) -> ByteOrder:
        """SCTLR_EL1.EE at EL1, .E0E at EL0."""
        sctlr = self.uc.cpr_read(*_SCTLR_EL1)
        return "big" if sctlr & (_SCTLR_E0E if self.at_el0() else _SCTLR_EE) else "little"

    def at_el0(self) -> bool:
        """PSTATE.EL is 0."""
        return not self.uc.reg_read(UC_ARM64_REG_PSTATE) & _PSTATE_EL
