"""What a Hyper-V partition keeps for all its vCPUs: two MSRs, the hypercall page, what CPUID says.

Sources: arch/x86/kvm/hyperv.c (kvm_hv_set_msr_pw, kvm_get_hv_cpuid); the Hyper-V TLFS, "Establishing the
Hypercall Interface" and "Feature and Interface Discovery"; microsoft/openvmm, vm/hv1/hv1_emulator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..errors import PvMmioError
from ..vm import Memory

__all__ = [
    "EXTENDED_CAPABILITIES",
    "KVM_CPUID_BESIDE_HYPERV",
    "KVM_RULES",
    "MSR_GUEST_OS_ID",
    "MSR_HYPERCALL",
    "MSR_VP_INDEX",
    "OPENVMM_RULES",
    "TLFS_RULES",
    "HyperVFeatures",
    "HyperVState",
    "MsrFault",
    "MsrRules",
]

MSR_GUEST_OS_ID = 0x4000_0000
MSR_HYPERCALL = 0x4000_0001
MSR_VP_INDEX = 0x4000_0002

KVM_CPUID_BESIDE_HYPERV = 0x4000_0100
"""Where KVM's own leaves go when Hyper-V's are at 0x40000000."""

EXTENDED_CAPABILITIES = 1 << 0x2E
"""What HvExtCallQueryCapabilities answers: the batch, call 0x8030, is capability 0x2e."""

_BASE = 0x4000_0000
_LAST = 0x4000_0006
_INTERFACE = int.from_bytes(b"Hv#1", "little")
_VERSION = (0x3839, 0x000A_0000)  # Windows Server 2016, as KVM says
_NEVER_NOTIFY_SPINS = 0xFFFF_FFFF
_PROCESSORS = 64

_ENABLE, _LOCKED, _RSVDP, _PAGE = 1, 2, 0xFFC, ~0xFFF
_U64 = (1 << 64) - 1
_INSTRUCTION = {"vmcall": b"\x0f\x01\xc1", "vmmcall": b"\x0f\x01\xd9"}
_MARK_FOR_XEN = b"\x0d\x00\x00\x00\x80"  # or eax, 0x80000000
_RET = b"\xc3"


@dataclass(frozen=True, slots=True)
class HyperVFeatures:
    """What CPUID announces; `dataclasses.replace` takes one away.

    ``mmio``: HvCallMemoryMappedIoRead/Write. ``batch``: call 0x8030, which needs ``extended`` too.
    ``post_messages``, ``signal_events`` and ``extended`` are privileges, looked at only where a state has
    ``enforce``. ``xmm_input``, ``xmm_output``: register parameters may use XMM0 to XMM5.
    """

    hypercall_msrs: bool = True
    vp_index_msr: bool = True
    post_messages: bool = True
    signal_events: bool = True
    extended: bool = True
    xmm_input: bool = True
    xmm_output: bool = True
    mmio: bool = True
    batch: bool = True


_EAX, _EBX, _EDX = 0, 1, 3
_BITS = (
    ("hypercall_msrs", 0x4000_0003, _EAX, 5),
    ("vp_index_msr", 0x4000_0003, _EAX, 6),
    ("post_messages", 0x4000_0003, _EBX, 4),
    ("signal_events", 0x4000_0003, _EBX, 5),
    ("extended", 0x4000_0003, _EBX, 20),
    ("xmm_input", 0x4000_0003, _EDX, 4),
    ("xmm_output", 0x4000_0003, _EDX, 15),
    ("mmio", 0x4000_0004, _EAX, 21),
)
_LOCK_AVAILABLE = 1 << 18  # 0x40000003.EDX


@dataclass(frozen=True, slots=True)
class MsrRules:
    """How HV_X64_MSR_HYPERCALL takes a write that is not plain.

    ``without_os_id``: an enabling write before the guest OS id is there is ``drop``ped whole, stored with
    the enable bit ``clear``, or ``allow``ed. ``locked``: once bit 1 is set a write may ``replace`` the
    value, is ``ignore``d, or is a ``fault``. ``reserved``: bits 11:2 are ``store``d, ``ignore``d, or a
    ``fault``.
    """

    without_os_id: Literal["drop", "clear", "allow"]
    locked: Literal["replace", "ignore", "fault"]
    reserved: Literal["store", "ignore", "fault"]


KVM_RULES = MsrRules("drop", "replace", "store")
TLFS_RULES = MsrRules("clear", "ignore", "ignore")
OPENVMM_RULES = MsrRules("allow", "fault", "fault")


class MsrFault(PvMmioError):
    """A write that the guest gets #GP(0) for; ``index`` and ``value`` are those of wrmsr."""

    def __init__(self, index: int, value: int, reason: str) -> None:
        super().__init__(f"wrmsr {index:#x} with {value:#x}: #GP(0): {reason}")
        self.index, self.value = index, value


class HyperVState:
    """One partition.

    ``memory`` takes the hypercall page, as bytes in the guest's RAM: KVM has no overlay. ``native`` is
    the processor's hypercall instruction, ``vmcall`` or ``vmmcall``. ``xen``: the VM takes Xen's
    hypercalls too, and the page marks Hyper-V's. ``enforce`` (KVM_CAP_HYPERV_ENFORCE_CPUID): what
    ``features`` does not announce is refused. ``vendor``: 12 characters; Linux accepts only the default,
    KVM's own default is "Linux KVM Hv".

    These can be set at any time between two calls: ``present`` (whether CPUID has the Hyper-V leaves),
    ``features``, ``offered`` (whether the PV MMIO calls are there), ``synic`` (whether user space has
    activated the synthetic interrupt controller: without it nothing is handed to user space as an event
    or a message).
    """

    def __init__(
        self,
        memory: Memory,
        *,
        native: str = "vmcall",
        xen: bool = False,
        features: HyperVFeatures | None = None,
        enforce: bool = False,
        rules: MsrRules = KVM_RULES,
        vendor: str = "Microsoft Hv",
        synic: bool = False,
    ) -> None:
        if native not in _INSTRUCTION:
            raise ValueError(f"native={native!r}: give 'vmcall' (Intel) or 'vmmcall' (AMD)")
        self._vendor = vendor.encode("ascii")
        if len(self._vendor) != 12:
            raise ValueError(f"vendor={vendor!r} has {len(self._vendor)} characters: CPUID has room for 12")
        self._memory, self.native, self.xen, self.rules = memory, native, xen, rules
        self.features = features or HyperVFeatures()
        self.enforce, self.synic = enforce, synic
        self.present = self.offered = True
        self.guest_os_id = 0
        self.hypercall_msr = 0

    def reset(self) -> None:
        """A system reset, which is also what clears the lock."""
        self.guest_os_id = self.hypercall_msr = 0

    @property
    def available(self) -> HyperVFeatures:
        """The features, less the PV MMIO calls while those are withdrawn."""
        return self.features if self.offered else replace(self.features, mmio=False, batch=False)

    @property
    def hypercall_page(self) -> bytes:
        """What enabling writes at the start of the page: a call of it is a hypercall."""
        return (_MARK_FOR_XEN if self.xen else b"") + _INSTRUCTION[self.native] + _RET

    def read_msr(self, index: int, vp: int = 0) -> int | None:
        """rdmsr on virtual processor ``vp``; None where the MSR is not Hyper-V's, or not there: #GP."""
        if not self._has(index):
            return None
        return {MSR_GUEST_OS_ID: self.guest_os_id, MSR_HYPERCALL: self.hypercall_msr, MSR_VP_INDEX: vp}[index]

    def write_msr(self, index: int, value: int) -> bool:
        """wrmsr; False where `read_msr` gives None. MsrFault where the value does not fit."""
        if not self._has(index):
            return False
        value &= _U64
        if index == MSR_VP_INDEX:
            raise MsrFault(index, value, "the index of a virtual processor is read only")
        if index == MSR_HYPERCALL:
            self._write_hypercall(value)
            return True
        self.guest_os_id = value
        if not value and self.rules.without_os_id != "allow":
            self.hypercall_msr &= ~_ENABLE  # what is in RAM stays
        return True

    def cpuid(self, leaf: int) -> tuple[int, int, int, int] | None:
        """EAX, EBX, ECX, EDX of 0x40000000 to 0x40000006, else None."""
        if not self.present or not _BASE <= leaf <= _LAST:
            return None
        if leaf == _BASE:
            ebx, ecx, edx = (int.from_bytes(self._vendor[at : at + 4], "little") for at in (0, 4, 8))
            return _LAST, ebx, ecx, edx
        eax, ebx, ecx, edx = _FIXED.get(leaf, (0, 0, 0, 0))
        registers = [eax, ebx, ecx, edx]
        for name, at, register, bit in _BITS:
            if at == leaf and getattr(self.available, name):
                registers[register] |= 1 << bit
        if leaf == 0x4000_0003 and self.rules.locked != "replace":
            registers[_EDX] |= _LOCK_AVAILABLE
        return registers[0], registers[1], registers[2], registers[3]

    def _has(self, index: int) -> bool:
        if not self.present or index not in (MSR_GUEST_OS_ID, MSR_HYPERCALL, MSR_VP_INDEX):
            return False
        announced = self.features.vp_index_msr if index == MSR_VP_INDEX else self.features.hypercall_msrs
        return announced or not self.enforce

    def _write_hypercall(self, value: int) -> None:
        rules, old = self.rules, self.hypercall_msr
        if not self.guest_os_id:
            if rules.without_os_id == "drop":
                return
            if rules.without_os_id == "clear":
                value &= ~_ENABLE
        if old & _LOCKED and rules.locked != "replace":
            if rules.locked == "fault":
                raise MsrFault(MSR_HYPERCALL, value, f"it is locked at {old:#x}: reset the partition first")
            return
        if value & _RSVDP and rules.reserved != "store":
            if rules.reserved == "fault":
                raise MsrFault(MSR_HYPERCALL, value, f"reserved bits {value & _RSVDP:#x}: leave 11:2 zero")
            value &= ~_RSVDP
        if value & _ENABLE and not self._memory.write(value & _PAGE, self.hypercall_page):
            raise MsrFault(
                MSR_HYPERCALL, value, f"no writable memory at {value & _PAGE:#x}: give the gpa of a RAM page"
            )
        self.hypercall_msr = value


_FIXED = {
    0x4000_0001: (_INTERFACE, 0, 0, 0),
    0x4000_0002: (*_VERSION, 0, 0),
    0x4000_0004: (0, _NEVER_NOTIFY_SPINS, 0, 0),
    0x4000_0005: (_PROCESSORS, _PROCESSORS, 0, 0),
}
