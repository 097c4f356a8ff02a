"""Whether the real kernel can be asked on this host, and what kind of host it is."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

from . import ioctls
from .host import DEVICE, open_device
from .ioctls import call, check_extension
from .vm import KvmVm

__all__ = ["available", "stage2"]

_NEEDED = {
    "KVM_CAP_USER_MEMORY": ioctls.KVM_CAP_USER_MEMORY,
    "KVM_CAP_EXT_CPUID": ioctls.KVM_CAP_EXT_CPUID,
    "KVM_CAP_COALESCED_MMIO": ioctls.KVM_CAP_COALESCED_MMIO,
    "KVM_CAP_COALESCED_PIO": ioctls.KVM_CAP_COALESCED_PIO,
    "KVM_CAP_IOEVENTFD": ioctls.KVM_CAP_IOEVENTFD,
    "KVM_CAP_IOEVENTFD_ANY_LENGTH": ioctls.KVM_CAP_IOEVENTFD_ANY_LENGTH,
    "KVM_CAP_READONLY_MEM": ioctls.KVM_CAP_READONLY_MEM,
    "KVM_CAP_IMMEDIATE_EXIT": ioctls.KVM_CAP_IMMEDIATE_EXIT,
}


def available() -> str | None:
    """Why KVM cannot be used here, as one line; None where it can. A VM with a vCPU is made and destroyed."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64" or sys.maxsize < 1 << 32:
        return f"the KVM oracle needs 64-bit Linux on x86-64, not {sys.platform} on {platform.machine()}"
    try:
        system = open_device()
        try:
            version = call(system, ioctls.KVM_GET_API_VERSION)
            lacking = [name for name, number in _NEEDED.items() if not check_extension(system, number)]
        finally:
            os.close(system)
        if version != ioctls.KVM_API_VERSION:
            return f"{DEVICE} speaks API version {version}, not {ioctls.KVM_API_VERSION}"
        if lacking:
            return f"{DEVICE} lacks {', '.join(lacking)}"
        with KvmVm() as vm:
            end = vm.run(b"").end
    except OSError as refused:
        return str(refused)
    return None if end == "hlt" else f"the guest of {DEVICE} does not run: it ends with {end}"


def stage2() -> Literal["ept", "npt", "shadow"]:
    """How this host translates guest-physical addresses; with ``ept`` and ``npt`` there is a fast MMIO bus.

    Source: the module parameters of kvm_intel and kvm_amd. Without either it is ``shadow``.
    """
    kinds: dict[str, Literal["ept", "npt"]] = {
        "kvm_intel/parameters/ept": "ept",
        "kvm_amd/parameters/npt": "npt",
    }
    for name, kind in kinds.items():
        with suppress(OSError):
            if Path("/sys/module", name).read_text().strip() in ("Y", "1"):
                return kind
    return "shadow"
