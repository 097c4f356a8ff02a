"""The guest's side of the PV MMIO calls on ppc: three functions in assembly, for a guest to be built with.

    int      guest_write(uint64_t gpa, uint32_t size, uint64_t value);
    int      guest_read(uint64_t gpa, uint32_t size, uint64_t *value);
    uint32_t guest_write_list(uint64_t list, uint32_t count);

A status is 0 or ePAPR's: 8 (size, alignment, an address in RAM), 7 (nobody claims the address). ``list`` is
the gpa of ``count`` elements of 24 bytes (u64 gpa, u64 value, u32 size, u32 flags 0, in the guest's byte
order), 8-byte aligned, 170 at most, in one page; the result is the index behind the last one done,
``count`` for all. There is no call of its own to signal with: a doorbell is rung by guest_write.

64-bit code follows the ELF ABI (the labels are entry points, without descriptors or TOC): r3, r4, r5. 32-bit
code follows the System V ABI: a uint64_t is a pair of registers, of which the lower-numbered one has the
word at the lower address, so gpa is r3 and r4, size r5, value r7 and r8, ``value`` as a pointer r6, count r5.
The result is in r3; clobbered are r0, r3 to r12, CTR, LR, XER, cr0, cr1, cr5 to cr7. ``value`` is a number in
the device's byte order, which is little-endian: a guest of either order passes the same.

The first call looks for the interface (KVM_HC_FEATURES by the ePAPR call, bit 2 of r4) and keeps what it
finds in the state block, in the guest's byte order:

    +0  u32  0 not looked yet, 1 the calls are there, 2 they are not
    +4  u32  written by the boot code: not 0 where there is a hypervisor to call. The device tree tells:
             the node /hypervisor is compatible with "linux,kvm" (`pvmmio_uc.hypercall.devicetree`)

Without the calls, and from when one is answered 12 (unknown number: the host was changed under the guest), an
access is a plain one at gva = gpa, behind sync, since a call is a full barrier. It has no status of its own,
but checks as a call does what it can see: 8 for size and alignment, 6 for an address that this code cannot
reach. 8 bytes are two accesses in 32-bit code, the lower half first. Write 0 to +0 to look again.
"""

from __future__ import annotations

from ..layout import Variant
from ._stubs_code import CODE, words
from .machine import VARIANTS

__all__ = ["CALLS", "CONDUITS", "NOT_LOOKED", "STATE_BYTES", "STORES", "guest_library"]

_CALLS = {"sc 1": "sc 1", "magic": "lis 0, 0x4b56; ori 0, 0, 0x4d21; sc"}

CONDUITS = tuple(_CALLS)
"""The instructions to call with, as in /hypervisor's hcall-instructions; ``magic`` is "KVM!" in r0 and sc."""

NOT_LOOKED, CALLS, STORES = 0, 1, 2
"""What the first word of the state block may hold."""

STATE_BYTES = 8
"""The size of the state block, which is aligned to it."""


def guest_library(variant: Variant, *, state: int, conduit: str = "sc 1") -> str:
    """Keystone source of the functions, for ``variant``; it runs at any address.

    ``state`` is the gpa of the state block, zeroed before the first call but for its second word.
    ValueError where ``variant``, ``conduit`` or ``state`` is not one that this code can be made for.
    """
    if variant not in VARIANTS:
        raise ValueError(f"ppc has no {variant}; there are {VARIANTS}")
    if conduit not in CONDUITS:
        raise ValueError(f"conduit={conduit!r}: ppc takes {', '.join(map(repr, CONDUITS))}")
    top = 1 << variant.bits
    if state % STATE_BYTES or not 0 <= state < top:
        raise ValueError(
            f"state={state:#x}: {variant.bits}-bit code takes a multiple of {STATE_BYTES} below {top:#x}"
        )
    load_state = _load_state(variant.bits, state)
    return CODE.format(call=_CALLS[conduit], load_state=load_state, **words(variant))


def _load_state(bits: int, state: int) -> str:
    """r11 := ``state``."""
    parts = [state >> shift & 0xFFFF for shift in (48, 32, 16, 0)]
    if bits == 32:
        return f"lis 11, {parts[2]:#x}; ori 11, 11, {parts[3]:#x}"
    top = f"lis 11, {parts[0]:#x}; ori 11, 11, {parts[1]:#x}; sldi 11, 11, 32"
    return f"{top}; oris 11, 11, {parts[2]:#x}; ori 11, 11, {parts[3]:#x}"
