"""arm64: A64 code at EL1 or EL0, MMU on or off."""

from __future__ import annotations

from typing import Any

from unicorn import Uc

from ...device import ByteOrder
from ..base import CallHandler, LoadStore, MsrHooks, PortHandler, fetch
from ..paging import ReadPhysical, Walk
from . import calls, decode, paging, trap
from .registers import Registers, register

__all__ = ["Arm64"]


class Arm64:
    """`pvmmio_uc.arch.base.Arch` for arm64."""

    name = "arm64"
    tiers = frozenset({"T0", "T1", "T2", "T3", "T4"})
    stage2_kinds: tuple[str, ...] = ("stage2",)
    has_ports = False
    max_insn_bytes = 4

    def __init__(self, uc: Uc) -> None:
        self._uc = uc
        self._registers = Registers(uc)

    def start_address(self) -> int:
        """PC."""
        return self._registers.pc()

    def go_to(self, address: int) -> None:
        """Write pc."""
        self._registers.set_pc(address)

    def is_at(self, address: int) -> bool:
        """Compare with pc."""
        return self._registers.pc() == address

    def pc(self) -> int:
        """PC."""
        return self._registers.pc()

    def set_pc(self, pc: int) -> None:
        """Write it."""
        self._registers.set_pc(pc)

    def advance_pc(self, length: int) -> None:
        """Add ``length``."""
        self._registers.set_pc(self._registers.pc() + length)

    def settle_exception(self) -> None:
        """The engine has it there."""

    def fetch_address(self, read: ReadPhysical) -> int:
        """PC."""
        return self._registers.pc()

    def data_order(self) -> ByteOrder:
        """Of the current exception level."""
        return self._registers.data_order()

    def callback_order(self) -> ByteOrder:
        """Always little."""
        return "little"

    def walk(self, read: ReadPhysical, gva: int, *, fetch: bool = False) -> Walk:
        """Translate through TTBR0_EL1 or TTBR1_EL1."""
        return paging.walk(self._uc, read, gva, fetch=fetch)

    def decode(self, read: ReadPhysical, code: bytes) -> LoadStore | None:
        """The load or store at pc, or None."""
        return decode.decode(self._registers, code)

    def disassemble(self, code: bytes, pc: int) -> str:
        """One line of A64 assembly."""
        return decode.disassemble(code, pc)

    def instruction_length(self, code: bytes) -> int:
        """4 bytes."""
        return decode.instruction_length(code)

    def install_ports(self, read: ReadPhysical, handler: PortHandler) -> list[Any]:
        """None: arm64 has no ports."""
        return trap.install_ports(self._uc, lambda: (fetch(self, read), 64), handler)

    def install_calls(self, read: ReadPhysical, handler: CallHandler) -> list[Any]:
        """Hook hvc and smc."""
        return calls.install_calls(self._uc, lambda: fetch(self, read), handler)

    def install_msrs(self, read: ReadPhysical, handler: CallHandler) -> MsrHooks | None:
        """None: the hypervisor interfaces of arm64 need none."""
        return None

    def register(self, name: str) -> int:
        """``x0``, ``w0``, ``sp``."""
        return register(name)

    def user_mode(self) -> bool:
        """EL0."""
        return self._registers.at_el0()

    def protected_mode(self) -> bool:
        """Always."""
        return True

    def call_bits(self, read: ReadPhysical) -> int:
        """64."""
        return 64
