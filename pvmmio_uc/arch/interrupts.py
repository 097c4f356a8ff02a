"""What the engine's INTR hook does to interrupts that are not ours.

With any INTR hook present the engine takes every exception as handled and goes on, for ever where the
exception is a fault; without one it ends the run with UC_ERR_EXCEPTION. So a hook of ours has to end the
run itself, unless the user has a hook of their own, which then decides.
"""

from __future__ import annotations

from collections.abc import Callable

from unicorn import Uc, UcError
from unicorn.unicorn_const import UC_ERR_EXCEPTION
from unicorn.unicorn_py3.unicorn import HOOK_INTR_CFUNC

__all__ = ["pass_on"]


def pass_on(uc: Uc, fail: Callable[[BaseException], None]) -> None:
    """Leave an interrupt to the user's hooks, or end the run as the engine would have done without ours."""
    hooks = sum(isinstance(callback, HOOK_INTR_CFUNC) for callback in uc._callbacks.values())
    if hooks <= 1:
        fail(UcError(UC_ERR_EXCEPTION))
