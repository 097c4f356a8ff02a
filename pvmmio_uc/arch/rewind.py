"""Back to the instruction that faulted, where the engine did not stop at it.

A store that is refused inside one of the engine's helpers (stmw, dcbz, dc zva, fxsave) ends the run only
when the translation block ends, with everything behind it in the block executed (not reported upstream).
"""

from __future__ import annotations

from unicorn import Uc
from unicorn.arm64_const import UC_ARM64_REG_PC
from unicorn.ppc_const import UC_PPC_REG_PC
from unicorn.unicorn_const import UC_ARCH_ARM64, UC_ARCH_PPC, UC_ARCH_X86, UC_MODE_64
from unicorn.x86_const import UC_X86_REG_EFLAGS, UC_X86_REG_EIP, UC_X86_REG_RIP

__all__ = ["Rewind"]

_PC = {UC_ARCH_X86: UC_X86_REG_EIP, UC_ARCH_ARM64: UC_ARM64_REG_PC, UC_ARCH_PPC: UC_PPC_REG_PC}


class Rewind:
    """The CPU state of one engine at its last fault."""

    def __init__(self, uc: Uc) -> None:
        self._uc, self._state = uc, uc.context_save()
        arch = uc.ctl_get_arch()
        self._is_x86 = arch == UC_ARCH_X86
        self._pc = UC_X86_REG_RIP if self._is_x86 and uc.ctl_get_mode() & UC_MODE_64 else _PC[arch]

    def mark(self) -> None:
        """Keep the state; called by the hook, whose pc is right."""
        self._uc.context_update(self._state)

    def go_back(self) -> None:
        """Put the state back if the engine ran on. Memory that was stored to in between stays as it is."""
        if self._uc.reg_read(self._pc) == self._state.reg_read(self._pc):
            return
        self._uc.context_restore(self._state)
        if self._is_x86:
            # While it runs the engine keeps the arithmetic flags apart from the others.
            self._uc.reg_write(UC_X86_REG_EFLAGS, self._state.reg_read(UC_X86_REG_EFLAGS))
