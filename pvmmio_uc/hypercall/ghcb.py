"""AMD SEV-ES: vmgexit, and the page in which a guest with hidden registers says what it wants.

Sources: arch/x86/kvm/svm/sev.c (sev_handle_vmgexit, sev_es_validate_vmgexit, setup_vmgexit_scratch,
sev_handle_vmgexit_msr_protocol), arch/x86/include/asm/svm.h (struct ghcb), asm/sev-common.h.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

from .cpu import Call, Cpu, Outcome
from .delegate import call_kvm
from .ghcb_msr import INFO, CpuidLeaf, GhcbState, MsrProtocol, no_leaf
from .ghcb_page import PAGE_SIZE, GhcbPage
from .kvm import KvmX86
from .operations import Operations, Refused

__all__ = ["Ghcb", "GhcbError", "GhcbState"]

U64 = (1 << 64) - 1


class GhcbError(IntEnum):
    """SW_EXITINFO2 where SW_EXITINFO1 is 2, malformed input."""

    NOT_REGISTERED = 1
    INVALID_USAGE = 2
    INVALID_SCRATCH_AREA = 3
    MISSING_INPUT = 4
    INVALID_INPUT = 5
    INVALID_EVENT = 6


class Ghcb:
    """vmgexit with the address of a page in MSR 0xC0010130.

    * Exit codes 0x80000001 and 0x80000002 read and write MMIO: info_1 address, info_2 length in bytes,
      sw_scratch where the data is. Length 0 is done at once. Protocol version 2: at most 8 bytes, in
      the page's shared buffer. Version 1: up to 64 KiB, 8 at a time, there or elsewhere in memory. The
      MMIO bus is asked, not the fast one; a read that nobody answers is ones.
    * Exit code 0x81 is a native call with the page's RAX, RBX, RCX, RDX, RSI, and its CPL.
    * The valid bitmap is cleared as soon as it has been read; then usage, exit code and infos, and the
      fields of the exit code are checked, in this order. info_1 0 is success, 2 with a `GhcbError` in
      info_2 is not. info_1, info_2, RAX, RBX, RCX and RDX are written back and marked valid.
    * A request in the lower 12 bits of the MSR is answered in the MSR: version and C-bit, one register of
      a cpuid leaf, features, and for SNP guests registration and page states. Others stay as they are.

    A page that is not there returns to the guest with nothing done, as in KVM. From user mode vmgexit is
    #UD: the processor has no such check, but the page is the kernel's, and so is what it asks for.

    ``version`` is the VM's protocol version, 1 or 2; ``snp`` an SEV-SNP guest; ``c_bit`` the number of the
    encryption bit; ``cpuid`` what the cpuid request is answered from. ``state`` belongs to the vCPU.

    Left out: every other exit code (INVALID_EVENT), ghcb_usage 1 (Hyper-V), exceptions in info_1, VMPLs,
    INIT-SIPI after AP reset hold, and encryption: a page state change is granted and changes nothing.
    Stricter than KVM: an access past 2^64 is INVALID_INPUT, and where KVM ends the VM, for scratch
    memory that is not there or a page that is not registered, the guest gets the GhcbError instead.
    """

    name = "ghcb"
    instructions = frozenset({"vmgexit"})

    MSR = 0xC001_0130
    VMMCALL, MMIO_READ, MMIO_WRITE = 0x81, 0x8000_0001, 0x8000_0002
    SUCCESS, MALFORMED_INPUT = 0, 2
    MOST_SCRATCH = 16 * PAGE_SIZE
    VERSIONS: ClassVar[tuple[int, int]] = (1, 2)
    CPUID_LEAF = 0x8000_001F
    _NEEDS: ClassVar[dict[int, tuple[str, ...]]] = {
        VMMCALL: ("rax", "cpl"),
        MMIO_READ: ("sw_scratch",),
        MMIO_WRITE: ("sw_scratch",),
    }

    def __init__(
        self,
        state: GhcbState | None = None,
        *,
        version: int = 2,
        snp: bool = False,
        c_bit: int = 51,
        cpuid: CpuidLeaf = no_leaf,
        kvm: KvmX86 | None = None,
    ) -> None:
        if version not in self.VERSIONS:
            raise ValueError(f"version={version}: give 1 or 2")
        self.state = state or GhcbState()
        self._version, self._snp, self._c_bit = version, snp, c_bit
        self._protocol = MsrProtocol(version, c_bit, snp, cpuid)
        self._kvm = kvm or KvmX86("vmmcall")

    @property
    def offered(self) -> bool:
        """Whether the MMIO exits are there, and of the native calls the PV MMIO ones."""
        return self._kvm.offered

    @offered.setter
    def offered(self, offered: bool) -> None:
        self._kvm.offered = offered

    def applies(self, cpu: Cpu, call: Call) -> bool:
        """The instruction says so."""
        return call.instruction in self.instructions

    def number(self, cpu: Cpu) -> int:
        """The exit code in the page, or the MSR where there is no page."""
        page = None if self.state.msr & INFO else GhcbPage.at(cpu, self.state.msr)
        return self.state.msr if page is None else page.raw("sw_exit_code")

    def cpuid(self, leaf: int) -> tuple[int, int, int, int] | None:
        """Leaf 0x8000001F: SEV and SEV-ES (and SNP) in EAX, the C-bit in EBX."""
        if leaf != self.CPUID_LEAF:
            return None
        return 1 << 1 | 1 << 3 | self._snp << 4, self._c_bit, 0, 0

    def read_msr(self, index: int) -> int | None:
        """rdmsr; None for another MSR."""
        return self.state.msr if index == self.MSR else None

    def write_msr(self, index: int, value: int) -> bool:
        """wrmsr, which asks nothing yet: vmgexit does. False for another MSR."""
        if index != self.MSR:
            return False
        self.state.msr = value & U64
        return True

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        """One exit."""
        if cpu.user_mode:
            return Outcome.UNDEFINED
        if self.state.msr & INFO:
            self._protocol.answer(self.state)
            return Outcome.DONE
        page = GhcbPage.at(cpu, self.state.msr)
        if page is None or not page.clear_bitmap():
            return Outcome.DONE
        error = self._refusal(page)
        page.set("sw_exit_info_1", self.SUCCESS)
        page.set("sw_exit_info_2", 0)
        if error is None:
            error = self._exit(cpu, page, operations)
        if error is not None:
            page.set("sw_exit_info_1", self.MALFORMED_INPUT)
            page.set("sw_exit_info_2", error)
        page.write_back()
        return Outcome.DONE

    def _refusal(self, page: GhcbPage) -> GhcbError | None:
        """sev_es_validate_vmgexit, and before it the registration of SNP."""
        if self._snp and self.state.registered != self.state.msr:
            return GhcbError.NOT_REGISTERED
        if page.usage:
            return GhcbError.INVALID_USAGE
        if not all(page.valid(name) for name in ("sw_exit_code", "sw_exit_info_1", "sw_exit_info_2")):
            return GhcbError.MISSING_INPUT
        needs = self._NEEDS.get(page.raw("sw_exit_code"))
        if needs is None or (needs == ("sw_scratch",) and not self.offered):
            return GhcbError.INVALID_EVENT
        return None if all(page.valid(name) for name in needs) else GhcbError.MISSING_INPUT

    def _exit(self, cpu: Cpu, page: GhcbPage, operations: Operations) -> GhcbError | None:
        code = page.raw("sw_exit_code")
        if code == self.VMMCALL:
            names = ("rax", "rbx", "rcx", "rdx", "rsi")
            arguments = {name: page.get(name) for name in names}
            user_mode = bool(page.get("cpl"))
            for name, value in call_kvm(self._kvm, cpu, arguments, operations, user_mode=user_mode).items():
                page.set(name, value)
            return None
        return self._mmio(cpu, page, operations, write=code == self.MMIO_WRITE)

    def _mmio(self, cpu: Cpu, page: GhcbPage, operations: Operations, *, write: bool) -> GhcbError | None:
        gpa, size, scratch = (page.get(f"sw_{name}") for name in ("exit_info_1", "exit_info_2", "scratch"))
        if not size:
            return None
        if self._version >= 2 and size > 8:
            return GhcbError.INVALID_INPUT
        data = cpu.read(scratch, size) if self._scratch_fits(page, scratch, size) else None
        if data is None:
            return GhcbError.INVALID_SCRATCH_AREA
        try:
            if write:
                operations.write_bytes(gpa, data)
            else:
                cpu.write(scratch, operations.read_bytes(gpa, size))
        except Refused:  # past 2^64
            return GhcbError.INVALID_INPUT
        return None

    def _scratch_fits(self, page: GhcbPage, scratch: int, size: int) -> bool:
        """setup_vmgexit_scratch: in the page only the shared buffer, and elsewhere only in version 1."""
        if not scratch or scratch + size > U64:
            return False
        if scratch - scratch % PAGE_SIZE == page.gpa:
            return page.in_shared_buffer(scratch, size)
        return self._version < 2 and size <= self.MOST_SCRATCH
