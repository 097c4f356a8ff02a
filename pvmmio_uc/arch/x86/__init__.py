"""x86: 16-, 32- and 64-bit code, paging on or off, port I/O."""

from __future__ import annotations

from typing import Any

from unicorn import Uc

from ...device import ByteOrder
from ..base import CallHandler, LoadStore, MsrHooks, PortHandler, fetch
from ..paging import ReadPhysical, Walk
from . import calls, decode, msr, paging, trap
from .registers import Registers, register

__all__ = ["X86"]


_WIDE = frozenset({"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip"})


class X86:
    """`pvmmio_uc.arch.base.Arch` for x86."""

    name = "x86"
    tiers = frozenset({"T0", "T1", "T2", "T3", "T4"})
    stage2_kinds: tuple[str, ...] = ("ept", "npt", "shadow")
    has_ports = True
    max_insn_bytes = 15

    def __init__(self, uc: Uc) -> None:
        self._uc = uc
        self._registers = Registers(uc)
        self._bits = self._registers.engine_bits

    def start_address(self) -> int:
        """Linear where the engine was opened in 16-bit mode, else EIP or RIP."""
        if self._registers.engine_bits == 16:
            return self._registers.real_mode_linear()
        return self._registers.pc()

    def go_to(self, address: int) -> None:
        """Write pc, less the segment's base where the address is linear."""
        self._registers.set_pc(self._registers.pc() + address - self._registers.linear_pc())

    def is_at(self, address: int) -> bool:
        """Compare with the linear address, also behind 64 KiB of a segment, where the engine cannot go on."""
        return self._registers.linear_pc() == address

    def pc(self) -> int:
        """IP, EIP or RIP."""
        return self._registers.pc()

    def set_pc(self, pc: int) -> None:
        """Write it."""
        self._registers.set_pc(pc)

    def advance_pc(self, length: int) -> None:
        """Add ``length``, wrapping at the width of the code segment."""
        self._registers.set_pc(
            (self._registers.pc() + length) & ((1 << (64 if self._bits == 64 else 32)) - 1)
        )

    def settle_exception(self) -> None:
        """The engine has it there."""

    def fetch_address(self, read: ReadPhysical) -> int:
        """CS base plus pc."""
        self._bits = self._registers.code_bits(read)
        base = self._registers.segment_base("cs", self._bits, read)
        return (base + self._registers.pc()) & ((1 << (64 if self._bits == 64 else 32)) - 1)

    def data_order(self) -> ByteOrder:
        """Always little."""
        return "little"

    def callback_order(self) -> ByteOrder:
        """Always little."""
        return "little"

    def walk(self, read: ReadPhysical, gva: int, *, fetch: bool = False) -> Walk:
        """Translate a linear address through CR3."""
        return paging.walk(self._uc, read, gva, fetch=fetch)

    def decode(self, read: ReadPhysical, code: bytes) -> LoadStore | None:
        """The load or store at pc, or None."""
        return decode.decode(self._registers, self._bits, read, code)

    def disassemble(self, code: bytes, pc: int) -> str:
        """One line of Intel syntax."""
        return decode.disassemble(code, pc, self._bits)

    def instruction_length(self, code: bytes) -> int:
        """1 to 15 bytes."""
        return decode.instruction_length(code, self._bits)

    def install_ports(self, read: ReadPhysical, handler: PortHandler) -> list[Any]:
        """Hook in, out, ins and outs."""
        return trap.install_ports(self._uc, lambda: (fetch(self, read), self._bits), handler)

    def install_calls(self, read: ReadPhysical, handler: CallHandler) -> list[Any]:
        """Hook vmcall, vmmcall, tdcall, vmgexit and cpuid."""
        return calls.install_calls(self._uc, lambda: fetch(self, read), self.register, handler)

    def install_msrs(self, read: ReadPhysical, handler: CallHandler) -> MsrHooks | None:
        """Hook rdmsr and wrmsr."""
        return msr.MsrTrap(
            self._uc,
            lambda gva: self.walk(read, gva, fetch=True),
            read,
            self.register,
            self._registers.cpl,
            handler,
        )

    def register(self, name: str) -> int:
        """``rax``, ``cs``, ``xmm0``; on an engine of 16 or 32 bits ``rax`` is EAX."""
        if self._registers.engine_bits < 64 and name in _WIDE:
            name = "e" + name[1:]
        return register(name)

    def user_mode(self) -> bool:
        """CPL: the lower bits of CS in protected mode, 3 in virtual-8086 mode."""
        return self._registers.cpl() > 0

    def protected_mode(self) -> bool:
        """CR0.PE."""
        return self._registers.protected_mode()

    def call_bits(self, read: ReadPhysical) -> int:
        """64 in 64-bit code, else 32 (is_64_bit_mode in arch/x86/kvm/x86.h)."""
        return 64 if self._registers.code_bits(read) == 64 else 32
