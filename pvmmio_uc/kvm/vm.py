"""A VM of the real kernel: memory slots, ioeventfds, coalesced zones, and one vCPU to run code on."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from ..coalesced import CoalescedEntry
from ..errors import RegistrationError
from ..exits import UserspaceExit
from ..ioeventfd import IoEventFdFlag
from . import guest, ioctls
from .host import open_device, supported_cpuid
from .ioctls import KvmError, Request, call, check_extension
from .vcpu import KvmVcpu, OnExit

__all__ = ["HasFileno", "KvmResult", "KvmVm"]

_PAGE = 4096


class HasFileno(Protocol):
    """An EventFd, or any other object with a descriptor."""

    def fileno(self) -> int:
        """The descriptor; ValueError when it is closed."""


@dataclass(slots=True)
class KvmResult:
    """What `KvmVm.run` brought about.

    ``end``: ``hlt`` (it came to its end), ``exc<v>`` (exception v), ``hang``, ``internal1`` (an instruction
    that KVM does not emulate), ``shutdown``, ``exit<n>``; see `KvmVcpu.run`. ``exits`` are those to user
    space, in order, with what was answered. ``registers`` holds rax .. r15, rip and rflags afterwards.
    """

    end: str
    exits: list[UserspaceExit] = field(default_factory=list)
    registers: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Slot:
    gpa: int
    memory: mmap.mmap

    def offset(self, gpa: int, size: int) -> int | None:
        inside = self.gpa <= gpa and gpa + size <= self.gpa + len(self.memory)
        return gpa - self.gpa if inside else None


class KvmVm:
    """A virtual machine on /dev/kvm with 256 KiB of RAM at gpa 0; everything else is MMIO.

        with KvmVm() as vm, EventFd() as bell:
            vm.ioeventfd(bell, 0xFE000000, 4)
            result = vm.run(b"\\x89\\x07", registers={"rdi": 0xFE000000})    # mov [rdi], eax
            bell.count, result.end, result.exits                            # 1, "hlt", []

    Raises KvmError with the call that was refused; ask `available` first. Used from one thread at a time.

    Do not run a 16-byte store that begins 1 to 7 bytes before a page with an 8-byte datamatch at its start,
    nor ``rep ins`` to an MMIO address with a datamatch: many kernels compare a datamatch through a pointer
    that they insist is aligned (BUG_ON in ioeventfd_in_range), and here it would not be.
    """

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._vcpu: KvmVcpu | None = None
        self._irqchip = False
        self._code_end = guest.CODE
        with ExitStack() as opened:
            system = open_device()
            with ExitStack() as brief:
                brief.callback(os.close, system)
                self.fd = call(system, ioctls.KVM_CREATE_VM)
                opened.callback(os.close, self.fd)
                self._run_size = call(system, ioctls.KVM_GET_VCPU_MMAP_SIZE)
                self._ring_at = check_extension(system, ioctls.KVM_CAP_COALESCED_MMIO) * _PAGE
            self._resources = opened
            self.add_memory(0, guest.RAM_SIZE)
            self.write_memory(guest.TABLES, guest.tables())
            self._resources = opened.pop_all()

    def __enter__(self) -> KvmVm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_resources"):
            self.close()

    def close(self) -> None:
        """Destroy the VM and with it every registration. No descriptor and no mapping stays."""
        self._vcpu = None
        self._slots.clear()
        self._resources.close()
        self.fd = -1  # the number may soon be another file's

    # -- the bus ----------------------------------------------------------------------------------------

    def ioeventfd(
        self, fd: HasFileno | int, addr: int, length: int = 0, flags: int = 0, datamatch: int = 0
    ) -> None:
        """KVM_IOEVENTFD as it is: assign, or with IoEventFdFlag.DEASSIGN in ``flags`` deassign.

        Nothing is checked here that the kernel checks. Raises RegistrationError with its errno: EINVAL,
        EBADF, EEXIST, ENOSPC, ENOENT; also EINVAL for numbers that the structure has no room for.
        """
        what = f"addr {addr:#x}, len {length:#x}, flags {flags:#x}, datamatch {datamatch:#x}"
        fields = (datamatch, addr, length, _descriptor(fd), flags)
        self._register(ioctls.KVM_IOEVENTFD, _pack(ioctls.KVM_IOEVENTFD_ARGS, what, *fields), what)

    def deassign(
        self, fd: HasFileno | int, addr: int, length: int = 0, flags: int = 0, datamatch: int = 0
    ) -> None:
        """`ioeventfd` with the DEASSIGN flag: all arguments as at registration."""
        self.ioeventfd(fd, addr, length, flags | IoEventFdFlag.DEASSIGN, datamatch)

    def register_zone(self, addr: int, size: int, pio: int = 0) -> None:
        """KVM_REGISTER_COALESCED_MMIO: writes inside go to the ring. RegistrationError: EINVAL, ENOSPC."""
        self._zone(ioctls.KVM_REGISTER_COALESCED_MMIO, addr, size, pio)

    def unregister_zone(self, addr: int, size: int, pio: int = 0) -> None:
        """KVM_UNREGISTER_COALESCED_MMIO: all zones that contain the range go. RegistrationError: EINVAL."""
        self._zone(ioctls.KVM_UNREGISTER_COALESCED_MMIO, addr, size, pio)

    def drain(self) -> list[CoalescedEntry]:
        """Take everything out of the coalesced ring, oldest first."""
        if self._vcpu is None:
            return []
        header, entry = ioctls.KVM_COALESCED_RING, ioctls.KVM_COALESCED_ENTRY
        page = self._vcpu.read_shared(self._ring_at, _PAGE)
        first, last = header.unpack_from(page)
        slots = (_PAGE - header.size) // entry.size
        entries = []
        while first != last:
            addr, length, pio, data = entry.unpack_from(page, header.size + first * entry.size)
            entries.append(CoalescedEntry(bool(pio), addr, data[:length]))
            first = (first + 1) % slots
        self._vcpu.write_shared(self._ring_at, first.to_bytes(4, "little"))
        return entries

    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP; comes before the first run. RegistrationError: EEXIST, EINVAL, ENOSPC."""
        self._register(ioctls.KVM_CREATE_IRQCHIP, 0, "the vCPU exists already" if self._vcpu else "irqchip")
        self._irqchip = True

    def create_pit(self) -> None:
        """KVM_CREATE_PIT2. RegistrationError: ENOENT without the irqchip, EEXIST, ENOSPC."""
        self._register(ioctls.KVM_CREATE_PIT2, ioctls.KVM_PIT_CONFIG.pack(0), "PIT")

    # -- memory -----------------------------------------------------------------------------------------

    def add_memory(self, gpa: int, size: int, *, readonly: bool = False) -> None:
        """One more memory slot; both numbers in bytes and whole pages. A write to a read-only one is MMIO.

        Raises KvmError (EINVAL: not whole pages, EEXIST: overlaps another slot).
        """
        with ExitStack() as opened:
            memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            opened.callback(memory.close)
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            flags = ioctls.KVM_MEM_READONLY if readonly else 0
            region = ioctls.KVM_USERSPACE_MEMORY_REGION.pack(len(self._slots), flags, gpa, size, address)
            call(self.fd, ioctls.KVM_SET_USER_MEMORY_REGION, region)
            self._slots.append(_Slot(gpa, memory))
            self._resources.push(opened.pop_all())

    def read_memory(self, gpa: int, size: int) -> bytes:
        """``size`` bytes of a memory slot; ValueError where there is none."""
        slot, at = self._find(gpa, size)
        return slot.memory[at : at + size]

    def write_memory(self, gpa: int, data: bytes) -> None:
        """Store to a memory slot, a read-only one too; ValueError where there is none."""
        slot, at = self._find(gpa, len(data))
        slot.memory[at : at + len(data)] = data

    # -- the guest --------------------------------------------------------------------------------------

    @property
    def vcpu(self) -> KvmVcpu:
        """The vCPU, made at its first use; `create_irqchip` must come before that."""
        if self._vcpu is None:
            self._vcpu = KvmVcpu(self.fd, self._run_size, supported_cpuid(), irqchip=self._irqchip)
            self._resources.callback(self._vcpu.close)
        return self._vcpu

    def run(
        self,
        code: bytes,
        registers: Mapping[str, int] | None = None,
        *,
        on_exit: OnExit | None = None,
        timeout: float = 1.0,
    ) -> KvmResult:
        """Run machine code (x86-64, CPL 0, interrupts off) from 0x1000 up to the hlt that is put behind it.

        All general registers start as 0 except rsp = 0x20000 and those in ``registers`` (rax .. r15, rip,
        rflags); XMM registers and memory keep what they had. ``on_exit`` is called for every access that
        nobody on the bus took; what it returns (bytes in memory order, or a number) answers a read, which
        else reads as ones. ``timeout`` is in seconds of guest time. See `pvmmio_uc.kvm.guest` for what is
        where, `KvmVcpu.run` for what is raised.
        """
        start = {"rip": guest.CODE, "rsp": guest.STACK, **(registers or {})}
        self._load(code)
        self.vcpu.reset(start)
        result = KvmResult("")
        result.end = self.vcpu.run(result.exits, on_exit, timeout)
        result.registers = self.vcpu.registers
        if result.end == "hlt":
            exception = guest.exception_at(result.registers["rip"])
            result.end = "hlt" if exception is None else f"exc{exception}"
        return result

    def _load(self, code: bytes) -> None:
        end = guest.CODE + len(code) + 1
        if end > guest.CODE_LIMIT:
            raise ValueError(
                f"{len(code):#x} bytes of code: there is room for {guest.CODE_LIMIT - guest.CODE - 1:#x}"
            )
        self.write_memory(guest.CODE, code + b"\xf4" + bytes(max(0, self._code_end - end)))
        self._code_end = end

    def _find(self, gpa: int, size: int) -> tuple[_Slot, int]:
        for slot in self._slots:
            at = slot.offset(gpa, size)
            if at is not None:
                return slot, at
        raise ValueError(f"no memory slot holds {size:#x} bytes at {gpa:#x}")

    def _zone(self, request: Request, addr: int, size: int, pio: int) -> None:
        what = f"addr {addr:#x}, size {size:#x}, pio {pio:#x}"
        self._register(request, _pack(ioctls.KVM_COALESCED_ZONE, what, addr, size, pio), what)

    def _register(self, request: Request, argument: int | bytes, what: str) -> None:
        try:
            call(self.fd, request, argument)
        except KvmError as refused:
            raise RegistrationError(refused.errno or 0, f"{request.name}: {what}") from None


def _descriptor(source: HasFileno | int) -> int:
    if isinstance(source, int):
        return source
    try:
        return source.fileno()
    except ValueError as closed:
        raise RegistrationError(errno.EBADF, f"{source!r}: {closed}") from None


def _pack(layout: struct.Struct, what: str, *fields: int) -> bytes:
    try:
        return layout.pack(*fields)
    except struct.error as wide:
        raise RegistrationError(errno.EINVAL, f"{what}: {wide}") from None
