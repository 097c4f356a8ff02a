"""The Hyper-V calls whose parameters are a block, in memory or in registers: MMIO, the batch, VP registers.

Sources: include/hyperv/hvgdk_mini.h and arch/arm64/hyperv/hv_core.c of Linux; the TLFS and
microsoft/openvmm for what concerns lists. The batch, call 0x8030, is this project's own, free in the
sources and registered nowhere (docs/hypercalls.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import PvMmioError
from .cpu import Cpu
from .hyperv_control import U64, Control, Layout, Status, result_word
from .hyperv_state import MSR_GUEST_OS_ID, HyperVFeatures, HyperVState
from .operations import ELEMENT_BYTES, Operations, Refusal, Refused

__all__ = [
    "Continued",
    "Failed",
    "Request",
    "as_status",
    "get_registers",
    "in_one_page",
    "lacks_xmm",
    "mmio_read",
    "mmio_write",
    "query_capabilities",
    "set_registers",
    "write_batch",
]

PAGE_SIZE = 4096

_TARGET, _DATA = 16, 64
"""Both MMIO calls begin with gpa (u64), width (u32), a field that Linux does not clear; then 64 bytes."""
_BATCH_HEADER = 8

_SELF_PARTITION, _SELF_VP = U64, 0xFFFF_FFFE
_VP_HEADER, _NAME, _VALUE, _ASSIGNMENT = 16, 4, 16, 32
_GUEST_OS_ID = 0x0009_0002
_CPUID_OF = {
    0x0000_0100: 0x4000_0002,
    0x0000_0200: 0x4000_0003,
    0x0000_0201: 0x4000_0004,
    0x0000_0202: 0x4000_0005,
    0x0000_0203: 0x4000_0006,
}
"""arm64 has no CPUID: registers show the same leaves, EAX in the lowest bits."""


class Failed(PvMmioError):
    """A call that ends with a status; ``reps`` as in the result word."""

    def __init__(self, status: Status, reps: int = 0) -> None:
        super().__init__(status.name)
        self.status, self.reps = status, reps


class Continued(PvMmioError):
    """A list that goes on when the guest executes the instruction again; its control says from where."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call, decoded. ``limit``: the elements of a list that one exit may do. ``marker``: Xen's bit."""

    cpu: Cpu
    layout: Layout
    control: Control
    input: int
    output: int
    operations: Operations
    limit: int | None = None
    marker: int = 0

    def parameters(self, size: int, output: int = 0) -> bytes:
        """The input block, once both blocks are in place.

        Failed: 3 where registers do not suffice or memory is not there, 4 for a block that is not 8-byte
        aligned or crosses a page (KVM and the TLFS; OpenVMM says 3 to the latter). The gpa of a block
        of no bytes is ignored, and an output block on top of the input is let through. That the output
        can be read but not written shows only at the end, as on OpenVMM. The reps of earlier exits are
        in the result of a list that fails here.
        """
        done = self.control.rep_start
        if self.control.fast:
            return self._from_registers(size, output)
        for gpa, length in ((self.input, size), (self.output, output)):
            if length and not in_one_page(gpa, length):
                raise Failed(Status.INVALID_ALIGNMENT, done)
        data = self.cpu.read(self.input, size) if size else b""
        if data is None or (output and self.cpu.read(self.output, output) is None):
            raise Failed(Status.INVALID_HYPERCALL_INPUT, done)
        return data

    def deliver(self, data: bytes, size: int, output: int, offset: int = 0) -> None:
        """Put ``data`` at ``offset`` of an output block of ``output`` bytes, behind ``size`` of input."""
        if not self.control.fast:
            if not self.cpu.write(self.output + offset, data):
                raise Failed(Status.INVALID_HYPERCALL_INPUT)
            return
        at = 0
        for register in self.layout.outputs(size, output) or ():
            if offset <= at < offset + len(data):
                piece = data[at - offset : at - offset + register.size]
                register.set(self.cpu, int.from_bytes(piece, "little"))
            at += register.size

    def repeat(self, one: Callable[[int], None]) -> int:
        """Do the elements of a list one by one; the result word. Failed or Continued as they come."""
        until = self.until
        for index in range(self.control.rep_start, until):
            one(index)
        return self.finish(until)

    @property
    def until(self) -> int:
        """The index behind the last element of this exit; at least one is attempted."""
        count, start = self.control.rep_count, self.control.rep_start
        return count if self.limit is None else min(count, start + self.limit)

    def finish(self, done: int) -> int:
        """The result word of a list that is through; else Continued, and the control points to the rest."""
        if done == self.control.rep_count:
            return result_word(Status.SUCCESS, done)
        rest = self.control.raw & ~(0xFFF << 48) | done << 48
        self.layout.control.set(self.cpu, rest | self.marker)
        raise Continued(f"{done} of {self.control.rep_count}")

    def _from_registers(self, size: int, output: int) -> bytes:
        registers = self.layout.inputs(size)
        if registers is None or (output and self.layout.outputs(size, output) is None):
            raise Failed(Status.INVALID_HYPERCALL_INPUT, self.control.rep_start)
        data = b"".join(register.get(self.cpu).to_bytes(register.size, "little") for register in registers)
        return data[:size]


def in_one_page(gpa: int, size: int) -> bool:
    """Whether a block is 8-byte aligned and does not cross a page."""
    return gpa % 8 == 0 and gpa % PAGE_SIZE + size <= PAGE_SIZE


_FAST_SHAPES = {0x0106: (_TARGET, _DATA), 0x0107: (_TARGET + _DATA, 0)}


def lacks_xmm(code: int, layout: Layout, features: HyperVFeatures) -> bool:
    """Whether the fast form of this call needs XMM registers that CPUID does not announce: #UD."""
    size, output = _FAST_SHAPES.get(code, (0, 0))
    taken = layout.inputs(size) or ()
    given = (output and layout.outputs(size, output)) or ()
    return (not features.xmm_input and any(register.bits == 128 for register in taken)) or (
        not features.xmm_output and any(register.bits == 128 for register in given)
    )


def as_status(refusal: Refusal) -> Status:
    """How this convention says it: 0x10 where nobody answers, 5 to a bad size, address or reserved field."""
    return Status.NOT_FOUND if refusal is Refusal.UNCLAIMED else Status.INVALID_PARAMETER


def mmio_read(request: Request) -> int:
    """HvCallMemoryMappedIoRead: the output is 64 bytes, zero beyond the width, and only on success."""
    gpa, width = _target(request.parameters(_TARGET, _DATA))
    value = request.operations.read(gpa, width)
    request.deliver(value.to_bytes(_DATA, "little"), _TARGET, _DATA)
    return result_word(Status.SUCCESS)


def mmio_write(request: Request) -> int:
    """HvCallMemoryMappedIoWrite: the data follows the target."""
    block = request.parameters(_TARGET + _DATA)
    gpa, width = _target(block)
    request.operations.write(gpa, width, int.from_bytes(block[_TARGET:], "little"))
    return result_word(Status.SUCCESS)


def _target(block: bytes) -> tuple[int, int]:
    return int.from_bytes(block[:8], "little"), int.from_bytes(block[8:12], "little")


def query_capabilities(request: Request, capabilities: int) -> int:
    """HvExtCallQueryCapabilities: no input, 8 bytes of output."""
    request.parameters(0, 8)
    request.deliver(capabilities.to_bytes(8, "little"), 0, 8)
    return result_word(Status.SUCCESS)


def write_batch(request: Request) -> int:
    """Call 0x8030: 8 reserved bytes, then one element of 24 bytes per rep, as in `Operations.write_list`."""
    control = request.control
    block = request.parameters(_BATCH_HEADER + ELEMENT_BYTES * control.rep_count)
    if any(block[:_BATCH_HEADER]):
        raise Failed(Status.INVALID_PARAMETER, control.rep_start)
    at = request.input + _BATCH_HEADER
    try:
        done = request.operations.write_list(at, request.until, control.rep_start)
    except Refused as refused:
        raise Failed(as_status(refused.refusal), refused.done) from None
    return request.finish(done)


def get_registers(request: Request, state: HyperVState) -> int:
    """HvCallGetVpRegisters on arm64, for the guest OS id and what CPUID says on x86; of the caller alone."""
    count = request.control.rep_count
    size, output = _VP_HEADER + _NAME * count, _VALUE * count
    block = request.parameters(size, output)
    _check_own(block, request.control.rep_start)

    def one(index: int) -> None:
        at = _VP_HEADER + _NAME * index
        value = _read_register(state, int.from_bytes(block[at : at + _NAME], "little"))
        if value is None:
            raise Failed(Status.INVALID_PARAMETER, index)
        request.deliver(value.to_bytes(_VALUE, "little"), size, output, _VALUE * index)

    return request.repeat(one)


def set_registers(request: Request, state: HyperVState) -> int:
    """HvCallSetVpRegisters on arm64: the guest OS id, which is how Linux announces itself."""
    block = request.parameters(_VP_HEADER + _ASSIGNMENT * request.control.rep_count)
    _check_own(block, request.control.rep_start)

    def one(index: int) -> None:
        at = _VP_HEADER + _ASSIGNMENT * index
        name = int.from_bytes(block[at : at + _NAME], "little")
        value = int.from_bytes(block[at + 16 : at + 24], "little")
        if name != _GUEST_OS_ID or not state.write_msr(MSR_GUEST_OS_ID, value):
            raise Failed(Status.INVALID_PARAMETER, index)

    return request.repeat(one)


def _check_own(block: bytes, done: int) -> None:
    if int.from_bytes(block[:8], "little") != _SELF_PARTITION:
        raise Failed(Status.INVALID_PARTITION_ID, done)
    if int.from_bytes(block[8:12], "little") != _SELF_VP:
        raise Failed(Status.INVALID_VP_INDEX, done)
    if any(block[12:_VP_HEADER]):  # a virtual trust level: there is one
        raise Failed(Status.INVALID_PARAMETER, done)


def _read_register(state: HyperVState, name: int) -> int | None:
    if name == _GUEST_OS_ID:
        return state.read_msr(MSR_GUEST_OS_ID)
    leaf = state.cpuid(_CPUID_OF.get(name, 0))
    return None if leaf is None else sum(word << 32 * index for index, word in enumerate(leaf))
