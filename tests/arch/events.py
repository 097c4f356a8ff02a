"""What one instruction does to memory, as the engine's own hooks tell it."""

from __future__ import annotations

from typing import NamedTuple

from unicorn import Uc, UcError
from unicorn.unicorn_const import UC_HOOK_INTR, UC_HOOK_MEM_READ, UC_HOOK_MEM_WRITE, UC_MEM_WRITE


class Event(NamedTuple):
    """One access."""

    write: bool
    gpa: int
    size: int


class Watched:
    """An engine that executes one instruction at a time, each at an address of its own."""

    def __init__(self, uc: Uc, code: int, code_size: int) -> None:
        self.uc, self._code, self._size, self._used = uc, code, code_size, 0
        self.events: list[Event] = []
        self._interrupted = False
        uc.hook_add(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, self._on_access)
        uc.hook_add(UC_HOOK_INTR, self._on_interrupt)

    def place(self, code: bytes) -> int:
        """Put ``code`` where nothing was; its address."""
        if self._used + 16 > self._size:
            self._used = 0
            self.uc.ctl_flush_tb()
        at = self._code + self._used
        self._used += 16
        self.uc.mem_write(at, code)
        return at

    def step(self, at: int, length: int) -> list[Event] | None:
        """Execute the instruction at ``at``: its accesses, None where it raised an exception."""
        self.events.clear()
        self._interrupted = False
        try:
            self.uc.emu_start(at, at + length, 0, 1)
        except UcError:
            return None
        return None if self._interrupted else self.events

    def _on_access(self, uc: Uc, access: int, gpa: int, size: int, value: int, user_data: object) -> None:
        self.events.append(Event(access == UC_MEM_WRITE, gpa, size))

    def _on_interrupt(self, uc: Uc, number: int, user_data: object) -> None:
        self._interrupted = True
        uc.emu_stop()
