"""What the tests of KVM's convention on x86 share: numbers, errnos, and one call."""

from __future__ import annotations

import pytest

from pvmmio_uc.hypercall.cpu import Call, Outcome
from pvmmio_uc.hypercall.kvm import KvmX86

from .fakes import U32, U64, Board, FakeCpu

READ, WRITE, WRITE_LIST, PKVM_READ, PKVM_WRITE = 26, 27, 28, 23, 24
EPERM, ENXIO, EFAULT, EINVAL, ENOSYS = 1, 6, 14, 22, 1000
VMCALL, VMMCALL = Call("vmcall", 0x1000, 3), Call("vmmcall", 0x1000, 3)


both = pytest.mark.parametrize("bits", [64, 32])


def error(number: int, bits: int) -> int:
    """-number in RAX, or zero-extended from EAX."""
    return -number & (U64 if bits == 64 else U32)


def registers(bits: int, number: int, gpa: int, length: int, data: int = 0) -> dict[str, int]:
    """A read or write as the two widths pass it."""
    if bits == 64:
        return {"rax": number, "rbx": gpa, "rcx": length, "rdx": data}
    return {
        "rax": number,
        "rbx": gpa & U32,
        "rcx": length | gpa >> 32 << 8,
        "rdx": data & U32,
        "rsi": data >> 32,
    }


def call(board: Board, bits: int = 64, convention: KvmX86 | None = None, **regs: int) -> FakeCpu:
    cpu = FakeCpu(board.memory, bits=bits, **regs)
    operations = board.operations()
    assert (convention or KvmX86()).handle(cpu, VMCALL, operations) is Outcome.DONE
    cpu.accesses = operations.accesses
    return cpu


def result(cpu: FakeCpu) -> int:
    """What a read gave."""
    low, high = cpu.get("rdx"), cpu.get("rsi")
    return low if cpu.bits == 64 else low | high << 32
