"""The code of `stubs` for 32- and 16-bit code: to be formatted with ``conduit`` and one set of words."""

from __future__ import annotations

__all__ = ["CODE_32", "WORDS_16", "WORDS_32"]

WORDS_32 = {
    "frame": "mov  ebp, esp",
    "push_es": "",
    "pop_es": "",
    "es": "",
    "load_state": "mov  eax, dword ptr [{state}]",
    "store_state": "mov  dword ptr [{state}], eax",
    "beyond": "",
    "point": "",
    "beyond_list": "",
    "point_list": "",
}
WORDS_16 = {
    "frame": "movzx ebp, sp",
    "push_es": "push es",
    "pop_es": "pop  es",
    "es": "es:",
    "load_state": "mov  ax, {segment}; mov es, ax; mov eax, dword ptr es:[{offset}]",
    "store_state": "mov  cx, {segment}; mov es, cx; mov dword ptr es:[{offset}], eax",
    "beyond": "test ebx, 0xfff00000; jne guest_check_end",
    "point": "mov  eax, ebx; shr eax, 4; mov es, ax; and ebx, 15",
    "beyond_list": "test ebx, 0xfff00000; jne guest_list_end",
    "point_list": "mov  eax, edi; shr eax, 4; mov es, ax; and edi, 15",
}
"""Where the code of 16 bits differs: it reaches the first megabyte, by way of ES."""

CODE_32 = """
guest_write:                                # gpa at [ebp + 8], size at 16, value at 20
    push ebp
    {frame}
    push ebx
    push esi
    push edi
    {push_es}
    mov  ebx, dword ptr [ebp + 8]
    mov  edi, dword ptr [ebp + 12]
    mov  ecx, dword ptr [ebp + 16]
    mov  edx, dword ptr [ebp + 20]
    mov  esi, dword ptr [ebp + 24]
    call guest_found
    jne  guest_write_store
    call guest_pack
    jne  guest_leave
    mov  eax, 27
    {conduit}
    cmp  eax, -1000
    jne  guest_leave
    call guest_withdrawn
guest_write_store:
    call guest_store
guest_leave:
    {pop_es}
    pop  edi
    pop  esi
    pop  ebx
    pop  ebp
    ret

guest_read:                                 # gpa at [ebp + 8], size at 16, where to at 20
    push ebp
    {frame}
    push ebx
    push esi
    push edi
    {push_es}
    mov  ebx, dword ptr [ebp + 8]
    mov  edi, dword ptr [ebp + 12]
    mov  ecx, dword ptr [ebp + 16]
    xor  edx, edx
    xor  esi, esi
    call guest_found
    jne  guest_read_load
    call guest_pack
    jne  guest_read_end
    mov  eax, 26
    {conduit}
    cmp  eax, -1000
    jne  guest_read_end
    call guest_withdrawn
guest_read_load:
    call guest_load
guest_read_end:
    mov  edi, dword ptr [ebp + 20]
    mov  dword ptr [edi], edx
    mov  dword ptr [edi + 4], esi
    jmp  guest_leave

guest_write_list:                           # list at [ebp + 8], count at 16
    push ebp
    {frame}
    push ebx
    push esi
    push edi
    {push_es}
    mov  ebx, dword ptr [ebp + 8]
    mov  ecx, dword ptr [ebp + 16]
    xor  edx, edx
    cmp  dword ptr [ebp + 12], 0            # a call takes 32 bits
    jne  guest_list_end
    call guest_found
    jne  guest_list_stores
guest_list_more:                            # a host may stop early: go on at edx
    mov  eax, 28
    {conduit}
    test eax, eax
    jne  guest_list_failed
    cmp  edx, ecx
    jb   guest_list_more
guest_list_failed:
    cmp  eax, -1000
    jne  guest_list_end
    call guest_withdrawn
guest_list_stores:                          # from element edx
    {beyond_list}
    test ebx, 7
    jne  guest_list_end
    cmp  ecx, 170
    ja   guest_list_end
    mov  eax, ebx
    and  eax, 4095
    lea  esi, [ecx + 2*ecx]
    lea  eax, [eax + 8*esi]
    cmp  eax, 4096
    ja   guest_list_end
guest_list_next:
    cmp  edx, dword ptr [ebp + 16]
    jae  guest_list_end
    lea  edi, [edx + 2*edx]
    shl  edi, 3
    add  edi, dword ptr [ebp + 8]
    {point_list}
    cmp  dword ptr {es}[edi + 20], 0
    jne  guest_list_end
    push edx
    mov  ebx, dword ptr {es}[edi]
    mov  edx, dword ptr {es}[edi + 8]
    mov  esi, dword ptr {es}[edi + 12]
    mov  ecx, dword ptr {es}[edi + 16]
    mov  edi, dword ptr {es}[edi + 4]
    call guest_store
    test eax, eax
    pop  edx
    jne  guest_list_end
    inc  edx
    jmp  guest_list_next
guest_list_end:
    mov  eax, edx
    jmp  guest_leave

guest_pack:                                 # equal: ecx is the size and the upper gpa; changes eax, edi
    mov  eax, -22
    cmp  ecx, 8
    ja   guest_pack_end
    test edi, 0xff000000
    jne  guest_pack_end
    shl  edi, 8
    or   ecx, edi
    cmp  eax, eax
guest_pack_end:
    ret

guest_check:                                # ebx, edi gpa, ecx size: equal and eax 0 where in reach
    cmp  ecx, 8
    ja   guest_check_bad
    mov  eax, 0b100010110
    bt   eax, ecx
    jnc  guest_check_bad
    lea  eax, [ecx - 1]
    test ebx, eax
    jne  guest_check_bad
    mov  eax, -14
    test edi, edi
    jne  guest_check_end
    {beyond}
    {point}
    xor  eax, eax
    ret
guest_check_bad:
    mov  eax, -22
    test eax, eax
guest_check_end:
    ret

guest_store:                                # edx and esi are the value; eax the status
    call guest_check
    jne  guest_store_end
    cmp  ecx, 2
    jb   guest_store_1
    je   guest_store_2
    mov  dword ptr {es}[ebx], edx
    cmp  ecx, 4
    je   guest_store_end
    mov  dword ptr {es}[ebx + 4], esi
    ret
guest_store_1:
    mov  byte ptr {es}[ebx], dl
    ret
guest_store_2:
    mov  word ptr {es}[ebx], dx
guest_store_end:
    ret

guest_load:                                 # edx and esi, zero before, get the value; eax the status
    call guest_check
    jne  guest_load_end
    cmp  ecx, 2
    jb   guest_load_1
    je   guest_load_2
    mov  edx, dword ptr {es}[ebx]
    cmp  ecx, 4
    je   guest_load_end
    mov  esi, dword ptr {es}[ebx + 4]
    ret
guest_load_1:
    mov  dl, byte ptr {es}[ebx]
    ret
guest_load_2:
    mov  dx, word ptr {es}[ebx]
guest_load_end:
    ret

guest_withdrawn:                            # keep it, and take the arguments that a call has overwritten
    mov  eax, 2
    {store_state}
    mov  edi, dword ptr [ebp + 12]
    mov  ecx, dword ptr [ebp + 16]
    ret

guest_found:                                # equal: by calls; changes eax
    {load_state}
    test eax, eax
    jne  guest_found_known
    push ebx
    push ecx
    push edx
    push esi
    push edi
    mov  esi, 2
    mov  eax, 1
    cpuid
    bt   ecx, 31
    jnc  guest_found_keep
    mov  edi, 0x40000000
guest_found_look:
    mov  eax, edi
    cpuid
    cmp  ebx, 0x4b4d564b
    jne  guest_found_next
    cmp  ecx, 0x564b4d56
    jne  guest_found_next
    cmp  edx, 0x4d
    je   guest_found_kvm
guest_found_next:
    add  edi, 0x100
    cmp  edi, 0x40000200
    jb   guest_found_look
    jmp  guest_found_keep
guest_found_kvm:
    lea  eax, [edi + 1]
    cpuid
    bt   eax, 23
    jnc  guest_found_keep
    mov  esi, 1
guest_found_keep:
    mov  eax, esi
    {store_state}
    pop  edi
    pop  esi
    pop  edx
    pop  ecx
    pop  ebx
guest_found_known:
    cmp  eax, 1
    ret
"""
