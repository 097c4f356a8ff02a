"""PowerPC, 32-bit: big-endian, little-endian through MSR.LE, translation on or off."""

from __future__ import annotations

from typing import Any

from unicorn import Uc

from ...device import ByteOrder
from ..base import CallHandler, LoadStore, MsrHooks, PortHandler, fetch
from ..paging import ReadPhysical, Walk
from . import calls, decode, paging, trap
from .registers import Registers, register

__all__ = ["Ppc"]


class Ppc:
    """`pvmmio_uc.arch.base.Arch` for 32-bit PowerPC."""

    name = "ppc"
    tiers = frozenset({"T0", "T1", "T2", "T3", "T4"})
    stage2_kinds: tuple[str, ...] = ("hv", "pr")
    has_ports = False
    max_insn_bytes = 4

    def __init__(self, uc: Uc) -> None:
        self._uc = uc
        self._registers = Registers(uc)

    def start_address(self) -> int:
        """NIP."""
        return self._registers.pc()

    def go_to(self, address: int) -> None:
        """Write pc."""
        self._registers.set_pc(address)

    def is_at(self, address: int) -> bool:
        """Compare with pc."""
        return self._registers.pc() == address

    def pc(self) -> int:
        """NIP."""
        return self._registers.pc()

    def set_pc(self, pc: int) -> None:
        """Write it."""
        self._registers.set_pc(pc)

    def advance_pc(self, length: int) -> None:
        """Add ``length``."""
        self._registers.set_pc(self._registers.pc() + length)

    def settle_exception(self) -> None:
        """The engine is one instruction ahead for faults, too."""
        self.advance_pc(-4)

    def fetch_address(self, read: ReadPhysical) -> int:
        """NIP."""
        return self._registers.pc()

    def data_order(self) -> ByteOrder:
        """By MSR.LE."""
        return self._registers.data_order()

    def callback_order(self) -> ByteOrder:
        """Always big, also where MSR.LE is set: the engine's target is big-endian."""
        return "big"

    def walk(self, read: ReadPhysical, gva: int, *, fetch: bool = False) -> Walk:
        """Translate through BATs, segments and the hashed page table."""
        return paging.walk(self._uc, read, gva, fetch=fetch)

    def decode(self, read: ReadPhysical, code: bytes) -> LoadStore | None:
        """The load or store at pc, or None."""
        return decode.decode(self._registers, code)

    def disassemble(self, code: bytes, pc: int) -> str:
        """One line of PowerPC assembly."""
        return decode.disassemble(code, pc, self._registers.data_order())

    def instruction_length(self, code: bytes) -> int:
        """4 bytes."""
        return decode.instruction_length(code)

    def install_ports(self, read: ReadPhysical, handler: PortHandler) -> list[Any]:
        """None: PowerPC has no ports."""
        return trap.install_ports(self._uc, lambda: (fetch(self, read), 32), handler)

    def install_calls(self, read: ReadPhysical, handler: CallHandler) -> list[Any]:
        """Hook sc."""
        return calls.install_calls(self._uc, lambda: fetch(self, read), handler)

    def install_msrs(self, read: ReadPhysical, handler: CallHandler) -> MsrHooks | None:
        """None: the hypervisor interfaces of PowerPC need none."""
        return None

    def register(self, name: str) -> int:
        """``r3``, ``msr``, ``ctr``."""
        return register(name)

    def user_mode(self) -> bool:
        """MSR.PR."""
        return self._registers.problem_state()

    def protected_mode(self) -> bool:
        """Always."""
        return True

    def call_bits(self, read: ReadPhysical) -> int:
        """64 where MSR.SF is set."""
        return self._registers.call_bits()
