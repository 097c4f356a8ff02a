"""Hypercall instructions out of the engine: hvc and smc (Arm ARM DDI 0487, C6.2).

Where SCR_EL3.HCE is set hvc is interrupt 11 with pc behind it, and at reset it is undefined: interrupt 1
with pc at it. The immediate is not passed on: it is read from the instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unicorn import Uc
from unicorn.unicorn_const import UC_HOOK_INTR

from ...hypercall.cpu import Call, Outcome
from ..base import CallHandler, Fetched
from ..interrupts import pass_on

__all__ = ["install_calls"]

_UNDEFINED, _HVC, _SMC, _SMC_TRAPPED = 1, 11, 13, 12
_BEHIND = frozenset({_HVC, _SMC})
_MASK = 0xFFE0_001F
_INSTRUCTIONS = {0xD400_0002: "hvc", 0xD400_0003: "smc"}
_LENGTH = 4


def install_calls(uc: Uc, fetch: Callable[[], Fetched], handler: CallHandler) -> list[Any]:
    """Hook interrupts; what is no hypercall goes on to the user's hooks."""

    def interrupt(uc: Uc, number: int, user_data: object) -> None:
        if number not in (_UNDEFINED, _HVC, _SMC, _SMC_TRAPPED):
            pass_on(uc, handler.fail)
            return
        if number in _BEHIND:
            handler.advance(-_LENGTH)
        insn = fetch()
        word = int.from_bytes(insn.code[:_LENGTH], "little")
        name = _INSTRUCTIONS.get(word & _MASK)
        outcome = Outcome.SYSCALL
        if name is not None:
            outcome = handler.call(Call(name, insn.pc, _LENGTH, word >> 5 & 0xFFFF))
        if outcome is Outcome.DONE or (outcome is Outcome.SYSCALL and number in _BEHIND):
            handler.advance(_LENGTH)
        if outcome is Outcome.SYSCALL:
            pass_on(uc, handler.fail)

    return [uc.hook_add(UC_HOOK_INTR, interrupt)]
