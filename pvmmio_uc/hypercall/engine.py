"""A `Cpu` on top of an engine: what the conventions see of a real guest."""

from __future__ import annotations

from unicorn import Uc

from ..arch.base import Arch
from ..memory import GuestMemory

__all__ = ["EngineCpu"]

_LAST = (1 << 64) - 1


class EngineCpu:
    """Registers by name, guest-physical memory and privilege of one engine, read when asked for."""

    def __init__(self, uc: Uc, arch: Arch, memory: GuestMemory) -> None:
        self._uc, self._arch, self._memory = uc, arch, memory

    @property
    def bits(self) -> int:
        """The width of hypercall registers."""
        return self._arch.call_bits(self._memory.read)

    @property
    def user_mode(self) -> bool:
        """Whether the caller is unprivileged."""
        return self._arch.user_mode()

    @property
    def protected_mode(self) -> bool:
        """CR0.PE on x86; True elsewhere."""
        return self._arch.protected_mode()

    def get(self, name: str) -> int:
        """A register in full width."""
        return int(self._uc.reg_read(self._arch.register(name)))

    def set(self, name: str, value: int) -> None:
        """Write one."""
        self._uc.reg_write(self._arch.register(name), value)

    def read(self, gpa: int, size: int) -> bytes | None:
        """Guest memory; None also for what lies past 2^64."""
        return self._memory.read(gpa, size) if 0 <= gpa <= _LAST - size else None

    def write(self, gpa: int, data: bytes) -> bool:
        """Store."""
        return 0 <= gpa <= _LAST - len(data) and self._memory.write(gpa, data)

    def patch_code(self, data: bytes) -> bool:
        """Overwrite the instruction at pc, which may cross a page."""
        gva = self._arch.fetch_address(self._memory.read)
        for offset in range(len(data)):
            walk = self._arch.walk(self._memory.read, gva + offset, fetch=True)
            if walk.gpa is None or not self._memory.write_reaches(walk.gpa, 1):
                return False
        for offset, byte in enumerate(data):
            gpa = self._arch.walk(self._memory.read, gva + offset, fetch=True).gpa
            if gpa is not None:
                self._memory.write(gpa, bytes((byte,)))
        self._uc.ctl_flush_tb()
        return True
