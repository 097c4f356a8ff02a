"""The worked examples: machine code, run in a bare engine up to the trap, and the registers there."""

from __future__ import annotations

from typing import Any

from unicorn import Uc
from unicorn import arm64_const as arm64
from unicorn import ppc_const as ppc
from unicorn import x86_const as x86
from unicorn.unicorn_const import (
    UC_ARCH_ARM64,
    UC_ARCH_PPC,
    UC_ARCH_X86,
    UC_HOOK_INSN_INVALID,
    UC_HOOK_INTR,
    UC_MODE_32,
    UC_MODE_64,
    UC_MODE_ARM,
    UC_MODE_BIG_ENDIAN,
    UC_MODE_PPC32,
    UC_MODE_PPC64,
)

CODE = 0x1000

X86_32 = ("eax", "ebx", "ecx", "edx", "esi")
X86_64 = ("rax", "rbx", "rcx", "rdx", "rsi", *(f"r{number}" for number in range(8, 16)))
ARM64 = tuple(f"x{number}" for number in range(4))
PPC = ("r0", *(f"r{number}" for number in range(3, 12)))


def x86_registers(code: str, bits: int) -> dict[str, int]:
    """Under their 64-bit names, as conventions ask for them."""
    uc = Uc(UC_ARCH_X86, UC_MODE_64 if bits == 64 else UC_MODE_32)
    names = X86_64 if bits == 64 else X86_32
    values = _run(uc, code, UC_HOOK_INSN_INVALID, {n: getattr(x86, f"UC_X86_REG_{n.upper()}") for n in names})
    return {("r" + name[1:] if bits == 32 else name): value for name, value in values.items()}


def arm64_registers(code: str) -> dict[str, int]:
    uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
    return _run(uc, code, UC_HOOK_INTR, {n: getattr(arm64, f"UC_ARM64_REG_{n.upper()}") for n in ARM64})


def ppc_registers(code: str, bits: int) -> dict[str, int]:
    uc = Uc(UC_ARCH_PPC, (UC_MODE_PPC64 if bits == 64 else UC_MODE_PPC32) | UC_MODE_BIG_ENDIAN)
    if bits == 64:
        uc.ctl_set_cpu_model(ppc.UC_CPU_PPC64_970FX_V3_1)
    return _run(uc, code, UC_HOOK_INTR, {n: getattr(ppc, f"UC_PPC_REG_{n[1:]}") for n in PPC})


def _run(uc: Uc, code: str, hook: int, numbers: dict[str, int]) -> dict[str, int]:
    seen: dict[str, int] = {}

    def trap(uc: Uc, *details: Any) -> bool:
        seen.update({name: uc.reg_read(number) for name, number in numbers.items()})
        uc.emu_stop()
        return True

    uc.mem_map(CODE, 0x1000)
    uc.mem_write(CODE, bytes.fromhex(code))
    uc.hook_add(hook, trap)
    uc.emu_start(CODE, CODE + 0x1000, count=32)
    return seen
