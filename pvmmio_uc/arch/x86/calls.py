"""Hypercall instructions out of the engine: vmcall, vmmcall, tdcall, vmgexit (Intel SDM 3C, AMD APM 3).

The engine takes all of them as invalid, with pc at the instruction; its hook has no address filter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unicorn import Uc
from unicorn.unicorn_const import UC_HOOK_INSN, UC_HOOK_INSN_INVALID
from unicorn.x86_const import (
    UC_X86_INS_CPUID,
    UC_X86_REG_EAX,
    UC_X86_REG_ECX,
)

from ...hypercall.cpu import Call, Outcome
from ..base import CallHandler, Fetched

__all__ = ["install_calls"]

_INSTRUCTIONS = {
    b"\x0f\x01\xc1": "vmcall",
    b"\x0f\x01\xd9": "vmmcall",
    b"\x66\x0f\x01\xcc": "tdcall",
    b"\xf3\x0f\x01\xd9": "vmgexit",
}
_OUTPUTS = ("rax", "rbx", "rcx", "rdx")


def install_calls(
    uc: Uc, fetch: Callable[[], Fetched], register: Callable[[str], int], handler: CallHandler
) -> list[Any]:
    """Hook the instructions, and cpuid for discovery; ``register`` gives the engine's number of a name."""

    def invalid(uc: Uc, user_data: object) -> bool:
        insn = fetch()
        for code, name in _INSTRUCTIONS.items():
            if insn.code.startswith(code):
                outcome = handler.call(Call(name, insn.pc, len(code)))
                if outcome is Outcome.DONE:
                    handler.advance(len(code))
                return outcome is not Outcome.SYSCALL
        return False

    def cpuid(uc: Uc, user_data: object) -> int:
        leaf, subleaf = uc.reg_read(UC_X86_REG_EAX), uc.reg_read(UC_X86_REG_ECX)
        values = handler.cpuid(leaf, subleaf)
        if values is None:
            return 0
        for name, value in zip(_OUTPUTS, values, strict=True):
            uc.reg_write(register(name), value)
        return 1

    return [
        uc.hook_add(UC_HOOK_INSN_INVALID, invalid),
        uc.hook_add(UC_HOOK_INSN, cpuid, None, 1, 0, UC_X86_INS_CPUID),
    ]
