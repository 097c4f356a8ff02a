"""The native KVM calls inside another convention: their registers under other names, or in a page."""

from __future__ import annotations

from collections.abc import Mapping

from .cpu import Call, Cpu
from .kvm import KvmX86
from .operations import Operations

__all__ = ["call_kvm"]


def call_kvm(
    kvm: KvmX86, cpu: Cpu, registers: Mapping[str, int], operations: Operations, *, user_mode: bool
) -> dict[str, int]:
    """One native call with ``registers`` (rax, rbx, rcx, rdx, rsi); the registers behind it.

    The guest's state is hidden from the hypervisor here, and so KVM takes the call as 64-bit code's
    (is_64_bit_hypercall). Nothing is patched: the instruction is not the native one.
    """
    view = _View(cpu, registers, user_mode)
    kvm.handle(view, Call(kvm.native, 0, 3), operations)
    return view.registers


class _View:
    bits = 64
    protected_mode = True

    def __init__(self, cpu: Cpu, registers: Mapping[str, int], user_mode: bool) -> None:
        self._cpu, self.registers, self.user_mode = cpu, dict(registers), user_mode

    def get(self, name: str) -> int:
        return self.registers[name]

    def set(self, name: str, value: int) -> None:
        self.registers[name] = value

    def read(self, gpa: int, size: int) -> bytes | None:
        return self._cpu.read(gpa, size)

    def write(self, gpa: int, data: bytes) -> bool:
        return self._cpu.write(gpa, data)

    def patch_code(self, data: bytes) -> bool:
        return False
