"""The hypercall routes as data: what the host enables, what the guest runs for one ring, how it finds out.

A driver's ring holds all that one notification takes, arguments included; ``again`` is the loop's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..arch.layout import StubWords
from ..eventfd import EventFd
from ..hypercall.operations import MOST_ELEMENTS
from ..machine import Machine

__all__ = ["CALLS", "CallStub"]

CONNECTION = 5
_BLOCK = 0x3000  # from the start of RAM: the page of parameter blocks
_PAGE = 0x2_0000  # the Hyper-V hypercall page

Addresses = dict[str, int]


@dataclass(frozen=True, slots=True)
class CallStub:
    """One way to ring by hypercall. The texts are formatted with the numbers of `numbers`.

    ``windows``: a guest that speaks only Hyper-V can use it. ``batch``: one call rings up to 170 times.
    ``in_linux``: KVM of today answers it.
    """

    name: str
    arch: str
    conventions: tuple[str, ...]
    setup: str
    ring: str
    again: str
    discovery: str = ""
    bits: int | None = None
    stage2: str | None = None
    windows: bool = False
    batch: bool = False
    in_linux: bool = False
    block: Callable[[int, int, int, str], bytes] | None = None
    """``block(gpa, size, value, order)``: what stands in the parameter page."""

    def prepare(self, machine: Machine, eventfd: EventFd, gpa: int, size: int, value: int) -> None:
        """Enable the conventions and lay out the parameter block."""
        machine.pv.hypercalls(*self.conventions)
        if "hyperv" in self.conventions:
            machine.pv.hyperv_eventfd(eventfd, CONNECTION)
        if self.block is not None:
            data = self.block(gpa, size, value, machine.variant.order)
            machine.uc.mem_write(self.numbers(machine, gpa, size, value, 0)["block"], data)

    def words(self, machine: Machine, gpa: int, size: int, value: int, rings: int) -> StubWords:
        """The stub, with its numbers filled in."""
        numbers = self.numbers(machine, gpa, size, value, rings)
        return StubWords(*(text.format(**numbers) for text in (self.setup, self.ring, self.again)))

    def numbers(self, machine: Machine, gpa: int, size: int, value: int, rings: int) -> Addresses:
        """What the texts may name; ``_h``, ``_l`` are upper and lower 16 bits."""
        ram = machine.platform.ram[0][0]
        places = {"block": ram + _BLOCK, "page": ram + _PAGE}
        values = {"gpa": gpa, "size": size, "value": value, "n": rings, **places}
        halves = {}
        for name, number in values.items():
            halves[f"{name}_h"], halves[f"{name}_l"] = number >> 16 & 0xFFFF, number & 0xFFFF
        return {**values, **halves, "most": MOST_ELEMENTS, "connection": CONNECTION}


def _mmio_block(gpa: int, size: int, value: int, order: str) -> bytes:
    """HV_INPUT_MEMORY_MAPPED_IO_WRITE: gpa, width, reserved, 64 bytes of data."""
    data = value.to_bytes(size, "little").ljust(64, b"\0")
    return gpa.to_bytes(8, "little") + size.to_bytes(8, "little") + data


def _list_block(gpa: int, size: int, value: int, order: str) -> bytes:
    """170 times the same element."""
    byte_order = "big" if order == "big" else "little"
    fields = ((gpa, 8), (value, 8), (size, 4), (0, 4))
    return b"".join(number.to_bytes(width, byte_order) for number, width in fields) * MOST_ELEMENTS  # type: ignore[arg-type]


def _rep_block(gpa: int, size: int, value: int, order: str) -> bytes:
    """The same behind a header of 8 bytes."""
    return bytes(8) + _list_block(gpa, size, value, "little")


def _ghcb_block(gpa: int, size: int, value: int, order: str) -> bytes:
    """A GHCB that asks for an MMIO write; the host clears its valid bitmap at every exit."""
    page = bytearray(4096)
    for offset, number in ((0x390, 0x8000_0002), (0x398, gpa), (0x3A0, size)):
        page[offset : offset + 8] = number.to_bytes(8, "little")
    page[0x800 : 0x800 + size] = value.to_bytes(size, "little")
    page[0xFFA] = 2
    return bytes(page)


_X86_LOOP = "dec r12d\njnz again"
_X86_KVM_DISCOVERY = "mov eax, 1\ncpuid\nmov eax, 0x40000000\ncpuid\nmov eax, 0x40000001\ncpuid"
_X86_HV_DISCOVERY = (
    "mov eax, 1\ncpuid\nmov eax, 0x40000000\ncpuid\nmov eax, 0x40000001\ncpuid\n"
    "mov eax, 0x40000003\ncpuid\nmov eax, 0x40000004\ncpuid"
)
_X86_HV_ENABLE = (
    "mov ecx, 0x40000000\nmov eax, 1\nxor edx, edx\nwrmsr\n"
    "mov ecx, 0x40000001\nrdmsr\nmov eax, {page:#x}\nor eax, 1\nxor edx, edx\nwrmsr\nmov r12d, {n:#x}"
)
_HV_CALL = "mov eax, {page:#x}\ncall rax"
_X86_BATCH_COUNT = "mov r13d, {most}\ncmp r12d, r13d\ncmovb r13d, r12d"
_X86_BATCH_LOOP = "sub r12d, r13d\njnz again"

_ARM64_GPA = "movz x1, #{gpa_l:#x}\nmovk x1, #{gpa_h:#x}, lsl #16"
_ARM64_COUNT = "movz x19, #{n_l:#x}\nmovk x19, #{n_h:#x}, lsl #16"
_ARM64_LOOP = "subs x19, x19, #1\nb.ne again"
_ARM64_DISCOVERY = (
    "movz w0, #0\nmovk w0, #0x8000, lsl #16\nhvc #0\n"
    "movz w0, #0xff01\nmovk w0, #0x8600, lsl #16\nhvc #0\n"
    "movz w0, #0\nmovk w0, #0x8600, lsl #16\nhvc #0"
)
_ARM64_BLOCK = "movz x2, #{block_l:#x}\nmovk x2, #{block_h:#x}, lsl #16"
_ARM64_HV = "movz x0, #1\nmovk x0, #0x4600, lsl #16"

_PPC_COUNT = "lis 14, {n_h:#x}\nori 14, 14, {n_l:#x}"
_PPC_LOOP = "addic. 14, 14, -1\nbne again"
_PPC_DISCOVERY = "lis 11, 0x2a\nori 11, 11, 3\n"
_PPC_WRITE = (
    "lis 11, 0x2a\nori 11, 11, 0x1b\nli 3, 0\nlis 4, {gpa_h:#x}\nori 4, 4, {gpa_l:#x}\n"
    "li 5, {size}\nli 6, 0\nli 7, {value}\n"
)
_MAGIC = "lis 0, 0x4b56\nori 0, 0, 0x4d21\nsc"
_PPC_BATCH_COUNT = "li 15, {most}\ncmplw 14, 15\nbge full\nmr 15, 14\nfull:\n"
_PPC_BATCH_LOOP = "subf. 14, 15, 14\nbne again"

CALLS = (
    CallStub(
        "call kvm", "x86", ("kvm",), "mov r12d, {n:#x}",
        "mov eax, 27\nmov rbx, {gpa:#x}\nmov ecx, {size}\nmov edx, {value}\nvmcall",
        _X86_LOOP, _X86_KVM_DISCOVERY,
    ),
    CallStub(
        "call kvm, list", "x86", ("kvm",), "mov r12d, {n:#x}",
        _X86_BATCH_COUNT + "\nmov eax, 28\nmov ebx, {block:#x}\nmov ecx, r13d\nxor edx, edx\nvmcall",
        _X86_BATCH_LOOP, _X86_KVM_DISCOVERY, batch=True, block=_list_block,
    ),
    CallStub(
        "call hyperv 0x107", "x86", ("kvm", "hyperv"), _X86_HV_ENABLE,
        "mov ecx, 0x107\nmov edx, {block:#x}\nxor r8d, r8d\n" + _HV_CALL,
        _X86_LOOP, _X86_HV_DISCOVERY, windows=True, block=_mmio_block,
    ),
    CallStub(
        "call hyperv signal", "x86", ("kvm", "hyperv"), _X86_HV_ENABLE,
        "mov ecx, 0x1005d\nmov edx, {connection}\n" + _HV_CALL,
        _X86_LOOP, _X86_HV_DISCOVERY, windows=True, in_linux=True,
    ),
    CallStub(
        "call hyperv, list", "x86", ("kvm", "hyperv"), _X86_HV_ENABLE,
        _X86_BATCH_COUNT
        + "\nmov rcx, r13\nshl rcx, 32\nor rcx, 0x8030\nmov edx, {block:#x}\n" + _HV_CALL,
        _X86_BATCH_LOOP, _X86_HV_DISCOVERY, windows=True, batch=True, block=_rep_block,
    ),
    CallStub(
        "call tdx", "x86", ("tdx", "kvm"), "mov r9d, {n:#x}",
        "xor eax, eax\nmov ecx, 0xfc00\nxor r10d, r10d\nmov r11d, 48\nmov r12d, {size}\nmov r13d, 1\n"
        "mov r14, {gpa:#x}\nbts r14, 47\nmov r15d, {value}\n.byte 0x66, 0x0f, 0x01, 0xcc",
        "dec r9d\njnz again", "xor eax, eax\ncpuid\nmov eax, 0x21\nxor ecx, ecx\ncpuid", in_linux=True,
    ),
    CallStub(
        "call ghcb", "x86", ("ghcb", "kvm"),
        "mov ecx, 0xc0010130\nmov eax, {block:#x}\nxor edx, edx\nwrmsr\n"
        "mov ebx, {block:#x}\nmov r12d, {n:#x}",
        "mov eax, 0x80000002\nmov qword ptr [rbx + 0x390], rax\nmov rax, {gpa:#x}\n"
        "mov qword ptr [rbx + 0x398], rax\nmov qword ptr [rbx + 0x3a0], {size}\nlea rax, [rbx + 0x800]\n"
        "mov qword ptr [rbx + 0x3a8], rax\nmov dword ptr [rbx + 0x800], {value}\n"
        "mov byte ptr [rbx + 0x3fe], 0x3c\n.byte 0xf3, 0x0f, 0x01, 0xd9",
        _X86_LOOP, "mov eax, 0x8000001f\ncpuid", in_linux=True, block=_ghcb_block,
    ),
    CallStub(
        "call kvm", "arm64", ("kvm",), _ARM64_COUNT,
        "movz w0, #0x71\nmovk w0, #0xc600, lsl #16\n" + _ARM64_GPA
        + "\nmov x2, #{size}\nmov x3, #{value}\nhvc #0",
        _ARM64_LOOP, _ARM64_DISCOVERY,
    ),
    CallStub(
        "call kvm, list", "arm64", ("kvm",), _ARM64_COUNT,
        "mov x20, #{most}\ncmp x19, x20\ncsel x20, x19, x20, lo\nmovz w0, #0x72\nmovk w0, #0xc600, lsl #16\n"
        "movz x1, #{block_l:#x}\nmovk x1, #{block_h:#x}, lsl #16\nmov x2, x20\nmov x3, #0\nhvc #0",
        "subs x19, x19, x20\nb.ne again", _ARM64_DISCOVERY, batch=True, block=_list_block,
    ),
    CallStub(
        "call hyperv 0x107", "arm64", ("kvm", "hyperv"), _ARM64_COUNT,
        _ARM64_HV + "\nmov x1, #0x107\n" + _ARM64_BLOCK + "\nmov x3, #0\nhvc #0",
        _ARM64_LOOP, _ARM64_HV + "\nhvc #0", windows=True, block=_mmio_block,
    ),
    CallStub(
        "call hyperv signal", "arm64", ("kvm", "hyperv"), _ARM64_COUNT,
        _ARM64_HV + "\nmovz x1, #0x5d\nmovk x1, #1, lsl #16\nmov x2, #{connection}\nhvc #0",
        _ARM64_LOOP, _ARM64_HV + "\nhvc #0", windows=True,
    ),
    CallStub(
        "call kvm (ePAPR)", "ppc", ("kvm",), _PPC_COUNT, _PPC_WRITE + "sc 1",
        _PPC_LOOP, _PPC_DISCOVERY + "sc 1", stage2="hv",
    ),
    CallStub(
        "call kvm (ePAPR)", "ppc", ("kvm",), _PPC_COUNT, _PPC_WRITE + _MAGIC,
        _PPC_LOOP, _PPC_DISCOVERY + _MAGIC, stage2="pr",
    ),
    CallStub(
        "call kvm, list", "ppc", ("kvm",), _PPC_COUNT,
        _PPC_BATCH_COUNT + "lis 11, 0x2a\nori 11, 11, 0x1c\nli 3, 0\nlis 4, {block_h:#x}\n"
        "ori 4, 4, {block_l:#x}\nmr 5, 15\nli 6, 0\nsc 1",
        _PPC_BATCH_LOOP, _PPC_DISCOVERY + "sc 1", stage2="hv", batch=True, block=_list_block,
    ),
    CallStub(
        "call papr 0x40", "ppc", ("papr",), _PPC_COUNT,
        "li 3, 0x40\nli 4, {size}\nli 5, 0\noris 5, 5, {gpa_h:#x}\nori 5, 5, {gpa_l:#x}\nli 6, {value}\nsc 1",
        _PPC_LOOP, bits=64, stage2="hv", in_linux=True,
    ),
    CallStub(
        "call papr, list", "ppc", ("papr",), _PPC_COUNT,
        _PPC_BATCH_COUNT + "li 3, 0\nori 3, 3, 0xf0c0\n"
        "li 4, 0\noris 4, 4, {block_h:#x}\nori 4, 4, {block_l:#x}\n"
        "mr 5, 15\nli 6, 0\nsc 1",
        _PPC_BATCH_LOOP, bits=64, stage2="hv", batch=True, block=_list_block,
    ),
)  # fmt: skip
"""Every hypercall route of `compare`."""
