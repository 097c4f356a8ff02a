"""The code of `stubs`: to be formatted with ``call``, ``load_state``, and the words of a width and an order.

Within it a 64-bit guest has gpa, size and value in r3, r4 and r5, and a 32-bit one, with the upper halves,
in r3 and r4, r5, r6 and r7: as the call takes them.
"""

from __future__ import annotations

from ..layout import Variant

__all__ = ["CODE", "words"]


def words(variant: Variant) -> dict[str, str]:
    """What CODE leaves open, but for ``call`` and ``load_state``."""
    width = _WIDTH_64 if variant.bits == 64 else _WIDTH_32
    order = _ORDERS[variant.bits, variant.order]
    accesses = _REVERSED if variant.order == "big" else _STRAIGHT
    return {**width, **order, **{name: text.format(**width) for name, text in accesses.items()}}


_WIDTH_32 = {
    "gpa": "4",
    "size": "5",
    "low": "7",
    "start": "6",
    "done": "5",
    "enter": "mflr 0; stwu 1, -64(1); stw 0, 68(1)",
    "leave": "lwz 0, 68(1); mtlr 0; addi 1, 1, 64; blr",
    "save": "stw 3, 16(1); stw 4, 20(1); stw 5, 24(1); stw 6, 28(1); stw 7, 32(1)",
    "take": "lwz 3, 16(1); lwz 4, 20(1); lwz 5, 24(1); lwz 6, 28(1); lwz 7, 32(1)",
    "save_start": "stw 5, 28(1)",
    "save_link": "mflr 0; stw 0, 36(1)",
    "take_link": "lwz 0, 36(1); mtlr 0",
    "reach_list": "cmplwi 3, 0; bne guest_list_out",
    "reach": "li 0, 6; cmplwi 3, 0; bnelr",
    "zero": "li 6, 0; li 7, 0",
    "result": "mr 4, 6; mr 5, 7",
}
_WIDTH_64 = {
    "gpa": "3",
    "size": "4",
    "low": "5",
    "start": "5",
    "done": "4",
    "enter": "mflr 0; stdu 1, -160(1); std 0, 176(1)",
    "leave": "ld 0, 176(1); mtlr 0; addi 1, 1, 160; blr",
    "save": "std 3, 112(1); std 4, 120(1); std 5, 128(1)",
    "take": "ld 3, 112(1); ld 4, 120(1); ld 5, 128(1)",
    "save_start": "std 4, 128(1)",
    "save_link": "mflr 0; std 0, 136(1)",
    "take_link": "ld 0, 136(1); mtlr 0",
    "reach_list": "",
    "reach": "",
    "zero": "li 5, 0",
    "result": "mr 4, 5",
    "take_gpa": "",
    "take_value": "",
    "give_value": "ld 11, 128(1); std 4, 0(11)",
    "take_element": "ld 3, 0(8); lwz 4, 16(8); ld 5, 8(8)",
}
"""By width: registers, the frame, what 32-bit code cannot reach (an upper half that is not 0)."""

_ORDERS = {
    (32, "big"): {
        "take_gpa": "",
        "take_value": "mr 6, 7; mr 7, 8",
        "give_value": "lwz 11, 28(1); stw 4, 0(11); stw 5, 4(11)",
        "take_element": "lwz 3, 0(8); lwz 4, 4(8); lwz 5, 16(8); lwz 6, 8(8); lwz 7, 12(8)",
        "store_8": "stwbrx 7, 0, 4; addi 4, 4, 4; stwbrx 6, 0, 4",
        "load_8": "lwbrx 7, 0, 4; addi 4, 4, 4; lwbrx 6, 0, 4",
    },
    (32, "little"): {
        "take_gpa": "mr 0, 3; mr 3, 4; mr 4, 0",
        "take_value": "mr 6, 8",
        "give_value": "lwz 11, 28(1); stw 5, 0(11); stw 4, 4(11)",
        "take_element": "lwz 3, 4(8); lwz 4, 0(8); lwz 5, 16(8); lwz 6, 12(8); lwz 7, 8(8)",
        "store_8": "stw 7, 0(4); stw 6, 4(4)",
        "load_8": "lwz 7, 0(4); lwz 6, 4(4)",
    },
    (64, "big"): {"store_8": "stdbrx 5, 0, 3", "load_8": "ldbrx 5, 0, 3"},
    (64, "little"): {"store_8": "std 5, 0(3)", "load_8": "ld 5, 0(3)"},
}
"""By order: which register of a pair, and which word in memory, is the upper half."""

_REVERSED = {
    "store_2": "sthbrx {low}, 0, {gpa}",
    "store_4": "stwbrx {low}, 0, {gpa}",
    "load_2": "lhbrx {low}, 0, {gpa}",
    "load_4": "lwbrx {low}, 0, {gpa}",
}
_STRAIGHT = {
    "store_2": "sth {low}, 0({gpa})",
    "store_4": "stw {low}, 0({gpa})",
    "load_2": "lhz {low}, 0({gpa})",
    "load_4": "lwz {low}, 0({gpa})",
}
"""The device is little-endian: a big-endian guest reverses."""

CODE = """
guest_write:
    {enter}
    {take_gpa}
    {take_value}
    {save}
    bl   guest_found
    {take}
    bne  guest_write_store
    lis  11, 0x2a
    ori  11, 11, 0x1b
    {call}
    cmplwi 3, 12
    bne  guest_leave
    bl   guest_withdrawn
    {take}
guest_write_store:
    bl   guest_store
guest_leave:
    {leave}

guest_read:
    {enter}
    {take_gpa}
    {save}
    bl   guest_found
    {take}
    bne  guest_read_load
    lis  11, 0x2a
    ori  11, 11, 0x1a
    {call}
    cmplwi 3, 12
    bne  guest_read_end
    bl   guest_withdrawn
    {take}
guest_read_load:
    bl   guest_load
guest_read_end:
    {give_value}
    b    guest_leave

guest_write_list:
    {enter}
    {take_gpa}
    li   {start}, 0
    {save}
    bl   guest_found
    {take}
    bne  guest_list_stores
guest_list_more:                # a host may stop early: go on where it did
    lis  11, 0x2a
    ori  11, 11, 0x1c
    {call}
    cmplwi 3, 12
    beq  guest_list_withdrawn
    {save_start}
    cmplwi 3, 0
    {take}
    bne  guest_list_end
    cmplw {start}, {size}
    blt  guest_list_more
guest_list_end:
    mr   3, {start}
    b    guest_leave
guest_list_withdrawn:
    bl   guest_withdrawn
    {take}
guest_list_stores:              # r8 the element, r9 its index, r10 the count
    mr   9, {start}
    mr   10, {size}
    {reach_list}
    andi. 0, {gpa}, 7
    bne  guest_list_out
    cmplwi {size}, 170
    bgt  guest_list_out
    mulli 8, {size}, 24
    rlwinm 0, {gpa}, 0, 20, 31
    add  8, 8, 0
    cmplwi 8, 4096
    bgt  guest_list_out
    mulli 8, {start}, 24
    add  8, 8, {gpa}
guest_list_next:
    cmplw 9, 10
    bge  guest_list_out
    lwz  0, 20(8)
    cmplwi 0, 0
    bne  guest_list_out
    {take_element}
    bl   guest_store
    cmplwi 3, 0
    bne  guest_list_out
    addi 9, 9, 1
    addi 8, 8, 24
    b    guest_list_next
guest_list_out:
    mr   3, 9
    b    guest_leave

guest_check:                    # equal and r0 zero where it can be done, else r0 the status
    cmplwi {size}, 8
    bgt  guest_check_bad
    li   0, 1
    slw  0, 0, {size}
    andi. 0, 0, 0x116
    beq  guest_check_bad
    addi 0, {size}, -1
    and. 0, 0, {gpa}
    bne  guest_check_bad
    {reach}
    li   0, 0
    blr
guest_check_bad:
    li   0, 8
    cmplwi 0, 0
    blr

guest_store:                    # changes r0, r3, r12 and what it is given
    mflr 12
    bl   guest_check
    mtlr 12
    bne  guest_store_end
    sync
    cmplwi {size}, 2
    blt  guest_store_1
    beq  guest_store_2
    cmplwi {size}, 4
    beq  guest_store_4
    {store_8}
    b    guest_store_end
guest_store_1:
    stb  {low}, 0({gpa})
    b    guest_store_end
guest_store_2:
    {store_2}
    b    guest_store_end
guest_store_4:
    {store_4}
guest_store_end:
    mr   3, 0
    blr

guest_load:
    mflr 12
    {zero}
    bl   guest_check
    mtlr 12
    bne  guest_load_end
    sync
    cmplwi {size}, 2
    blt  guest_load_1
    beq  guest_load_2
    cmplwi {size}, 4
    beq  guest_load_4
    {load_8}
    b    guest_load_done
guest_load_1:
    lbz  {low}, 0({gpa})
    b    guest_load_done
guest_load_2:
    {load_2}
    b    guest_load_done
guest_load_4:
    {load_4}
guest_load_done:
    sync
guest_load_end:
    mr   3, 0
    {result}
    blr

guest_withdrawn:                # keep it
    li   0, 2
    {load_state}
    stw  0, 0(11)
    blr

guest_found:                    # equal: by calls; changes what a call may
    {load_state}
    lwz  0, 0(11)
    cmplwi 0, 0
    bne  guest_found_known
    lwz  0, 4(11)
    cmplwi 0, 0
    beq  guest_found_none
    {save_link}
    lis  11, 0x2a
    ori  11, 11, 3
    {call}
    {take_link}
    cmplwi 3, 0
    bne  guest_found_none
    andi. 0, 4, 4
    beq  guest_found_none
    li   0, 1
    b    guest_found_keep
guest_found_none:
    li   0, 2
guest_found_keep:
    {load_state}
    stw  0, 0(11)
guest_found_known:
    cmplwi 0, 1
    blr
"""
