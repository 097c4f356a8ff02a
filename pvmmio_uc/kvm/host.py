"""Two things that /dev/kvm itself is asked: to be opened, and what a guest may be told about its CPU."""

from __future__ import annotations

import functools
import os

from . import ioctls
from .ioctls import KvmError, call

__all__ = ["DEVICE", "open_device", "supported_cpuid"]

DEVICE = "/dev/kvm"
_CPUID_ENTRIES = 256


def open_device() -> int:
    """A descriptor of /dev/kvm; KvmError where it cannot be opened."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as refused:
        raise KvmError(refused.errno or 0, f"{DEVICE}: {refused.strerror}") from None


@functools.cache
def supported_cpuid() -> bytes:
    """What KVM_GET_SUPPORTED_CPUID gives, ready for KVM_SET_CPUID2."""
    header = ioctls.KVM_CPUID2
    table = bytearray(header.size + _CPUID_ENTRIES * ioctls.KVM_CPUID_ENTRY_BYTES)
    header.pack_into(table, 0, _CPUID_ENTRIES)
    system = open_device()
    try:
        call(system, ioctls.KVM_GET_SUPPORTED_CPUID, table)
    finally:
        os.close(system)
    (entries,) = header.unpack_from(table)
    return bytes(table[: header.size + entries * ioctls.KVM_CPUID_ENTRY_BYTES])
