"""The Hyper-V convention: what Windows speaks to KVM, and the doorbell and the MMIO calls that it has.

The order of the checks is KVM's (arch/x86/kvm/hyperv.c, kvm_hv_hypercall): privilege of the caller,
privilege of the call, reserved bits, XMM registers, then the call's own. KVM knows HvCallSignalEvent and
HvCallPostMessage of these calls; the MMIO calls and the batch it answers with 2, as this host does while
they are withdrawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ..exits import Access, Route
from .connections import CONNECTION_ID_MASK
from .cpu import Call, Cpu, Outcome
from .dispatch import XEN_MARKER, Dialect, applies, applies_arm64
from .hyperv_calls import (
    Continued,
    Failed,
    Request,
    as_status,
    get_registers,
    in_one_page,
    lacks_xmm,
    mmio_read,
    mmio_write,
    query_capabilities,
    set_registers,
    write_batch,
)
from .hyperv_control import (
    ARM64_HVC1,
    ARM64_SMCCC,
    HYPERV_FUNCTION_ID,
    U32,
    U64,
    X86_32,
    X86_64,
    Control,
    Layout,
    Status,
    result_word,
)
from .hyperv_state import EXTENDED_CAPABILITIES, HyperVState
from .kvm import KvmX86
from .operations import Operations, Refused

__all__ = ["HyperV", "HyperVExit"]

HyperVExit = Callable[[int, int, int], "int | None"]
"""``(control, input, output)``: KVM_EXIT_HYPERV_HCALL. It gives the result word, None where it knows nothing.

``input`` is the gpa of the input block or the first 8 bytes of register input; of HvCallSignalEvent it is
the parameter itself in either form, as KVM hands it over.
"""

GET_VP_REGISTERS, SET_VP_REGISTERS = 0x0050, 0x0051
POST_MESSAGE, SIGNAL_EVENT = 0x005C, 0x005D
MMIO_READ, MMIO_WRITE = 0x0106, 0x0107
QUERY_CAPABILITIES, WRITE_BATCH, LAST_EXTENDED = 0x8001, 0x8030, 0x8041

_FLAG_NUMBER = 0xFFFF_0000_0000


class HyperV:
    """One vCPU's or all vCPUs' hypercalls to the partition ``state``.

    ``architecture`` is ``x86`` (vmcall, vmmcall) or ``arm64`` (hvc #0 with x0 = 0x46000001, hvc #1).
    ``patch``: the other vendor's instruction is mended, as on the native convention. ``reps_per_exit``:
    how many elements of a list one exit does at most, None for all. ``on_hyperv_exit`` is asked where KVM
    exits to user space: messages, events of unknown connections, extended calls.
    """

    name = "hyperv"

    def __init__(
        self,
        state: HyperVState,
        architecture: Literal["x86", "arm64"] = "x86",
        *,
        patch: bool = True,
        reps_per_exit: int | None = None,
        on_hyperv_exit: HyperVExit | None = None,
    ) -> None:
        if architecture not in ("x86", "arm64"):
            raise ValueError(f"architecture={architecture!r}: give 'x86' or 'arm64'")
        if reps_per_exit is not None and reps_per_exit < 1:
            raise ValueError(f"reps_per_exit={reps_per_exit}: give 1 or more, or None for no limit")
        self.state, self.architecture = state, architecture
        self.reps_per_exit, self.on_hyperv_exit = reps_per_exit, on_hyperv_exit
        self.instructions = frozenset({"hvc"} if architecture == "arm64" else {"vmcall", "vmmcall"})
        self._native = KvmX86(state.native, patch=patch)

    @property
    def offered(self) -> bool:
        """Whether the PV MMIO calls are there, for all vCPUs of the partition."""
        return self.state.offered

    @offered.setter
    def offered(self, offered: bool) -> None:
        self.state.offered = offered

    def applies(self, cpu: Cpu, call: Call) -> bool:
        """Whether the guest means Hyper-V: see `dispatch`."""
        if call.instruction not in self.instructions:
            return False
        state = self.state
        if self.architecture == "arm64":
            dialect = applies_arm64(cpu.get("x0"), call.immediate, hyperv=state.present)
        else:
            dialect = applies(
                cpu.get("rax"), xen=state.xen, hyperv=state.present, guest_os_id=state.guest_os_id
            )
        return dialect is Dialect.HYPERV

    def number(self, cpu: Cpu) -> int:
        """The call code."""
        if self.architecture == "x86":
            layout = X86_64 if cpu.bits == 64 else X86_32
        else:
            layout = ARM64_SMCCC if cpu.get("x0") & U32 == HYPERV_FUNCTION_ID else ARM64_HVC1
        return Control(layout.control.get(cpu)).code

    def cpuid(self, leaf: int) -> tuple[int, int, int, int] | None:
        """The Hyper-V leaves, 0x40000000 to 0x40000006; arm64 has registers instead."""
        return self.state.cpuid(leaf) if self.architecture == "x86" else None

    def read_msr(self, index: int) -> int | None:
        """The partition's registers, 0x40000000 to 0x40000002."""
        return self.state.read_msr(index)

    def write_msr(self, index: int, value: int) -> bool:
        """Write one of them; MsrFault for #GP(0)."""
        return self.state.write_msr(index, value)

    def handle(self, cpu: Cpu, call: Call, operations: Operations) -> Outcome:
        """One call; a list that is not through is RETRY, with the rest in the control register."""
        x86 = self.architecture == "x86"
        if x86 and call.instruction != self._native.native:
            return self._native.foreign(cpu, call)
        if cpu.user_mode or not cpu.protected_mode:
            return Outcome.UNDEFINED
        layout = _x86_layout(cpu) if x86 else _arm64_layout(cpu, call)
        if layout is None:
            cpu.set("x0", U64)  # SMCCC's NOT_SUPPORTED
            return Outcome.DONE
        request = self._request(cpu, layout, operations)
        try:
            result = self._answer(request)
        except Continued:
            return Outcome.RETRY
        except Failed as failed:
            result = result_word(failed.status, failed.reps)
        except Refused as refused:
            result = result_word(as_status(refused.refusal))
        if result is None:
            return Outcome.UNDEFINED
        layout.result.set(cpu, result)
        return Outcome.DONE

    def _request(self, cpu: Cpu, layout: Layout, operations: Operations) -> Request:
        raw = layout.control.get(cpu)
        # the page itself has set the bit; KVM has it among the reserved ones and fails such calls with 3
        marker = raw & XEN_MARKER if layout is X86_32 and self.state.xen else 0
        return Request(
            cpu,
            layout,
            Control(raw & ~marker),
            layout.first.get(cpu),
            layout.second.get(cpu),
            operations,
            self.reps_per_exit,
            marker,
        )

    def _answer(self, request: Request) -> int | None:
        """The result word; None for #UD."""
        control, features = request.control, self.state.available
        if self.state.enforce and not self._allowed(control.code):
            raise Failed(Status.ACCESS_DENIED)
        if control.reserved:
            raise Failed(Status.INVALID_HYPERCALL_INPUT)
        if control.code in (MMIO_READ, MMIO_WRITE) and features.mmio:
            if control.fast and lacks_xmm(control.code, request.layout, features):
                return None
            _expect(control.is_simple)
            return (mmio_read if control.code == MMIO_READ else mmio_write)(request)
        if control.code == SIGNAL_EVENT:
            _expect(control.is_simple)
            return self._signal_event(request)
        if control.code == POST_MESSAGE:
            _expect(control.is_simple and self.state.synic)
            return self._userspace(request, request.input)
        if QUERY_CAPABILITIES <= control.code <= LAST_EXTENDED:
            return self._extended(request)
        if self.architecture == "arm64" and control.code in (GET_VP_REGISTERS, SET_VP_REGISTERS):
            _expect(control.is_rep)
            call = get_registers if control.code == GET_VP_REGISTERS else set_registers
            return call(request, self.state)
        raise Failed(Status.INVALID_HYPERCALL_CODE)

    def _allowed(self, code: int) -> bool:
        features = self.state.features
        if code == POST_MESSAGE:
            return features.post_messages
        if code == SIGNAL_EVENT:
            return features.signal_events
        return features.extended or not QUERY_CAPABILITIES <= code <= LAST_EXTENDED

    def _signal_event(self, request: Request) -> int:
        """Connection id in bits 23:0, flag number in 47:32, of which KVM knows only 0."""
        parameter = request.input if request.control.fast else _event_in_memory(request)
        if not parameter & _FLAG_NUMBER:
            _expect(not parameter & ~CONNECTION_ID_MASK)
            try:
                request.operations.signal(parameter)
            except Refused:
                pass  # user space may know it
            else:
                return result_word(Status.SUCCESS)
        _expect(self.state.synic)
        return self._userspace(request, parameter)

    def _extended(self, request: Request) -> int:
        control, features = request.control, self.state.available
        if control.fast:
            raise Failed(Status.INVALID_PARAMETER)
        if features.extended and features.batch:
            if control.code == QUERY_CAPABILITIES:
                _expect(control.is_simple)
                return query_capabilities(request, EXTENDED_CAPABILITIES)
            if control.code == WRITE_BATCH:
                _expect(control.is_rep)
                return write_batch(request)
        return self._userspace(request, request.input)

    def _userspace(self, request: Request, parameter: int) -> int:
        """Hand the call to user space; where that has no answer, what QEMU says without a handler."""
        control = request.control
        if self.on_hyperv_exit is not None:
            request.operations.steps.userspace += 1
            result = self.on_hyperv_exit(control.raw, parameter, request.output)
            if result is not None:
                request.operations.accesses.append(Access(True, parameter, 0, b"", Route.USERSPACE))
                return result
        if control.code == SIGNAL_EVENT:
            known = not parameter & _FLAG_NUMBER
            return Status.INVALID_CONNECTION_ID if known else Status.INVALID_PORT_ID
        if control.code == POST_MESSAGE and not control.fast:
            return Status.INVALID_CONNECTION_ID
        return Status.INVALID_HYPERCALL_CODE


def _x86_layout(cpu: Cpu) -> Layout:
    return X86_64 if cpu.bits == 64 else X86_32


def _arm64_layout(cpu: Cpu, call: Call) -> Layout | None:
    if call.immediate == 1:
        return ARM64_HVC1
    return ARM64_SMCCC if cpu.get("x0") & U32 == HYPERV_FUNCTION_ID else None


def _expect(well_formed: bool) -> None:
    if not well_formed:
        raise Failed(Status.INVALID_HYPERCALL_INPUT)


def _event_in_memory(request: Request) -> int:
    """KVM says 4 to a parameter that cannot be read, too."""
    data = request.cpu.read(request.input, 8) if in_one_page(request.input, 8) else None
    if data is None:
        raise Failed(Status.INVALID_ALIGNMENT)
    return int.from_bytes(data, "little")
