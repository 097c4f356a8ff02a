"""Intel TDX: TDG.VP.VMCALL, the tdcall with which a trust domain asks its hypervisor for MMIO and ports.

Sources: arch/x86/kvm/vmx/tdx.c (tdx_emulate_mmio, tdx_emulate_io, tdx_emulate_vmcall,
tdx_get_td_vm_call_info) for the host; the TDX module (td_call, tdg_vp_vmcall) for what comes before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from .cpu import Call, Cpu, Outcome
from .delegate import call_kvm
from .kvm import KvmX86
from .operations import Operations, Refused, Rules

__all__ = ["Tdx"]

U16 = (1 << 16) - 1
U64 = (1 << 64) - 1

_RULES = Rules(aligned=False, not_memory=False, fast=True)
_REGISTERS = (*("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"), *(f"r{n}" for n in range(8, 16)))
_AS_NATIVE = {"rax": "r10", "rbx": "r11", "rcx": "r12", "rdx": "r13", "rsi": "r14"}


class _Exposed:
    """What the mask in RCX shows to the hypervisor: other registers read as 0 and stay as they are."""

    def __init__(self, cpu: Cpu, mask: int) -> None:
        self._cpu = cpu
        self._names = {name for number, name in enumerate(_REGISTERS) if mask >> number & 1}

    def __getitem__(self, name: str) -> int:
        return self._cpu.get(name) if name in self._names else 0

    def __setitem__(self, name: str, value: int) -> None:
        if name in self._names:
            self._cpu.set(name, value & U64)


class Tdx:
    """tdcall with RAX 0: RCX says which registers the hypervisor sees, R11 what it is asked for.

    * R11 48, RequestMMIO: R12 size (1, 2, 4, 8), R13 direction, R14 address with the shared bit set, R15
      value. A private address at either end is refused, nothing else is checked (not alignment, not RAM).
      A write asks the fast bus first.
    * R11 30, Instruction.IO: R12 size (1, 2, 4), R13 direction, R14 port (its lower 16 bits), R15 value.
    * R11 0x10000, GetTdVmCallInfo: R12 leaf 0 or 1; zeros, as no optional call is there.
    * R10 not 0: one of KVM's own calls, R10 its number, R11 to R14 for RBX, RCX, RDX, RSI. The status goes
      to R10; the value of the minimal interface to R13, as that is where RDX is.

    R10 is the status, R11 what was read. On success KVM leaves R10 as it is, which is 0, and after a
    write R11 as well. RAX is the TDX module's own status: an unknown leaf, or a mask with RAX, RCX, RSP
    or a bit above 31, never gets to the hypervisor. From user mode, and outside 64-bit code, tdcall is
    #GP(0). A read that nobody answers is ones with status success.

    ``shared_bit`` is 47, or 51 in a guest with 5-level paging.

    Left out: the module's own leaves, the calls for cpuid, hlt, MSRs, MapGPA, GetQuote and fatal errors
    (SUBFUNC_UNSUPPORTED), XMM registers, and Hyper-V's calls in R10. KVM looks at the lower 32 bits of size
    and direction of RequestMMIO; this looks at all 64.
    """

    name = "tdx"
    instructions = frozenset({"tdcall"})

    MMIO, IO, GET_INFO = 48, 30, 0x10000
    SUCCESS = 0
    INVALID_OPERAND = 0x8000_0000_0000_0000
    SUBFUNC_UNSUPPORTED = 0x8000_0000_0000_0003
    MODULE_OPERAND_INVALID = 0xC000_0100_0000_0000
    MODULE_OPERAND_RAX, MODULE_OPERAND_RCX = 0, 1
    NEVER_EXPOSED = 1 << 0 | 1 << 1 | 1 << 4 | U64 >> 32 << 32

    CPUID_LEAF = 0x21
    SIGNATURE = b"IntelTDX    "
    SHARED_BITS: ClassVar[tuple[int, int]] = (47, 51)

    def __init__(self, shared_bit: int = 47, *, kvm: KvmX86 | None = None) -> None:
        if shared_bit not in self.SHARED_BITS:
            raise ValueError(f"shared_bit={shared_bit}: give 47 (4-level paging) or 51 (5-level paging)")
        self._shared = 1 << shared_bit
        self._kvm = kvm or KvmX86()
        self._calls: dict[int, Callable[[_Exposed, Operations], int]] = {
            self.IO: self._io,
            self.GET_INFO: self._info,
        }

    @property
    def offered(self) -> bool:
        """Whether RequestMMIO is there, and of the native calls the PV MMIO ones."""
        return self._kvm.offered

    @offered.setter
    def offered(self, offered: bool) -> None:
        self._kvm.offered = offered

    def applies(self, cpu: Cpu, call: Call) -> bool:
        """The instruction says so."""
        return call.instruction in self.instructions

    def number(self, cpu: Cpu) -> int:
        """R10 where it is a native call, else R11."""
        return cpu.get("r10") or cpu.get("r11")

    def cpuid(self, leaf: int) -> tuple[int, int, int, int] | None:
        """Leaf 0x21: "IntelTDX    " in EBX, EDX, ECX."""
        if leaf != self.CPUID_LEAF:
            return None
        ebx, edx, ecx = (int.from_bytes(self.SIGNATURE[at : at + 4], "little") for at in (0, 4, 8))
        return 0, ebx, ecx, edx

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        """One call."""
        if cpu.user_mode or cpu.bits != 64:
            return Outcome.PROTECTION
        mask = cpu.get("rcx")
        if cpu.get("rax"):
            cpu.set("rax", self.MODULE_OPERAND_INVALID | self.MODULE_OPERAND_RAX)
        elif mask & self.NEVER_EXPOSED:
            cpu.set("rax", self.MODULE_OPERAND_INVALID | self.MODULE_OPERAND_RCX)
        else:
            self._vmcall(cpu, _Exposed(cpu, mask), operations)
        return Outcome.DONE

    def _vmcall(self, cpu: Cpu, registers: _Exposed, operations: Operations) -> None:
        if registers["r10"]:
            self._native(cpu, registers, operations)
            return
        function = registers["r11"]
        do = self._calls.get(function)
        if function == self.MMIO and self.offered:
            do = self._mmio
        status = self.SUBFUNC_UNSUPPORTED if do is None else do(registers, operations)
        if status != self.SUCCESS:
            registers["r10"] = status

    def _native(self, cpu: Cpu, registers: _Exposed, operations: Operations) -> None:
        arguments = {native: registers[name] for native, name in _AS_NATIVE.items()}
        results = call_kvm(self._kvm, cpu, arguments, operations, user_mode=False)
        registers["r10"], registers["r13"] = results["rax"], results["rdx"]

    def _mmio(self, registers: _Exposed, operations: Operations) -> int:
        size, write, gpa = registers["r12"], registers["r13"], registers["r14"]
        if size not in (1, 2, 4, 8) or write not in (0, 1):
            return self.INVALID_OPERAND
        if not gpa & self._shared or not (gpa + size - 1) & U64 & self._shared:
            return self.INVALID_OPERAND
        gpa &= ~self._shared
        try:
            if write:
                operations.write(gpa, size, registers["r15"], _RULES)
            else:
                registers["r11"] = operations.read(gpa, size, _RULES)
        except Refused:  # nobody there: user space leaves the bus's ones, and drops a write
            if not write:
                registers["r11"] = (1 << (8 * size)) - 1
        return self.SUCCESS

    def _io(self, registers: _Exposed, operations: Operations) -> int:
        size, write, port = registers["r12"], registers["r13"], registers["r14"] & U16
        if size not in (1, 2, 4) or write not in (0, 1):
            return self.INVALID_OPERAND
        if write:
            operations.port_write(port, size, registers["r15"])
        else:
            registers["r11"] = operations.port_read(port, size)
        return self.SUCCESS

    def _info(self, registers: _Exposed, operations: Operations) -> int:
        if registers["r12"] not in (0, 1):
            return self.INVALID_OPERAND
        for name in ("r11", "r12", "r13", "r14"):
            registers[name] = 0
        return self.SUCCESS
