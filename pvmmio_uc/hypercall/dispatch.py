"""Which convention a hypercall instruction follows when a guest could mean several."""

from __future__ import annotations

from enum import Enum

from .hyperv_control import HYPERV_FUNCTION_ID

__all__ = ["XEN_MARKER", "Dialect", "applies", "applies_arm64"]

XEN_MARKER = 0x8000_0000
"""Set in EAX by the Hyper-V hypercall page of a VM that takes Xen's hypercalls too."""


class Dialect(Enum):
    """Whose call it is. ``NATIVE`` is KVM's own."""

    NATIVE = "kvm"
    HYPERV = "hyperv"
    XEN = "xen"


def applies(rax: int, *, xen: bool, hyperv: bool, guest_os_id: int) -> Dialect:
    """The rule of KVM on x86 (kvm_emulate_hypercall, kvm_xen_hypercall), asked anew at every call.

    ``xen``: the VM takes Xen's hypercalls. ``hyperv``: "Hv#1" is in the vCPU's CPUID. ``guest_os_id`` is
    the value of HV_X64_MSR_GUEST_OS_ID: by writing it the guest switches over, by writing 0 back.
    """
    enabled = hyperv and guest_os_id != 0
    if xen:
        return Dialect.HYPERV if enabled and rax & XEN_MARKER else Dialect.XEN
    return Dialect.HYPERV if enabled else Dialect.NATIVE


def applies_arm64(x0: int, immediate: int, *, hyperv: bool) -> Dialect:
    """The same for ``hvc #immediate``: function ids do not collide, so no guest OS id is asked for.

    Without Hyper-V every immediate is SMCCC, as KVM has it.
    """
    smccc = immediate == 0 and x0 & 0xFFFF_FFFF == HYPERV_FUNCTION_ID
    return Dialect.HYPERV if hyperv and (smccc or immediate == 1) else Dialect.NATIVE
