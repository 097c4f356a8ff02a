"""The code of `stubs` for 64-bit code: to be formatted with ``conduit`` and ``state``."""

from __future__ import annotations

__all__ = ["CODE_64"]

CODE_64 = """
guest_write:                                # rdi gpa, esi size, rdx value
    call guest_found
    jne  guest_store
    push rbx
    mov  rbx, rdi
    mov  ecx, esi
    mov  eax, 27
    {conduit}
    pop  rbx
    cmp  eax, -1000
    je   guest_write_withdrawn
    ret
guest_write_withdrawn:
    mov  dword ptr [r10], 2
guest_store:                                # eax the status, equal where it is 0; changes ecx
    mov  eax, -22
    lea  ecx, [rsi - 1]
    test rdi, rcx
    jne  guest_store_end
    cmp  esi, 1
    je   guest_store_1
    cmp  esi, 2
    je   guest_store_2
    cmp  esi, 4
    je   guest_store_4
    cmp  esi, 8
    jne  guest_store_end
    mov  qword ptr [rdi], rdx
    jmp  guest_store_done
guest_store_1:
    mov  byte ptr [rdi], dl
    jmp  guest_store_done
guest_store_2:
    mov  word ptr [rdi], dx
    jmp  guest_store_done
guest_store_4:
    mov  dword ptr [rdi], edx
guest_store_done:
    xor  eax, eax
guest_store_end:
    ret

guest_read:                                 # rdi gpa, esi size, rdx where to
    mov  r8, rdx
    call guest_found
    jne  guest_load
    push rbx
    mov  rbx, rdi
    mov  ecx, esi
    xor  edx, edx
    mov  eax, 26
    {conduit}
    pop  rbx
    cmp  eax, -1000
    jne  guest_read_end
    mov  dword ptr [r10], 2
guest_load:
    mov  eax, -22
    xor  edx, edx
    lea  ecx, [rsi - 1]
    test rdi, rcx
    jne  guest_read_end
    cmp  esi, 1
    je   guest_load_1
    cmp  esi, 2
    je   guest_load_2
    cmp  esi, 4
    je   guest_load_4
    cmp  esi, 8
    jne  guest_read_end
    mov  rdx, qword ptr [rdi]
    jmp  guest_load_done
guest_load_1:
    mov  dl, byte ptr [rdi]
    jmp  guest_load_done
guest_load_2:
    mov  dx, word ptr [rdi]
    jmp  guest_load_done
guest_load_4:
    mov  edx, dword ptr [rdi]
guest_load_done:
    xor  eax, eax
guest_read_end:
    mov  qword ptr [r8], rdx
    ret

guest_write_list:                           # rdi list, esi count
    call guest_found
    mov  edx, 0
    jne  guest_list_stores
    push rbx
    mov  rbx, rdi
guest_list_more:                            # a host may stop early: go on at edx
    mov  ecx, esi
    mov  eax, 28
    {conduit}
    test eax, eax
    jne  guest_list_failed
    cmp  edx, esi
    jb   guest_list_more
guest_list_failed:
    pop  rbx
    cmp  eax, -1000
    je   guest_list_withdrawn
    mov  eax, edx
    ret
guest_list_withdrawn:
    mov  dword ptr [r10], 2
guest_list_stores:                          # from element edx
    mov  r8d, edx
    mov  r9d, esi
    test edi, 7
    jne  guest_list_end
    cmp  esi, 170
    ja   guest_list_end
    mov  eax, edi
    and  eax, 4095
    lea  ecx, [rsi + 2*rsi]
    lea  eax, [rax + 8*rcx]
    cmp  eax, 4096
    ja   guest_list_end
    lea  ecx, [r8 + 2*r8]
    lea  r11, [rdi + 8*rcx]
guest_list_next:
    cmp  r8d, r9d
    jae  guest_list_end
    cmp  dword ptr [r11 + 20], 0
    jne  guest_list_end
    mov  rdi, qword ptr [r11]
    mov  rdx, qword ptr [r11 + 8]
    mov  esi, dword ptr [r11 + 16]
    call guest_store
    jne  guest_list_end
    inc  r8d
    add  r11, 24
    jmp  guest_list_next
guest_list_end:
    mov  eax, r8d
    ret

guest_found:                                # equal: by calls; r10 state; changes eax, r9, r11
    movabs r10, {state}
    mov  eax, dword ptr [r10]
    test eax, eax
    jne  guest_found_known
    push rbx
    push rcx
    push rdx
    mov  r11d, 2
    mov  eax, 1
    cpuid
    bt   ecx, 31
    jnc  guest_found_keep
    mov  r9d, 0x40000000
guest_found_look:
    mov  eax, r9d
    cpuid
    cmp  ebx, 0x4b4d564b
    jne  guest_found_next
    cmp  ecx, 0x564b4d56
    jne  guest_found_next
    cmp  edx, 0x4d
    je   guest_found_kvm
guest_found_next:
    add  r9d, 0x100
    cmp  r9d, 0x40000200
    jb   guest_found_look
    jmp  guest_found_keep
guest_found_kvm:
    lea  eax, [r9 + 1]
    cpuid
    bt   eax, 23
    jnc  guest_found_keep
    mov  r11d, 1
guest_found_keep:
    mov  eax, r11d
    mov  dword ptr [r10], eax
    pop  rdx
    pop  rcx
    pop  rbx
guest_found_known:
    cmp  eax, 1
    ret
"""
