"""Every exception that pvmmio_uc raises on its own behalf.

    PvMmioError
    +-- RegistrationError (also OSError)   the errno KVM_IOEVENTFD and its relatives return
    +-- AccessRefused                      a device declines an access: the bus fills reads with ones
    +-- GuestError                         the guest did what no hypervisor could complete
    |   +-- EmulationFailure               KVM_EXIT_INTERNAL_ERROR, suberror 1
    |   +-- GuestPageFault                 the guest's own page tables do not translate
    |   +-- FetchFromDevice                the guest jumped to where there is no memory
    |   +-- GuestCrash (also UcError)      an exception, or an instruction that the engine does not know
    |   +-- GuestException                 a hypercall that the architecture answers with an exception
    +-- UnsupportedArchitecture            no arch/ folder serves this engine
    +-- AssemblyError                      Keystone refused, or silently produced nothing
    +-- KvmError (also OSError)            /dev/kvm: pvmmio_uc.kvm
    +-- ScenarioError                      a scenario file that cannot be read

Warnings: NeverFires (a registration that is accepted and can never be hit).
"""

from __future__ import annotations

import errno
import os

__all__ = [
    "AccessRefused",
    "AssemblyError",
    "EmulationFailure",
    "FetchFromDevice",
    "GuestError",
    "GuestException",
    "GuestPageFault",
    "NeverFires",
    "PvMmioError",
    "RegistrationError",
    "ScenarioError",
    "UnsupportedArchitecture",
]


class PvMmioError(Exception):
    """The root of the tree above."""


class RegistrationError(PvMmioError, OSError):
    """A registration that KVM refuses; ``errno`` is the one its ioctl returns."""

    def __init__(self, code: int, reason: str) -> None:
        OSError.__init__(self, code, f"{os.strerror(code)}: {reason}")

    def __str__(self) -> str:
        name = errno.errorcode.get(self.errno or 0, str(self.errno))
        return f"[{name}] {self.strerror}"


class AccessRefused(PvMmioError):
    """Raised by a device for an access that it does not take.

    The width, the alignment or the offset does not fit. The bus counts the refusal, drops the write
    and fills a read with ones; the guest goes on.
    """


class GuestError(PvMmioError):
    """The guest did something that ends its run; ``pc`` is the instruction, ``address`` what it touched."""

    def __init__(self, message: str, *, pc: int, address: int | None = None) -> None:
        super().__init__(message)
        self.pc = pc
        self.address = address


class EmulationFailure(GuestError):
    """An instruction at a device that the emulator does not know: KVM_EXIT_INTERNAL_ERROR, suberror 1.

    ``insn_bytes`` are the bytes at ``pc``, which has not moved. Nothing was signalled.
    """

    def __init__(self, message: str, *, pc: int, address: int | None, insn_bytes: bytes) -> None:
        super().__init__(message, pc=pc, address=address)
        self.insn_bytes = insn_bytes


class GuestPageFault(GuestError):
    """A guest virtual address that the guest's own page tables do not translate."""


class FetchFromDevice(GuestError):
    """The guest executes at a guest-physical address where no memory slot is."""


class GuestException(GuestError):
    """The guest takes an exception, which the engine cannot deliver: ``kind`` is which.

    ``undefined`` is #UD, an undefined instruction, an illegal-instruction program interrupt;
    ``protection`` is #GP(0) or a privileged-instruction program interrupt. pc is at the instruction.
    """

    def __init__(self, message: str, *, pc: int, kind: str) -> None:
        super().__init__(message, pc=pc)
        self.kind = kind


class UnsupportedArchitecture(PvMmioError):
    """This engine, or this mode of it, has no folder under ``pvmmio_uc/arch``."""


class AssemblyError(PvMmioError):
    """Keystone could not assemble a stub."""


class ScenarioError(PvMmioError):
    """A scenario file is not in the format of tests/data/kvm/SCHEMA.md."""


class NeverFires(UserWarning):
    """A registration that is accepted, as on KVM, and that no guest access can ever reach."""
