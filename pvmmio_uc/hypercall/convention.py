"""What a convention is: registers to an operation, and the operation's result to registers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from .cpu import Call, Cpu, Outcome
from .operations import Operations

__all__ = ["Convention", "MsrOwner"]


class Convention(Protocol):
    """``handle`` does one call whole: privilege, number, checks, operation, result registers.

    It never moves pc (the outcome says what becomes of it), and writes nothing before its checks have
    passed. ``instructions`` are the mnemonics that it answers.
    """

    name: str
    instructions: frozenset[str]
    offered: bool
    """Whether the PV MMIO calls are there; withdrawn, they are unknown numbers and are not discovered."""

    def applies(self, cpu: Cpu, call: Call) -> bool:
        """Whether this convention is the one that answers ``call`` now."""

    def number(self, cpu: Cpu) -> int:
        """The call's number, for the record."""

    def cpuid(self, leaf: int) -> tuple[int, int, int, int] | None:
        """EAX, EBX, ECX, EDX of a leaf that belongs to this convention (x86), else None."""

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        """Answer the call at pc."""


@runtime_checkable
class MsrOwner(Protocol):
    """A convention that has model-specific registers of its own (x86)."""

    def read_msr(self, index: int) -> int | None:
        """One of its own, None for another."""

    def write_msr(self, index: int, value: int) -> bool:
        """Take a write to one of its own; False for another. MsrFault where the guest gets #GP(0)."""
