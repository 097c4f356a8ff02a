"""Hypercall instructions out of the engine: sc, LEV 0 and 1 (Power ISA Book III, "System Call").

Both are interrupt 8 with pc behind the instruction; LEV is read from it.
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

_SYSTEM_CALL = 8
_LENGTH = 4


def install_calls(uc: Uc, fetch: Callable[[], Fetched], handler: CallHandler) -> list[Any]:
    """Hook interrupts; what is no hypercall goes on to the user's hooks."""

    def interrupt(uc: Uc, number: int, user_data: object) -> None:
        if number != _SYSTEM_CALL:
            pass_on(uc, handler.fail)
            return
        handler.advance(-_LENGTH)
        insn = fetch()
        word = int.from_bytes(insn.code[:_LENGTH], handler.code_order())
        outcome = handler.call(Call("sc", insn.pc, _LENGTH, word >> 5 & 0x7F))
        if outcome in (Outcome.DONE, Outcome.SYSCALL):
            handler.advance(_LENGTH)
        if outcome is Outcome.SYSCALL:
            pass_on(uc, handler.fail)

    return [uc.hook_add(UC_HOOK_INTR, interrupt)]
