"""x86 registers by name, segment bases, and where pc is (Intel SDM volume 1, chapter 3; 3A, 3.4)."""

from __future__ import annotations

from functools import cache

from unicorn import Uc, x86_const
from unicorn.unicorn_const import UC_MODE_16, UC_MODE_32, UC_MODE_64
from unicorn.x86_const import (
    UC_X86_REG_CR0,
    UC_X86_REG_CS,
    UC_X86_REG_EFLAGS,
    UC_X86_REG_EIP,
    UC_X86_REG_GDTR,
    UC_X86_REG_LDTR,
    UC_X86_REG_RIP,
)

from ...errors import UnsupportedArchitecture
from ..paging import ReadPhysical
from ._segments import HiddenSegments, find_segments
from .paging import walk

__all__ = ["Registers", "parent64", "register"]

_CR0_PE = 1
_EFLAGS_VM = 1 << 17
_LARGEST_IP = 0xFFFF
_PC = {16: UC_X86_REG_EIP, 32: UC_X86_REG_EIP, 64: UC_X86_REG_RIP}
_MODES = {UC_MODE_16: 16, UC_MODE_32: 32, UC_MODE_64: 64}
_DESCRIPTOR_D = 1 << 54
_DESCRIPTOR_L = 1 << 53
_DESCRIPTOR_G = 1 << 55


@cache
def register(name: str) -> int:
    """The engine's number of a register, named as in the manual, in small letters."""
    number: int | None = getattr(x86_const, f"UC_X86_REG_{name.upper()}", None)
    if number is None:
        raise ValueError(f"x86 has no register {name!r}")
    return number


@cache
def parent64(name: str) -> str:
    """The 64-bit register around a 32-bit one: ``rax`` around ``eax``, ``r8`` around ``r8d``."""
    return name[:-1] if name[1].isdigit() else "r" + name[1:]


class Registers:
    """pc, code size and segment bases of one engine."""

    def __init__(self, uc: Uc) -> None:
        self.uc = uc
        self.engine_bits = _MODES[uc.ctl_get_mode() & (UC_MODE_16 | UC_MODE_32 | UC_MODE_64)]
        self._pc = _PC[self.engine_bits]
        bases = find_segments()
        self._hidden = None if bases is None else HiddenSegments(uc, bases)

    def pc(self) -> int:
        """EIP or RIP; an engine opened in 16-bit mode has EIP too, IP is its lower half."""
        pc: int = self.uc.reg_read(self._pc)
        return pc

    def set_pc(self, pc: int) -> None:
        """Write it, wrapped to its width."""
        self.uc.reg_write(self._pc, pc & ((1 << (64 if self.engine_bits == 64 else 32)) - 1))

    def protected_mode(self) -> bool:
        """CR0.PE."""
        return bool(self.uc.reg_read(UC_X86_REG_CR0) & _CR0_PE)

    def cpl(self) -> int:
        """The current privilege level, 0 to 3."""
        if not self.protected_mode():
            return 0
        if self.uc.reg_read(UC_X86_REG_EFLAGS) & _EFLAGS_VM:
            return 3
        return int(self.uc.reg_read(UC_X86_REG_CS)) & 3

    def real_mode_linear(self) -> int:
        """CS*16 plus IP, as ``emu_start`` wants it of an engine opened in 16-bit mode.

        UnsupportedArchitecture where EIP is above 64 KiB: the engine would go on at its lower half.
        """
        pc = self.pc()
        if pc > _LARGEST_IP:
            raise UnsupportedArchitecture(
                f"the guest is at EIP {pc:#x}, and an engine opened in UC_MODE_16 can go on only up to "
                f"{_LARGEST_IP:#x}: open it in UC_MODE_32"
            )
        return self.linear_pc()

    def linear_pc(self) -> int:
        """CS*16 plus IP on an engine opened in 16-bit mode, else EIP or RIP."""
        if self.engine_bits != 16:
            return self.pc()
        return (int(self.uc.reg_read(UC_X86_REG_CS)) << 4) + self.pc()

    def code_bits(self, read: ReadPhysical) -> int:
        """16, 32 or 64: the default operand size of the code segment.

        Where the engine's hidden half of CS is not to be had it is taken from the descriptor table, and
        where the guest has none the mode that the engine was opened in decides.
        """
        if self._hidden is not None:
            return self._hidden.code_bits()
        if self.engine_bits == 16 and not self.uc.reg_read(UC_X86_REG_CR0) & _CR0_PE:
            return 16
        descriptor = self._descriptor(self.uc.reg_read(UC_X86_REG_CS), read)
        if descriptor is None:
            return self.engine_bits
        if descriptor & _DESCRIPTOR_L and self.engine_bits == 64:
            return 64
        return 32 if descriptor & _DESCRIPTOR_D else 16

    def segment_base(self, name: str, bits: int, read: ReadPhysical) -> int:
        """The linear address that ``name`` (cs, ds, es, ss, fs, gs) starts at, for code of ``bits``."""
        if bits == 64 and name not in ("fs", "gs"):
            return 0
        if self._hidden is not None:
            return self._hidden.base(name)
        if bits == 64:
            return int(self.uc.reg_read(register(f"{name}_base")))
        selector: int = self.uc.reg_read(register(name))
        if not self.uc.reg_read(UC_X86_REG_CR0) & _CR0_PE:
            return selector << 4
        descriptor = self._descriptor(selector, read)
        if descriptor is None:
            return 0
        return (descriptor >> 16 & 0xFFFFFF) | (descriptor >> 32 & 0xFF000000)

    def _descriptor(self, selector: int, read: ReadPhysical) -> int | None:
        """The 8-byte descriptor that ``selector`` names, or None where there is none to read."""
        if selector & ~3 == 0:
            return None
        table = self.uc.reg_read(UC_X86_REG_LDTR if selector & 4 else UC_X86_REG_GDTR)
        base, limit = table[1], table[2]
        if (selector & ~7) + 7 > limit:
            return None
        gpa = walk(self.uc, read, base + (selector & ~7)).gpa
        data = None if gpa is None else read(gpa, 8)
        return None if data is None else int.from_bytes(data, "little")
