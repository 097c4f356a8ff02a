"""The GHCB MSR protocol: what a guest can ask before it has a page, in MSR 0xC0010130 itself.

Source: arch/x86/kvm/svm/sev.c (sev_handle_vmgexit_msr_protocol), arch/x86/include/asm/sev-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["INFO", "CpuidLeaf", "GhcbState", "MsrProtocol", "no_leaf"]

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1
INFO = 0xFFF
"""The bits that tell what the MSR holds; all zero: the address of a page."""
_DATA = U64 ^ INFO

CpuidLeaf = Callable[[int], tuple[int, int, int, int]]
"""EAX, EBX, ECX, EDX of a leaf, subleaf 0."""

SEV_INFO, SEV_INFO_REQUEST = 0x001, 0x002
CPUID_REQUEST, CPUID = 0x004, 0x005
AP_RESET_HOLD_REQUEST, AP_RESET_HOLD = 0x006, 0x007
PREFERRED_GPA_REQUEST, PREFERRED_GPA = 0x010, 0x011
REGISTER_GPA_REQUEST, REGISTER_GPA = 0x012, 0x013
PAGE_STATE_REQUEST, PAGE_STATE = 0x014, 0x015
FEATURES_REQUEST, FEATURES = 0x080, 0x081
TERMINATE = 0x100
LOWEST_VERSION = 1
FEATURE_SNP = 1


def no_leaf(leaf: int) -> tuple[int, int, int, int]:
    """What a processor answers to a leaf that it does not know."""
    return 0, 0, 0, 0


@dataclass(slots=True)
class GhcbState:
    """One vCPU's: the MSR (a page's address, or a request in its lower 12 bits), and what came of it.

    ``registered`` is the page that an SNP guest has announced. ``terminated`` is the value of the MSR
    with which the guest gave up, or asked for what this VM does not have: KVM_SYSTEM_EVENT_SEV_TERM.
    """

    msr: int = 0
    registered: int | None = None
    terminated: int | None = None


class MsrProtocol:
    """Answers requests; ``version``, ``c_bit``, ``snp`` and ``cpuid`` are as in `Ghcb`."""

    def __init__(self, version: int, c_bit: int, snp: bool, cpuid: CpuidLeaf) -> None:
        self._cpuid = cpuid
        self._info = version << 48 | LOWEST_VERSION << 32 | (c_bit & 0xFF) << 24 | SEV_INFO
        self._features = (FEATURE_SNP if snp else 0) << 12 | FEATURES
        self._answers: dict[int, Callable[[int], int]] = {
            SEV_INFO_REQUEST: lambda msr: self._info,
            CPUID_REQUEST: self._cpuid_register,
            AP_RESET_HOLD_REQUEST: lambda msr: AP_RESET_HOLD,
            FEATURES_REQUEST: lambda msr: self._features,
        }
        self._snp_answers: dict[int, Callable[[int], int]] = {
            PREFERRED_GPA_REQUEST: lambda msr: _DATA | PREFERRED_GPA,  # none: the guest chooses
            REGISTER_GPA_REQUEST: lambda msr: msr & _DATA | REGISTER_GPA,
            PAGE_STATE_REQUEST: lambda msr: PAGE_STATE,
        }
        self._ends = {TERMINATE} if snp else {TERMINATE, *self._snp_answers}
        if snp:
            self._answers |= self._snp_answers

    def answer(self, state: GhcbState) -> None:
        """Replace the request in ``state.msr`` by its answer; what is no request stays."""
        request = state.msr & INFO
        if request in self._ends:
            state.terminated = state.msr
        elif request in self._answers:
            if request == REGISTER_GPA_REQUEST:
                state.registered = state.msr & _DATA
            state.msr = self._answers[request](state.msr)

    def _cpuid_register(self, msr: int) -> int:
        """Function in 63:32, register in 31:30; its value takes the place of the function."""
        value = self._cpuid(msr >> 32)[msr >> 30 & 3]
        return (value & U32) << 32 | msr & U32 & ~INFO | CPUID
