"""The guest's side of the PV MMIO calls on arm64: three functions in assembly, for a guest to be built with.

    int      guest_write(uint64_t gpa, uint32_t size, uint64_t value);
    int      guest_read(uint64_t gpa, uint32_t size, uint64_t *value);
    uint32_t guest_write_list(uint64_t list, uint32_t count);

A status is 0 or SMCCC's: -3 (size, alignment, an address in RAM), -4 (nobody claims the address). ``list``
is the gpa of ``count`` elements of 24 bytes (u64 gpa, u64 value, u32 size, u32 flags 0), 8-byte aligned,
170 at most, in one page; the result is the index behind the last one done, ``count`` for all. There is no
call of its own to signal with: a doorbell is rung by guest_write.

They follow the AAPCS64: arguments in X0, W1, X2, the result in W0; clobbered are X0 to X17, X30 and the
flags. ``value`` is a number in the device's byte order, which is little-endian.

The first call looks for the interface (SMCCC_VERSION of at least 1.1, the UID of KVM's vendor-specific
calls, bits 16 to 18 of w3 of their FEATURES) and keeps what it finds in the state block:

    +0  u32  0 not looked yet, 1 the calls are there, 2 they are not
    +4  u32  written by the boot code: not 0 where there is a hypervisor to call. The device tree tells:
             the node /psci has the conduit as its ``method``. Without one hvc is undefined

Without the calls, and from when one is answered -1 (unknown number: the host was changed under the guest), an
access is a plain one at gva = gpa, behind a barrier, since a call is a full one. It has no status of its
own, but checks size and alignment as a call does: -3. Write 0 to +0 to look again.
"""

from __future__ import annotations

from ..layout import Variant
from .machine import VARIANTS

__all__ = ["CALLS", "CONDUITS", "NOT_LOOKED", "STATE_BYTES", "STORES", "guest_library"]

CONDUITS = ("hvc", "smc")
"""The instructions to call with: the ``method`` of the device tree's /psci."""

NOT_LOOKED, CALLS, STORES = 0, 1, 2
"""What the first word of the state block may hold."""

STATE_BYTES = 8
"""The size of the state block, which is aligned to it."""


def guest_library(variant: Variant, *, state: int, conduit: str = "hvc") -> str:
    """Keystone source of the functions, for ``variant``; it runs at any address.

    ``state`` is the gpa of the state block, zeroed before the first call but for its second word.
    ValueError where ``variant``, ``conduit`` or ``state`` is not one that this code can be made for.
    """
    if variant not in VARIANTS:
        raise ValueError(f"arm64 has no {variant}; there are {VARIANTS}")
    if conduit not in CONDUITS:
        raise ValueError(f"conduit={conduit!r}: arm64 takes {', '.join(map(repr, CONDUITS))}")
    if state % STATE_BYTES or not 0 <= state < 1 << 64:
        raise ValueError(f"state={state:#x}: arm64 takes a multiple of {STATE_BYTES} below {1 << 64:#x}")
    return _CODE.format(call=f"{conduit}  #0", load_state=_load_state(state))


def _load_state(state: int) -> str:
    """x9 := ``state``."""
    rest = [(shift, state >> shift & 0xFFFF) for shift in (16, 32, 48)]
    first = f"movz x9, #{state & 0xFFFF:#x}"
    return "; ".join([first, *(f"movk x9, #{part:#x}, lsl #{shift}" for shift, part in rest if part)])


_CODE = """
guest_write:                        // x0 gpa, w1 size, x2 value
    stp  x29, x30, [sp, #-16]!
    bl   guest_found
    b.ne guest_write_store
    mov  x4, x0
    mov  w5, w1
    mov  x6, x2
    mov  x3, x2
    mov  w2, w1
    mov  x1, x0
    movz w0, #0xc600, lsl #16
    movk w0, #0x71
    {call}
    cmn  w0, #1
    b.ne guest_leave
    mov  w10, #2
    str  w10, [x9]
    mov  x0, x4
    mov  w1, w5
    mov  x2, x6
guest_write_store:
    bl   guest_store
guest_leave:
    ldp  x29, x30, [sp], #16
    ret

guest_read:                         // x0 gpa, w1 size, x2 where to
    stp  x29, x30, [sp, #-16]!
    bl   guest_found
    mov  x4, x0
    mov  w5, w1
    mov  x6, x2
    b.ne guest_read_load
    mov  w2, w1
    mov  x1, x0
    movz w0, #0xc600, lsl #16
    movk w0, #0x70
    {call}
    cmn  w0, #1
    b.ne guest_read_end
    mov  w10, #2
    str  w10, [x9]
guest_read_load:
    bl   guest_load
guest_read_end:
    str  x1, [x6]
    b    guest_leave

guest_write_list:                   // x0 list, w1 count
    stp  x29, x30, [sp, #-16]!
    bl   guest_found
    mov  x4, x0
    mov  w5, w1
    mov  w6, wzr
    b.ne guest_list_stores
guest_list_more:                    // a host may stop early: go on at w6
    mov  w3, w6
    mov  w2, w5
    mov  x1, x4
    movz w0, #0xc600, lsl #16
    movk w0, #0x72
    {call}
    cmn  w0, #1
    b.eq guest_list_withdrawn
    mov  w6, w1
    cbnz w0, guest_list_end
    cmp  w6, w5
    b.lo guest_list_more
guest_list_end:
    mov  w0, w6
    b    guest_leave
guest_list_withdrawn:
    mov  w10, #2
    str  w10, [x9]
guest_list_stores:                  // from element w6
    tst  x4, #7
    b.ne guest_list_end
    cmp  w5, #170
    b.hi guest_list_end
    mov  w7, #24
    and  w8, w4, #0xfff
    madd w8, w5, w7, w8
    cmp  w8, #1, lsl #12
    b.hi guest_list_end
    umaddl x4, w6, w7, x4
guest_list_next:
    cmp  w6, w5
    b.hs guest_list_end
    ldp  w1, w7, [x4, #16]
    cbnz w7, guest_list_end
    ldp  x0, x2, [x4]
    bl   guest_store
    cbnz w0, guest_list_end
    add  w6, w6, #1
    add  x4, x4, #24
    b    guest_list_next

guest_store:                        // x0 gpa, w1 size, x2 value; changes w0, w3
    sub  w3, w1, #1
    tst  x0, x3
    b.ne guest_store_bad
    dmb  osh
    cmp  w1, #4
    b.eq guest_store_4
    cmp  w1, #8
    b.eq guest_store_8
    cmp  w1, #2
    b.eq guest_store_2
    cmp  w1, #1
    b.ne guest_store_bad
    strb w2, [x0]
    b    guest_store_end
guest_store_2:
    strh w2, [x0]
    b    guest_store_end
guest_store_4:
    str  w2, [x0]
    b    guest_store_end
guest_store_8:
    str  x2, [x0]
guest_store_end:
    mov  w0, wzr
    ret
guest_store_bad:
    mov  w0, #-3
    ret

guest_load:                         // x4 gpa, w5 size; the value to x1; changes w0, w3
    mov  w0, #-3
    mov  x1, xzr
    sub  w3, w5, #1
    tst  x4, x3
    b.ne guest_load_bad
    dmb  osh
    cmp  w5, #4
    b.eq guest_load_4
    cmp  w5, #8
    b.eq guest_load_8
    cmp  w5, #2
    b.eq guest_load_2
    cmp  w5, #1
    b.ne guest_load_bad
    ldrb w1, [x4]
    b    guest_load_end
guest_load_2:
    ldrh w1, [x4]
    b    guest_load_end
guest_load_4:
    ldr  w1, [x4]
    b    guest_load_end
guest_load_8:
    ldr  x1, [x4]
guest_load_end:
    dmb  osh
    mov  w0, wzr
guest_load_bad:
    ret

guest_found:                        // equal: by calls; x9 the state block; keeps x0 to x2
    {load_state}
    ldr  w10, [x9]
    cbnz w10, guest_found_known
    ldr  w10, [x9, #4]
    stp  x29, x30, [sp, #-48]!
    stp  x0, x1, [sp, #16]
    str  x2, [sp, #32]
    cbz  w10, guest_found_none
    movz w0, #0x8000, lsl #16
    {call}
    movz w1, #1, lsl #16
    cmp  w0, w1                     // signed: a version of 1.1, and no error
    b.le guest_found_none
    movz w0, #0x8600, lsl #16
    movk w0, #0xff01
    {call}
    movz w4, #0xb66f, lsl #16
    movk w4, #0xb428
    cmp  w0, w4
    b.ne guest_found_none
    movz w4, #0xe911, lsl #16
    movk w4, #0xc52e
    cmp  w1, w4
    b.ne guest_found_none
    movz w4, #0x564b, lsl #16
    movk w4, #0xcaa9
    cmp  w2, w4
    b.ne guest_found_none
    movz w4, #0x743a, lsl #16
    movk w4, #0x004d
    cmp  w3, w4
    b.ne guest_found_none
    movz w0, #0x8600, lsl #16
    {call}
    mov  w10, #1
    and  w3, w3, #0x70000
    cmp  w3, #0x70, lsl #12
    b.eq guest_found_keep
guest_found_none:
    mov  w10, #2
guest_found_keep:
    {load_state}
    str  w10, [x9]
    ldr  x2, [sp, #32]
    ldp  x0, x1, [sp, #16]
    ldp  x29, x30, [sp], #48
guest_found_known:
    cmp  w10, #1
    ret
"""
