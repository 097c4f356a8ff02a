"""Memory traps, the same on every architecture: every access that no memory slot takes becomes a `Fault`.

Two ways, by what is returned to the engine. A hook that returns False ends the run with pc at the
instruction, which is what a stage-2 fault is; one that maps a window with MMIO callbacks and returns True
lets the engine decode, which is what the mail hoped hardware would do.

Hook addresses are guest-physical, guest paging on or off. All hooks are bounded to the holes between
memory slots: unbounded ones would slow every store of the guest four times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unicorn import Uc, UcError
from unicorn.unicorn_const import (
    UC_HOOK_MEM_FETCH_PROT,
    UC_HOOK_MEM_FETCH_UNMAPPED,
    UC_HOOK_MEM_READ_UNMAPPED,
    UC_HOOK_MEM_WRITE_PROT,
    UC_HOOK_MEM_WRITE_UNMAPPED,
    UC_MEM_FETCH_PROT,
    UC_MEM_FETCH_UNMAPPED,
    UC_MEM_READ_UNMAPPED,
)

from ..memory import GuestMemory, Slot
from .base import Fault
from .rewind import Rewind

__all__ = ["MemoryTrap", "Windows"]

_HOLE = (
    UC_HOOK_MEM_READ_UNMAPPED
    | UC_HOOK_MEM_WRITE_UNMAPPED
    | UC_HOOK_MEM_FETCH_UNMAPPED
    | UC_HOOK_MEM_FETCH_PROT  # out of a window
)
_FETCHES = (UC_MEM_FETCH_UNMAPPED, UC_MEM_FETCH_PROT)


class MemoryTrap:
    """Hooks on the holes (and on writes to read-only slots); `fault` is the last that ended a run.

    ``in_place`` may take a fault and return True: the engine then retries the access, and `retried` is set.
    """

    def __init__(self, uc: Uc, memory: GuestMemory, in_place: Callable[[Fault], bool]) -> None:
        self._uc, self._memory, self._in_place = uc, memory, in_place
        self._hooks: list[Any] = []
        self._hooked: tuple[Slot, ...] | None = None
        self._rewind = Rewind(uc)
        self.fault: Fault | None = None
        self.retried = False

    def refresh(self) -> bool:
        """Move the hooks to where the holes are now; True where anything changed."""
        self._memory.refresh()
        if self._hooked == self._memory.slots:
            return False
        self.remove()
        self._hooked = self._memory.slots
        for first, last in self._memory.holes():
            self._hooks.append(self._uc.hook_add(_HOLE, self._trap, None, first, last))
        for first, last in self._memory.read_only():
            self._hooks.append(self._uc.hook_add(UC_HOOK_MEM_WRITE_PROT, self._trap, None, first, last))
        return True

    def remove(self) -> None:
        """Take all hooks out of the engine."""
        for hook in self._hooks:
            self._uc.hook_del(hook)
        self._hooks.clear()
        self._hooked = None

    def take(self) -> Fault | None:
        """The fault that ended the run, once; the CPU is at the instruction."""
        fault, self.fault = self.fault, None
        if fault is not None and fault.write:
            self._rewind.go_back()
        return fault

    def _trap(self, uc: Uc, access: int, gpa: int, size: int, value: int, user_data: object) -> bool:
        last = self.fault
        if last is not None and self._mapped_since(last):
            last = self.fault = None  # a hook of the user's took it, and the guest went on
        if last is not None:
            # The first one is the fault. A store that crosses into the hole comes byte by byte.
            if size == 1 and last.gpa <= gpa <= last.gpa + last.size:
                last.size = gpa - last.gpa + 1
            return False
        fetch = access in _FETCHES
        fault = Fault(gpa, size, not fetch and access != UC_MEM_READ_UNMAPPED, fetch)
        if self._in_place(fault):
            self.retried = True
            return True
        self.fault = fault
        if fault.write:
            self._rewind.mark()
        return False

    def _mapped_since(self, fault: Fault) -> bool:
        self._memory.refresh()
        return self._memory.write_reaches(fault.gpa, 1) if fault.write else fault.gpa in self._memory


class Windows:
    """MMIO regions over the holes that a run touches, taken away again when it ends.

    ``read(gpa, size) -> value`` and ``write(gpa, size, value)`` are called by the engine, which splits
    at 4 bytes (unicorn #2074) and at unaligned addresses, and does not keep pc up to date.
    """

    # A page, so that what is next to a device stays the user's to map and to hook, until there are many:
    # then a guest sweeps its address space. Unmapping costs time by the page (15 to 150 ns each).
    _SMALL, _LARGE, _MANY = 1 << 12, 1 << 24, 64

    def __init__(
        self,
        uc: Uc,
        memory: GuestMemory,
        read: Callable[[int, int], int],
        write: Callable[[int, int, int], None],
    ) -> None:
        self._uc, self._memory, self._read, self._write = uc, memory, read, write
        self._open: list[tuple[int, int]] = []

    def open(self, gpa: int) -> bool:
        """Cover the hole around ``gpa``; False where there is none any more."""
        step = self._SMALL if len(self._open) < self._MANY else self._LARGE
        self._memory.refresh()
        for first, last in self._memory.holes(self._memory.windows):
            if first <= gpa <= last:
                start = max(first, gpa & -step)
                size = min(last, gpa | (step - 1)) - start + 1
                self._uc.mmio_map(start, size, self._on_read, start, self._on_write, start)
                self._open.append((start, size))
                self._memory.windows.add((start, start + size - 1))
                return True
        return False

    def close(self) -> None:
        """Unmap them. With paging on, mem_unmap walks the guest's tables with a physical address and

        leaves CR2 and a pending exception behind (not reported upstream): the CPU state is put back.
        """
        if not self._open:
            return
        context = self._uc.context_save()
        while self._open:
            start, size = self._open.pop()
            self._memory.windows.discard((start, start + size - 1))
            try:
                self._uc.mem_unmap(start, size)
            except UcError:
                continue  # the user has unmapped it
        self._uc.context_restore(context)

    def _on_read(self, uc: Uc, offset: int, size: int, start: int) -> int:
        return self._read(start + offset, size)

    def _on_write(self, uc: Uc, offset: int, size: int, value: int, start: int) -> None:
        self._write(start + offset, size, value)
