"""What a device tree tells a PowerPC guest about hypercalls: the properties' data, byte by byte.

ePAPR's part is the node /hypervisor (Documentation/virt/kvm/ppc-pv.rst; the kernel reads
``hcall-instructions``, whatever that text calls it), PAPR's the words of /rtas. Cells are big-endian and
strings end with a zero byte, for guests of both orders. `pvmmio_uc.arch.ppc.stubs` is such a guest.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["HYPERVISOR_COMPATIBLE", "hcall_instructions", "hypervisor_node", "rtas_node", "string_list"]

HYPERVISOR_COMPATIBLE = "linux,kvm"
"""What /hypervisor is compatible with where KVM's own calls are there."""

_NOP = 0x6000_0000
_INSTRUCTIONS = {
    "hv": (0x4400_0022, _NOP, _NOP, _NOP),  # sc 1
    "pr": (0x3C00_4B56, 0x6000_4D21, 0x4400_0002, _NOP),  # lis 0, "KV"; ori 0, 0, "M!"; sc
}


def hcall_instructions(stage2: str) -> bytes:
    """``hcall-instructions``: the four instructions that a guest executes to call, as big-endian cells.

    A guest turns the cells into its own order as it copies them into its code. ``stage2`` is ``hv`` or
    ``pr``; ValueError otherwise. Source: kvm_vm_ioctl_get_pvinfo in arch/powerpc/kvm/powerpc.c.
    """
    if stage2 not in _INSTRUCTIONS:
        raise ValueError(f"stage2={stage2!r}: ppc takes {', '.join(map(repr, _INSTRUCTIONS))}")
    return b"".join(word.to_bytes(4, "big") for word in _INSTRUCTIONS[stage2])


def hypervisor_node(stage2: str) -> dict[str, bytes]:
    """The properties of /hypervisor by name; ValueError as `hcall_instructions`.

    ``has-idle`` has no data: it says that EV_IDLE is a call.
    """
    return {
        "compatible": string_list([HYPERVISOR_COMPATIBLE]),
        "hcall-instructions": hcall_instructions(stage2),
        "has-idle": b"",
    }


def rtas_node(*, offered: bool = True) -> dict[str, bytes]:
    """The properties of /rtas that name PAPR's calls for MMIO.

    ``hcall-debug`` is H_LOGICAL_CI_LOAD and H_LOGICAL_CI_STORE (LoPAR, "Debugger Support hcall()s"),
    ``hcall-memop1`` KVMPPC_H_LOGICAL_MEMOP (QEMU), ``hcall-ci-list`` this project's list of stores, which is
    absent where the host does not offer it.
    """
    qemu = ["hcall-memop1", *(["hcall-ci-list"] if offered else [])]
    return {
        "ibm,hypertas-functions": string_list(["hcall-debug"]),
        "qemu,hypertas-functions": string_list(qemu),
    }


def string_list(words: Iterable[str]) -> bytes:
    """A property of type string list: every word followed by a zero byte."""
    return b"".join(word.encode("ascii") + b"\0" for word in words)
