"""x86 instructions that KVM's emulator or this one would have to do more for than move a value."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unicorn.x86_const import UC_X86_REG_MM0, UC_X86_REG_XMM0

from tests.arch.refusals import Guest, check_refused
from tests.arch.x86.encode_x86 import FLAGS, general

GUEST = Guest(
    arch="x86",
    dialect="x86-64",
    before="cmp ebp, edx",
    after="inc r8\nmov [r9], r8\ninc r8",
    registers={"rax": 0x55, "rcx": 4, "rdx": 2, "rbp": 1, "r8": 7, "rsp": 0x8000},
    at_device=("rbx", "rsi", "rdi"),
    ram="r9",
    numbers=(*general(64), FLAGS),
    vectors=(UC_X86_REG_XMM0, UC_X86_REG_MM0),
)
ON_STACK = replace(GUEST, at_device=("rsp", "rbp"))

READ_MODIFY_WRITE = """
    add byte ptr [rbx], al; add dword ptr [rbx], 1; adc word ptr [rbx], ax; and qword ptr [rbx], rax
    or byte ptr [rbx], 1; inc dword ptr [rbx]; not dword ptr [rbx]; neg qword ptr [rbx]
    lock add dword ptr [rbx], eax; lock xadd dword ptr [rbx], eax; xchg dword ptr [rbx], eax
    xchg byte ptr [rbx], al; lock cmpxchg dword ptr [rbx], ecx; cmpxchg dword ptr [rbx], ecx
    cmpxchg8b qword ptr [rbx]; cmpxchg16b xmmword ptr [rbx]; bts dword ptr [rbx], 3
    lock btr dword ptr [rbx], 3; shl dword ptr [rbx], 1; rol byte ptr [rbx], cl; shld dword ptr [rbx], eax, 3
"""
READS = """
    add eax, dword ptr [rbx]; cmp dword ptr [rbx], eax; cmp eax, dword ptr [rbx]; test byte ptr [rbx], 1
    cmovz eax, dword ptr [rbx]; cmovnz eax, dword ptr [rbx]; imul eax, dword ptr [rbx]
    imul eax, dword ptr [rbx], 3; bt dword ptr [rbx], 3; mul dword ptr [rbx]; div dword ptr [rbx]
    popcnt eax, dword ptr [rbx]; bsf eax, dword ptr [rbx]; crc32 eax, dword ptr [rbx]
    mov ds, word ptr [rbx]; lss eax, [rbx]; lgdt [rbx]; lidt [rbx]; lar eax, word ptr [rbx]
    verr word ptr [rbx]; xlatb; ldmxcsr dword ptr [rbx]; fldcw word ptr [rbx]; fxrstor [rbx]
"""
WRITES = """
    setz byte ptr [rbx]; setnz byte ptr [rbx]; sldt word ptr [rbx]; str word ptr [rbx]; smsw word ptr [rbx]
    sgdt [rbx]; sidt [rbx]; fnstcw word ptr [rbx]; fnstsw word ptr [rbx]; stmxcsr dword ptr [rbx]
    fxsave [rbx]; fnsave [rbx]; fnstenv [rbx]
"""
STRINGS = """
    movsb; movsq; stosb; stosq; lodsb; lodsw; scasd; cmpsb; rep movsb; rep stosd; rep lodsb; repne scasb
"""
CONTROL = "push qword ptr [rbx]; pop qword ptr [rbx]; call qword ptr [rbx]; jmp qword ptr [rbx]"
STACK = "push rax; push 1; pop rax; pushfq; popfq; call 0x2000; ret; retfq; leave; enter 8, 0; iretq"
VECTORS = """
    movups [rbx], xmm0; movups xmm0, [rbx]; movaps [rbx], xmm0; movdqa xmm0, [rbx]; movdqu [rbx], xmm0
    movntdq [rbx], xmm0; movntps [rbx], xmm0; lddqu xmm0, [rbx]; movntdqa xmm0, [rbx]
    movq qword ptr [rbx], xmm0; movq xmm0, qword ptr [rbx]; movd dword ptr [rbx], xmm0
    movd xmm0, dword ptr [rbx]; movss dword ptr [rbx], xmm0; movsd xmm0, qword ptr [rbx]
    movsd qword ptr [rbx], xmm0; movhps [rbx], xmm0; movlps xmm0, [rbx]; addps xmm0, [rbx]
    pshufb xmm0, [rbx]; pinsrw xmm0, word ptr [rbx], 1; cvtsi2sd xmm0, dword ptr [rbx]
    movq qword ptr [rbx], mm0; movd mm0, dword ptr [rbx]; movntq qword ptr [rbx], mm0
"""
FLOATS = """
    fld dword ptr [rbx]; fld qword ptr [rbx]; fld xword ptr [rbx]; fst dword ptr [rbx]; fstp qword ptr [rbx]
    fstp xword ptr [rbx]; fild dword ptr [rbx]; fist dword ptr [rbx]; fistp qword ptr [rbx]
    fadd dword ptr [rbx]; fbld [rbx]
"""
OTHER_BYTES = {
    "movsxd with a 16-bit target": ".66 67 63 03",
    "outsb": ".6e",
    "insb": ".6c",
    "rep outsd": ".f3 6f",
    "xrelease xchg": ".f3 87 03",
}


def statements(*texts: str) -> list[str]:
    return [s.strip() for text in texts for line in text.splitlines() for s in line.split(";") if s.strip()]


@pytest.mark.parametrize(
    "what", statements(READ_MODIFY_WRITE, READS, WRITES, STRINGS, CONTROL, VECTORS, FLOATS)
)
def test_not_plain(what: str) -> None:
    check_refused(GUEST, what)


@pytest.mark.parametrize("what", OTHER_BYTES.values(), ids=OTHER_BYTES)
def test_not_plain_bytes(what: str) -> None:
    check_refused(GUEST, what)


@pytest.mark.parametrize("what", statements(STACK))
def test_stack_on_a_device(what: str) -> None:
    check_refused(ON_STACK, what)
