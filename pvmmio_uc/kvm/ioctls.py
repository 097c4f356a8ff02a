"""/dev/kvm's numbers and layouts, as data under their uapi names, and the one way to call them.

Source: include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h, for x86-64 hosts;
Documentation/virt/kvm/api.rst tells what each call does.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from ctypes import Structure, Union, c_uint8, c_uint16, c_uint32, c_uint64
from typing import NamedTuple

from ..errors import PvMmioError

__all__ = ["KvmError", "Request", "call", "check_extension"]


class KvmError(PvMmioError, OSError):
    """/dev/kvm refused a call that is no registration; ``errno`` is what it gave."""


class Request(NamedTuple):
    """An ioctl: its uapi name and the number that the macro of that name expands to."""

    name: str
    number: int


_KVMIO = 0xAE
_WRITE, _READ = 1, 2  # user space's view: _IOW hands a structure over, _IOR gets one back


def _request(name: str, nr: int, size: int = 0, direction: int = 0) -> Request:
    return Request(name, direction << 30 | size << 16 | _KVMIO << 8 | nr)


# On /dev/kvm
KVM_GET_API_VERSION = _request("KVM_GET_API_VERSION", 0x00)
KVM_CREATE_VM = _request("KVM_CREATE_VM", 0x01)
KVM_CHECK_EXTENSION = _request("KVM_CHECK_EXTENSION", 0x03)
KVM_GET_VCPU_MMAP_SIZE = _request("KVM_GET_VCPU_MMAP_SIZE", 0x04)
KVM_GET_SUPPORTED_CPUID = _request("KVM_GET_SUPPORTED_CPUID", 0x05, 8, _READ | _WRITE)

# On a VM
KVM_CREATE_VCPU = _request("KVM_CREATE_VCPU", 0x41)
KVM_SET_USER_MEMORY_REGION = _request("KVM_SET_USER_MEMORY_REGION", 0x46, 32, _WRITE)
KVM_CREATE_IRQCHIP = _request("KVM_CREATE_IRQCHIP", 0x60)
KVM_REGISTER_COALESCED_MMIO = _request("KVM_REGISTER_COALESCED_MMIO", 0x67, 16, _WRITE)
KVM_UNREGISTER_COALESCED_MMIO = _request("KVM_UNREGISTER_COALESCED_MMIO", 0x68, 16, _WRITE)
KVM_CREATE_PIT2 = _request("KVM_CREATE_PIT2", 0x77, 64, _WRITE)
KVM_IOEVENTFD = _request("KVM_IOEVENTFD", 0x79, 64, _WRITE)

# On a vCPU
KVM_RUN = _request("KVM_RUN", 0x80)
KVM_GET_REGS = _request("KVM_GET_REGS", 0x81, 144, _READ)
KVM_SET_REGS = _request("KVM_SET_REGS", 0x82, 144, _WRITE)
KVM_GET_SREGS = _request("KVM_GET_SREGS", 0x83, 312, _READ)
KVM_SET_SREGS = _request("KVM_SET_SREGS", 0x84, 312, _WRITE)
KVM_SET_SIGNAL_MASK = _request("KVM_SET_SIGNAL_MASK", 0x8B, 4, _WRITE)
KVM_SET_CPUID2 = _request("KVM_SET_CPUID2", 0x90, 8, _WRITE)
KVM_GET_MP_STATE = _request("KVM_GET_MP_STATE", 0x98, 4, _READ)
KVM_SET_MP_STATE = _request("KVM_SET_MP_STATE", 0x99, 4, _WRITE)

KVM_API_VERSION = 12

KVM_CAP_USER_MEMORY = 3
KVM_CAP_EXT_CPUID = 7
KVM_CAP_COALESCED_MMIO = 15
KVM_CAP_IOEVENTFD = 36
KVM_CAP_READONLY_MEM = 81
KVM_CAP_IOEVENTFD_ANY_LENGTH = 122
KVM_CAP_IMMEDIATE_EXIT = 136
KVM_CAP_COALESCED_PIO = 162

KVM_MEM_READONLY = 2

KVM_EXIT_IO = 2
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_INTERNAL_ERROR = 17

KVM_EXIT_IO_OUT = 1

KVM_MP_STATE_RUNNABLE = 0
KVM_MP_STATE_HALTED = 3

# Layouts for struct.pack, where a ctypes class would only be in the way
KVM_USERSPACE_MEMORY_REGION = struct.Struct(
    "<IIQQQ"
)  # slot, flags, guest_phys_addr, memory_size, userspace_addr
KVM_IOEVENTFD_ARGS = struct.Struct("<QQIiI36x")  # datamatch, addr, len, fd, flags
KVM_COALESCED_ZONE = struct.Struct("<QII")  # addr, size, pio
KVM_COALESCED_RING = struct.Struct("<II")  # first, last
KVM_COALESCED_ENTRY = struct.Struct("<QII8s")  # phys_addr, len, pio, data
KVM_PIT_CONFIG = struct.Struct("<I60x")  # flags
KVM_SIGNAL_MASK = struct.Struct("<IQ")  # len, sigset
KVM_CPUID2 = struct.Struct("<I4x")  # nent, followed by the entries
KVM_CPUID_ENTRY_BYTES = 40


class KvmRegs(Structure):
    """struct kvm_regs."""

    NAMES = (
        *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
        *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
    )
    _fields_ = tuple((name, c_uint64) for name in NAMES)


class KvmSegment(Structure):
    """struct kvm_segment."""

    _fields_ = (
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        *(
            (name, c_uint8)
            for name in ("type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable", "padding")
        ),
    )


class KvmDtable(Structure):
    """struct kvm_dtable."""

    base: int
    limit: int
    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


class KvmSregs(Structure):
    """struct kvm_sregs."""

    gdt: KvmDtable
    idt: KvmDtable
    cr0: int
    cr3: int
    cr4: int
    efer: int
    SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
    _fields_ = (
        *((name, KvmSegment) for name in SEGMENTS),
        ("gdt", KvmDtable),
        ("idt", KvmDtable),
        *((name, c_uint64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", c_uint64 * 4),
    )


class _ExitIo(Structure):
    direction: int
    size: int
    port: int
    count: int
    data_offset: int
    _fields_ = (
        ("direction", c_uint8),
        ("size", c_uint8),
        ("port", c_uint16),
        ("count", c_uint32),
        ("data_offset", c_uint64),
    )


class _ExitMmio(Structure):
    phys_addr: int
    data: ctypes.Array[c_uint8]
    len: int
    is_write: int
    _fields_ = (("phys_addr", c_uint64), ("data", c_uint8 * 8), ("len", c_uint32), ("is_write", c_uint8))


class _ExitInternal(Structure):
    suberror: int
    _fields_ = (("suberror", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16))


class _ExitUnion(Union):
    io: _ExitIo
    mmio: _ExitMmio
    internal: _ExitInternal
    _fields_ = (("io", _ExitIo), ("mmio", _ExitMmio), ("internal", _ExitInternal), ("padding", c_uint8 * 256))


class KvmRun(Structure):
    """The head of struct kvm_run, as far as the exits that end up here need it."""

    immediate_exit: int
    exit_reason: int
    exit: _ExitUnion
    _fields_ = (
        ("request_interrupt_window", c_uint8),
        ("immediate_exit", c_uint8),
        ("padding1", c_uint8 * 6),
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8),
        ("if_flag", c_uint8),
        ("flags", c_uint16),
        ("cr8", c_uint64),
        ("apic_base", c_uint64),
        ("exit", _ExitUnion),
    )


def call(fd: int, request: Request, argument: int | bytes | bytearray | Structure = 0) -> int:
    """One ioctl; a bytearray or Structure is also written to. KvmError names the call that was refused."""
    if fd < 0:
        raise KvmError(errno.EBADF, f"{request.name}: Bad file descriptor: the VM is closed")
    try:
        if isinstance(argument, bytes):
            argument = bytearray(argument)  # from bytes, fcntl.ioctl returns the buffer and not the result
        result: int = fcntl.ioctl(fd, request.number, argument)
    except OSError as refused:
        code = refused.errno or 0
        raise KvmError(code, f"{request.name} ({request.number:#x}): {os.strerror(code)}") from None
    return result


def check_extension(fd: int, capability: int) -> int:
    """KVM_CHECK_EXTENSION on /dev/kvm or on a VM: 0 where the kernel cannot do it."""
    return call(fd, KVM_CHECK_EXTENSION, capability)
