"""The guest's side of the PV MMIO calls on x86: three functions in assembly, for a guest to be built with.

    int      guest_write(uint64_t gpa, uint32_t size, uint64_t value);
    int      guest_read(uint64_t gpa, uint32_t size, uint64_t *value);
    uint32_t guest_write_list(uint64_t list, uint32_t count);

A status is 0 or KVM's: -22 (size, alignment, an address in RAM), -6 (nobody claims the address). ``list``
is the gpa of ``count`` elements of 24 bytes (u64 gpa, u64 value, u32 size, u32 flags 0), 8-byte aligned,
170 at most, in one page; the result is the index behind the last one done, ``count`` for all. There is no
call of its own to signal with: a doorbell is rung by guest_write.

64-bit code follows the System V ABI: RDI, ESI, RDX; clobbered are RAX, RCX, RDX, RSI, RDI, R8 to R11 and the
flags. 32- and 16-bit code follows cdecl, and 16-bit code as GCC's ``-m16`` has it: arguments in 32-bit slots
from [ESP + 4], a 32-bit return address, real mode, addresses of data relative to DS; clobbered are EAX,
ECX, EDX and the flags. ``value`` is a number in the device's byte order, which is little-endian.

The first call looks for the interface (CPUID.1:ECX[31], KVM's signature at 0x40000000 and 0x40000100, bit
23 of the features) and keeps what it finds in the state block, in the guest's byte order:

    +0  u32  0 not looked yet, 1 the calls are there, 2 they are not
    +4  u32  not used on x86; elsewhere the boot code says here that there is a hypervisor

Without the calls, and from when one is answered -1000 (unknown number: the host was changed under the guest),
an access is a plain one at gva = gpa. It has no status of its own, but checks as a call does what it can
see: -22 for size and alignment, -14 for an address that this code cannot reach. 8 bytes are two accesses in
code of 32 and 16 bits, the lower half first. Write 0 to +0 to look again.
"""

from __future__ import annotations

from ..layout import Variant
from ._stubs_32 import CODE_32, WORDS_16, WORDS_32
from ._stubs_64 import CODE_64
from .machine import VARIANTS

__all__ = ["CALLS", "CONDUITS", "NOT_LOOKED", "STATE_BYTES", "STORES", "guest_library"]

CONDUITS = ("vmcall", "vmmcall")
"""The instructions to call with. KVM patches the one that the processor lacks, in real mode only vmcall."""

NOT_LOOKED, CALLS, STORES = 0, 1, 2
"""What the first word of the state block may hold."""

STATE_BYTES = 8
"""The size of the state block, which is aligned to it."""


def guest_library(variant: Variant, *, state: int, conduit: str = "vmcall") -> str:
    """Keystone source of the functions, for ``variant``; it runs at any address.

    ``state`` is the gpa of the state block, zeroed before the first call. ValueError where
    ``variant``, ``conduit`` or ``state`` is not one that this code can be made for.
    """
    if variant not in VARIANTS:
        raise ValueError(f"x86 has no {variant}; there are {VARIANTS}")
    if conduit not in CONDUITS:
        raise ValueError(f"conduit={conduit!r}: x86 takes {', '.join(map(repr, CONDUITS))}")
    top = 1 << (20 if variant.bits == 16 else variant.bits)
    if state % STATE_BYTES or not 0 <= state < top:
        raise ValueError(
            f"state={state:#x}: {variant.bits}-bit code takes a multiple of {STATE_BYTES} below {top:#x}"
        )
    if variant.bits == 64:
        return CODE_64.format(conduit=conduit, state=f"{state:#x}")
    words = WORDS_16 if variant.bits == 16 else WORDS_32
    place = {"state": f"{state:#x}", "segment": f"{state >> 4:#x}", "offset": f"{state & 15:#x}"}
    return CODE_32.format(conduit=conduit, **{name: text.format(**place) for name, text in words.items()})
