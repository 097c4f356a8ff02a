"""The Hyper-V control word, its result, and which registers carry them on x64, x86-32 and arm64.

Sources: the Hyper-V TLFS, "Hypercall Interface"; arch/x86/kvm/hyperv.c (kvm_hv_hypercall); for arm64 and
for the place of register output microsoft/openvmm, vm/hv1/hv1_hypercall. Where they disagree KVM counts,
then the TLFS.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from .cpu import Cpu

__all__ = [
    "ARM64_HVC1",
    "ARM64_SMCCC",
    "HYPERV_FUNCTION_ID",
    "X86_32",
    "X86_64",
    "Control",
    "Layout",
    "Register",
    "Status",
    "result_word",
]

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1

HYPERV_FUNCTION_ID = 0x4600_0001
"""The SMCCC function id in w0 of every Hyper-V call by ``hvc #0``: yielding, SMC64, owner 6, function 1."""

_RESERVED = 0xF000_F000_F800_0000
"""Bits 31:27, 47:44 and 63:60. 31 is "is nested" in the TLFS; KVM counts it as reserved."""


class Status(IntEnum):
    """The HV_STATUS values that this host returns: bits 15:0 of the result."""

    SUCCESS = 0x00
    INVALID_HYPERCALL_CODE = 0x02
    INVALID_HYPERCALL_INPUT = 0x03
    INVALID_ALIGNMENT = 0x04
    INVALID_PARAMETER = 0x05
    ACCESS_DENIED = 0x06
    INVALID_PARTITION_ID = 0x0D
    INVALID_VP_INDEX = 0x0E
    NOT_FOUND = 0x10
    INVALID_PORT_ID = 0x11
    INVALID_CONNECTION_ID = 0x12


def result_word(status: int, reps: int = 0) -> int:
    """The 64-bit result: the status, and in bits 43:32 the reps completed (counted from the list's start)."""
    return status | reps << 32


@dataclass(frozen=True, slots=True)
class Control:
    """The hypercall input value, 64 bits."""

    raw: int

    @property
    def code(self) -> int:
        """Bits 15:0."""
        return self.raw & 0xFFFF

    @property
    def fast(self) -> bool:
        """Bit 16: the parameters are in registers."""
        return bool(self.raw >> 16 & 1)

    @property
    def variable(self) -> int:
        """Bits 26:17: the size of a variable header, in quadwords."""
        return self.raw >> 17 & 0x3FF

    @property
    def rep_count(self) -> int:
        """Bits 43:32: the elements of the list."""
        return self.raw >> 32 & 0xFFF

    @property
    def rep_start(self) -> int:
        """Bits 59:48: the first element that is still to do."""
        return self.raw >> 48 & 0xFFF

    @property
    def reserved(self) -> int:
        """The bits that must be zero, in place."""
        return self.raw & _RESERVED

    @property
    def is_simple(self) -> bool:
        """No list and no variable header."""
        return not (self.rep_count or self.rep_start or self.variable)

    @property
    def is_rep(self) -> bool:
        """A list with something left to do, and no variable header."""
        return self.rep_start < self.rep_count and not self.variable


@dataclass(frozen=True, slots=True)
class Register:
    """A value in one register, or in several from the lowest bits up; ``bits`` of each are used."""

    names: tuple[str, ...]
    bits: int = 64

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.names) * self.bits // 8

    def get(self, cpu: Cpu) -> int:
        """The value; what is above ``bits`` of a register is ignored."""
        mask = (1 << self.bits) - 1
        return sum((cpu.get(name) & mask) << self.bits * index for index, name in enumerate(self.names))

    def set(self, cpu: Cpu, value: int) -> None:
        """Write it, each part zero-extended into its register."""
        mask = (1 << self.bits) - 1
        for index, name in enumerate(self.names):
            cpu.set(name, value >> self.bits * index & mask)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which register holds what.

    ``first`` is the input block's gpa, or the first 8 bytes of register input; ``second`` the output
    block's, or the second 8 bytes. ``block`` is all of register input in order. ``output`` says where
    register output goes: ``after`` the input rounded up to 16 bytes, into the ``last`` registers of the
    block, or nowhere.
    """

    name: str
    control: Register
    first: Register
    second: Register
    result: Register
    block: tuple[Register, ...]
    output: Literal["after", "last", "none"]

    def inputs(self, size: int) -> tuple[Register, ...] | None:
        """The registers of ``size`` bytes of input; None where they do not fit."""
        return self._cover(0, size)

    def outputs(self, input_size: int, size: int) -> tuple[Register, ...] | None:
        """The registers of ``size`` bytes of output behind ``input_size`` bytes of input; None likewise."""
        if self.output == "none":
            return None
        after = _up_to_16(input_size)
        last = sum(register.size for register in self.block) - _up_to_16(size)
        if last < after:
            return None
        return self._cover(after if self.output == "after" else last, size)

    def _cover(self, start: int, size: int) -> tuple[Register, ...] | None:
        covered, at = [], 0
        for register in self.block:
            if start <= at < start + size:
                covered.append(register)
            at += register.size
        return tuple(covered) if start + size <= at else None


def _up_to_16(size: int) -> int:
    return (size + 15) & ~15


def _each(prefix: str, first: int, last: int, bits: int = 64) -> tuple[Register, ...]:
    return tuple(Register((f"{prefix}{number}",), bits) for number in range(first, last + 1))


_XMM = _each("xmm", 0, 5, bits=128)

X86_64 = Layout(
    "x64",
    control=Register(("rcx",)),
    first=Register(("rdx",)),
    second=Register(("r8",)),
    result=Register(("rax",)),
    block=(Register(("rdx",)), Register(("r8",)), *_XMM),
    output="after",
)

X86_32 = Layout(
    "x86-32",
    control=Register(("rax", "rdx"), 32),
    first=Register(("rcx", "rbx"), 32),
    second=Register(("rsi", "rdi"), 32),
    result=Register(("rax", "rdx"), 32),
    block=(Register(("rcx", "rbx"), 32), Register(("rsi", "rdi"), 32), *_XMM),
    output="none",
)
"""The TLFS lists XMM0-5 here too, and KVM reads them in 32-bit code; OpenVMM stops at 16 bytes."""

ARM64_SMCCC = Layout(
    "arm64 hvc #0",
    control=Register(("x1",)),
    first=Register(("x2",)),
    second=Register(("x3",)),
    result=Register(("x0",)),
    block=_each("x", 2, 17),
    output="after",
)

ARM64_HVC1 = Layout(
    "arm64 hvc #1",
    control=Register(("x0",)),
    first=Register(("x1",)),
    second=Register(("x2",)),
    result=Register(("x0",)),
    block=_each("x", 1, 16),
    output="last",
)
"""The block and the place of its output are OpenVMM's; the TLFS says X1-X17 and calls them sixteen."""
