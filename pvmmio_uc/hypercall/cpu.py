"""What a convention sees of the machine: registers by name, guest memory, privilege. No engine.

A test gives it a dictionary, the plugin an engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

__all__ = ["Call", "Cpu", "Outcome"]


class Cpu(Protocol):
    """One vCPU, stopped at a hypercall instruction.

    ``bits`` is the width that the hypervisor takes registers in: on x86 64 only in 64-bit code, else
    32; on ppc by MSR.SF. ``user_mode`` is CPL above 0, EL0, or MSR.PR; ``protected_mode`` is CR0.PE
    on x86 and True elsewhere.
    """

    @property
    def bits(self) -> int:
        """32 or 64."""

    @property
    def user_mode(self) -> bool:
        """Whether the caller is unprivileged."""

    @property
    def protected_mode(self) -> bool:
        """False only in x86's real mode."""

    def get(self, name: str) -> int:
        """A register by its manual name, in full width: ``rax``, ``x0``, ``r3``, ``xmm0``."""

    def set(self, name: str, value: int) -> None:
        """Write it in full width."""

    def read(self, gpa: int, size: int) -> bytes | None:
        """Guest memory, or None where no slot holds all of it. A ``gpa`` may be any number."""

    def write(self, gpa: int, data: bytes) -> bool:
        """Store into guest memory; False where no writable slot holds all of it."""

    def patch_code(self, data: bytes) -> bool:
        """Overwrite the bytes of the instruction at pc; False where they cannot be written."""


@dataclass(frozen=True, slots=True)
class Call:
    """The instruction that trapped: mnemonic, length in bytes, immediate (0 where it has none)."""

    instruction: str
    pc: int
    length: int
    immediate: int = 0


class Outcome(Enum):
    """What becomes of the instruction."""

    DONE = "done"
    """Completed: pc moves behind it."""

    RETRY = "retry"
    """Goes on later: pc stays, the registers say how far it came."""

    UNDEFINED = "undefined"
    """#UD, an undefined instruction, an illegal-instruction program interrupt."""

    PROTECTION = "protection"
    """#GP(0), or a privileged-instruction program interrupt."""

    SYSCALL = "syscall"
    """An ordinary system call of the guest's own: not the hypervisor's business."""
