"""KVM's own conventions with the minimal PV MMIO calls: vmcall on x86, SMCCC on arm64, ePAPR on ppc.

Registers, privilege and unknown numbers are the kernel's (Documentation/virt/kvm/x86/hypercalls.rst,
arch/arm64/kvm/hypercalls.c, Documentation/virt/kvm/ppc-pv.rst); the numbers of the MMIO calls are this
project's, free in the sources and registered nowhere (docs/hypercalls.md).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import ClassVar

from ..device import ByteOrder
from .cpu import Call, Cpu, Outcome
from .operations import Operations, Refusal, Refused

__all__ = ["KvmArm64", "KvmPpc", "KvmX86", "Verb"]

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1


class Verb(Enum):
    """What a number asks for."""

    READ = "read"
    WRITE = "write"
    WRITE_LIST = "write list"


def _do(
    verb: Verb, operations: Operations, gpa: int, size: int, value: int, order: ByteOrder = "little"
) -> int:
    """The second result: a value read, a list's index (whose count is ``size``, its start ``value``)."""
    if verb is Verb.READ:
        return operations.read(gpa, size)
    if verb is Verb.WRITE:
        operations.write(gpa, size, value)
        return 0
    return operations.write_list(gpa, size, value, order)


def _outcome(verb: Verb, refused: Refused, size: int) -> int:
    """The second result of a refused call: ones for a read that nobody answered, a list's index."""
    if verb is Verb.READ and refused.refusal is Refusal.UNCLAIMED:
        return (1 << (8 * size)) - 1
    return refused.done if verb is Verb.WRITE_LIST else 0


class KvmX86:
    """vmcall and vmmcall, in 16-, 32- and 64-bit code.

    ``native`` is the processor's own instruction; KVM patches the other vendor's into it, unless
    ``patch`` (KVM_X86_QUIRK_FIX_HYPERCALL_INSN) is off, and then it is #UD. ``pkvm`` accepts 23 and
    24, the read and write calls of pKVM on x86, whose result register holds the value alone.
    """

    name = "kvm"
    instructions = frozenset({"vmcall", "vmmcall"})

    VERBS: ClassVar[dict[int, Verb]] = {26: Verb.READ, 27: Verb.WRITE, 28: Verb.WRITE_LIST}
    PKVM_READ, PKVM_WRITE = 23, 24
    EPERM, ENXIO, EFAULT, EINVAL, ENOSYS = -1, -6, -14, -22, -1000
    STATUS: ClassVar[dict[Refusal, int]] = {Refusal.UNCLAIMED: ENXIO, Refusal.LIST_UNREADABLE: EFAULT}
    CODE: ClassVar[dict[str, bytes]] = {"vmcall": b"\x0f\x01\xc1", "vmmcall": b"\x0f\x01\xd9"}

    SIGNATURE = b"KVMKVMKVM\0\0\0"
    FEATURE_BIT = 23

    def __init__(
        self, native: str = "vmcall", *, patch: bool = True, pkvm: bool = False, leaf: int = 0x4000_0000
    ) -> None:
        if native not in self.CODE:
            raise ValueError(f"native={native!r}: give 'vmcall' (Intel) or 'vmmcall' (AMD)")
        self.native, self._patch, self._pkvm, self.leaf = native, patch, pkvm, leaf
        self.offered = True

    def applies(self, cpu: Cpu, call: Call) -> bool:
        """Where no other convention does."""
        return call.instruction in self.instructions

    def number(self, cpu: Cpu) -> int:
        """RAX, or EAX."""
        return cpu.get("rax") & (U64 if cpu.bits == 64 else U32)

    def cpuid(self, leaf: int) -> tuple[int, int, int, int] | None:
        """The KVM leaves: signature and features, of which bit 23 is the PV MMIO calls."""
        if leaf == self.leaf:
            ebx, ecx, edx = (int.from_bytes(self.SIGNATURE[at : at + 4], "little") for at in (0, 4, 8))
            return self.leaf + 1, ebx, ecx, edx
        if leaf == self.leaf + 1:
            return (1 << self.FEATURE_BIT if self.offered else 0), 0, 0, 0
        return None

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        """One call; a foreign instruction is patched and executed again."""
        if call.instruction != self.native:
            return self.foreign(cpu, call)
        mask = U64 if cpu.bits == 64 else U32
        number = self.number(cpu)
        if cpu.user_mode:
            self._answer(cpu, self.EPERM)
        elif self._pkvm and self.offered and number in (self.PKVM_READ, self.PKVM_WRITE):
            self._pkvm_call(cpu, number, mask, operations)
        elif self.offered and number in self.VERBS:
            self._pv_mmio(cpu, self.VERBS[number], operations)
        else:
            self._answer(cpu, self.ENOSYS)
        return Outcome.DONE

    def foreign(self, cpu: Cpu, call: Call) -> Outcome:
        """The other vendor's instruction raises #UD, which KVM takes as a chance to mend it (emulate.c)."""
        if call.instruction == "vmcall" and cpu.user_mode:
            return Outcome.PROTECTION
        if call.instruction == "vmmcall" and not cpu.protected_mode:
            return Outcome.UNDEFINED
        if self._patch and cpu.patch_code(self.CODE[self.native]):
            return Outcome.RETRY
        return Outcome.UNDEFINED

    def _pv_mmio(self, cpu: Cpu, verb: Verb, operations: Operations) -> None:
        gpa, size, value = self._arguments(cpu, verb)
        try:
            status, second = 0, _do(verb, operations, gpa, size, value)
        except Refused as refused:
            status, second = self.STATUS.get(refused.refusal, self.EINVAL), _outcome(verb, refused, size)
        self._answer(cpu, status)
        if verb is Verb.WRITE:
            return
        if cpu.bits == 64:
            cpu.set("rdx", second)
        else:
            cpu.set("rdx", second & U32)
            if verb is Verb.READ:
                cpu.set("rsi", second >> 32)

    def _arguments(self, cpu: Cpu, verb: Verb) -> tuple[int, int, int]:
        """gpa, size, value; 32-bit code splits them over halves of registers."""
        rbx, rcx, rdx, rsi = (cpu.get(name) for name in ("rbx", "rcx", "rdx", "rsi"))
        if cpu.bits == 64:
            return rbx, rcx, rdx
        rbx, rcx, rdx, rsi = rbx & U32, rcx & U32, rdx & U32, rsi & U32
        if verb is Verb.WRITE_LIST:
            return rbx, rcx, rdx
        return rbx | (rcx >> 8) << 32, rcx & 0xFF, rdx | rsi << 32

    def _pkvm_call(self, cpu: Cpu, number: int, mask: int, operations: Operations) -> None:
        gpa, size, value = (cpu.get(name) & mask for name in ("rbx", "rcx", "rdx"))
        try:
            if number == self.PKVM_READ:
                cpu.set("rax", operations.read(gpa, size) & mask)
            else:
                operations.write(gpa, size, value)
                cpu.set("rax", 0)
        except Refused:
            cpu.set("rax", mask)  # there is no status: all ones is all that it can say

    @staticmethod
    def _answer(cpu: Cpu, status: int) -> None:
        cpu.set("rax", status & (U64 if cpu.bits == 64 else U32))


class KvmArm64:
    """SMCCC over hvc (any immediate) and smc #0: discovery, and the vendor-hypervisor calls 112 to 114."""

    name = "kvm"
    instructions = frozenset({"hvc", "smc"})

    VERBS: ClassVar[dict[int, Verb]] = {
        0xC600_0070: Verb.READ,
        0xC600_0071: Verb.WRITE,
        0xC600_0072: Verb.WRITE_LIST,
    }
    VERSION, VERSION_1_1, UID, FEATURES = 0x8000_0000, 0x1_0001, 0x8600_FF01, 0x8600_0000
    UID_WORDS = (0xB66F_B428, 0xE911_C52E, 0x564B_CAA9, 0x743A_004D)
    FEATURE_WORDS = (1, 0, 0, 0b111 << 16)
    SUCCESS, NOT_SUPPORTED, INVALID_PARAMETER, NO_DEVICE = 0, -1, -3, -4

    def __init__(self) -> None:
        self.offered = True

    def applies(self, cpu: Cpu, call: Call) -> bool:
        """Where no other convention does: KVM does not look at the immediate of hvc."""
        return call.instruction in self.instructions

    def number(self, cpu: Cpu) -> int:
        """W0."""
        return cpu.get("x0") & U32

    def cpuid(self, leaf: int) -> None:
        """There is none here."""

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        """One call; results are x0 to x3, zero where unused."""
        if cpu.user_mode:
            return Outcome.UNDEFINED
        if call.instruction == "smc" and call.immediate:
            cpu.set("x0", U64)
            return Outcome.DONE
        for name, value in zip(("x0", "x1", "x2", "x3"), self._results(cpu, operations), strict=True):
            cpu.set(name, value & U64)
        return Outcome.DONE

    def _results(self, cpu: Cpu, operations: Operations) -> tuple[int, int, int, int]:
        function = self.number(cpu)
        verb = self.VERBS.get(function)
        if verb is not None and self.offered:
            return (*self._pv_mmio(cpu, verb, operations), 0, 0)
        if function == self.VERSION:
            return self.VERSION_1_1, 0, 0, 0
        if function == self.UID:
            return self.UID_WORDS
        if function == self.FEATURES:
            return self.FEATURE_WORDS if self.offered else (1, 0, 0, 0)
        return self.NOT_SUPPORTED, 0, 0, 0

    def _pv_mmio(self, cpu: Cpu, verb: Verb, operations: Operations) -> tuple[int, int]:
        gpa, size, value = (cpu.get(name) for name in ("x1", "x2", "x3"))
        try:
            return self.SUCCESS, _do(verb, operations, gpa, size, value)
        except Refused as refused:
            unclaimed = refused.refusal is Refusal.UNCLAIMED
            status = self.NO_DEVICE if unclaimed else self.INVALID_PARAMETER
            return status, _outcome(verb, refused, size)


class KvmPpc:
    """ePAPR: the token in r11, `sc 1`, or on Book3S PR plain `sc` with "KVM!" in r0.

    ``magic`` is the PR form. ``order`` tells the byte order in which the guest lays out lists.
    """

    name = "kvm"
    instructions = frozenset({"sc"})

    VERBS: ClassVar[dict[int, Verb]] = {
        0x002A_001A: Verb.READ,
        0x002A_001B: Verb.WRITE,
        0x002A_001C: Verb.WRITE_LIST,
    }
    FEATURES, FEATURE_WORD, IDLE = 0x002A_0003, 1 << 2, 0x0001_0010
    MAGIC = 0x4B56_4D21
    SUCCESS, EFAULT, ENODEV, EINVAL, UNIMPLEMENTED = 0, 6, 7, 8, 12
    STATUS: ClassVar[dict[Refusal, int]] = {Refusal.UNCLAIMED: ENODEV, Refusal.LIST_UNREADABLE: EFAULT}

    def __init__(self, *, magic: bool = False, order: Callable[[], ByteOrder] = lambda: "big") -> None:
        self.magic, self._order = magic, order
        self.offered = True

    def applies(self, cpu: Cpu, call: Call) -> bool:
        """Where no other convention does."""
        return call.instruction in self.instructions

    def number(self, cpu: Cpu) -> int:
        """The token in r11."""
        return cpu.get("r11") & U32

    def cpuid(self, leaf: int) -> None:
        """There is none here."""

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        """One call; r3 is the status, r4 (and r5 in 32-bit mode) the result, r4 always written."""
        if self.magic:
            if cpu.user_mode or cpu.get("r0") & U32 != self.MAGIC:
                return Outcome.SYSCALL
        elif call.immediate != 1:
            return Outcome.SYSCALL
        elif cpu.user_mode:
            return Outcome.PROTECTION
        token = self.number(cpu)
        verb = self.VERBS.get(token)
        if verb is not None and self.offered:
            self._pv_mmio(cpu, verb, operations)
            return Outcome.DONE
        status = self.SUCCESS if token in (self.FEATURES, self.IDLE) else self.UNIMPLEMENTED
        cpu.set("r3", status)
        cpu.set("r4", self.FEATURE_WORD if token == self.FEATURES and self.offered else 0)
        return Outcome.DONE

    def _pv_mmio(self, cpu: Cpu, verb: Verb, operations: Operations) -> None:
        gpa, size, value = self._arguments(cpu, verb)
        try:
            status, second = self.SUCCESS, _do(verb, operations, gpa, size, value, self._order())
        except Refused as refused:
            status, second = self.STATUS.get(refused.refusal, self.EINVAL), _outcome(verb, refused, size)
        cpu.set("r3", status)
        if cpu.bits == 64:
            cpu.set("r4", second)
        else:
            cpu.set("r4", second >> 32)
            cpu.set("r5", second & U32)

    def _arguments(self, cpu: Cpu, verb: Verb) -> tuple[int, int, int]:
        """gpa, size, value; in 32-bit mode gpa and value are pairs of registers, the high half first."""
        if cpu.bits == 64:
            return cpu.get("r3"), cpu.get("r4"), cpu.get("r5")
        r3, r4, r5, r6, r7 = (cpu.get(f"r{number}") & U32 for number in range(3, 8))
        if verb is Verb.WRITE_LIST:
            return r3 << 32 | r4, r5, r6
        return r3 << 32 | r4, r5, r6 << 32 | r7
