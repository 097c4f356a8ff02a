"""The assisted path: the engine's MMIO callbacks hand over address, size and value.

What the mail of 2013 hoped future hardware would do, and about ten times faster than the exact path. What
differs (docs/fidelity.md): accesses arrive in pieces of at most 4 bytes, unaligned writes byte by byte,
pc is not known, and a read never asks the fast bus, since what it returns has to go somewhere.
"""

from __future__ import annotations

from collections import deque

from .arch.base import Arch, LoadStore, fetch
from .exits import Access, Exit, ExitLog, Reason, Route, Steps, heaviest
from .memory import GuestMemory
from .software import UserspaceCall
from .stage2 import Stage2
from .vm import Vm

__all__ = ["AssistPath"]

_PAGE_MASK = 0xFFF


class AssistPath:
    """Answers the callbacks of one engine; the same bus and the same records as the exact path."""

    def __init__(
        self,
        arch: Arch,
        memory: GuestMemory,
        vm: Vm,
        kind: Stage2,
        asks_fast: bool,
        log: ExitLog,
        userspace: UserspaceCall,
    ) -> None:
        self._arch, self._memory, self._vm, self._kind = arch, memory, vm, kind
        self._asks_fast, self._log, self._userspace = asks_fast, log, userspace
        self._order = arch.callback_order()
        self._touched: set[int] = set()
        self._recent: deque[tuple[bool, int, bytes]] = deque(maxlen=4)

    def write(self, gpa: int, size: int, value: int) -> None:
        """One store, or one piece of a wide or unaligned one."""
        steps = Steps(exits=1)
        data = (value & ((1 << (8 * size)) - 1)).to_bytes(size, self._order)
        self._recent.append((True, gpa, data))
        try:
            if self._may_be_fast(gpa) and self._vm.fast_write(gpa, steps):
                accesses = [Access(True, gpa, 0, b"", Route.FAST)]
            else:
                accesses = self._vm.write([(gpa, data)], self._memory, steps, self._exit(steps))
        except BaseException as error:
            self._record(gpa, True, steps, [], f"{type(error).__name__}: {error}")
            raise
        self._record(gpa, True, steps, accesses)

    def read(self, gpa: int, size: int) -> int:
        """One load likewise; its value as the engine wants it."""
        steps = Steps(exits=1)
        self._touch(gpa)
        try:
            data, accesses = self._vm.read([(gpa, size)], self._memory, steps, self._exit(steps))
        except BaseException as error:
            self._record(gpa, False, steps, [], f"{type(error).__name__}: {error}")
            raise
        self._recent.append((False, gpa, data))
        self._record(gpa, False, steps, accesses)
        return int.from_bytes(data, self._order)

    def complete(self) -> None:
        """After a stop inside a callback pc is at an instruction whose access is over: finish it.

        Without this the engine would repeat the access when it is started again. An instruction that
        is no plain load or store is left alone.
        """
        insn = fetch(self._arch, self._memory.load)
        access = self._arch.decode(self._memory.load, insn.code) if insn.code else None
        if access is None or not self._is_over(access):
            return
        if not access.write:
            data = self._gather(access)
            if data is None:
                return
            access.load(data)
        self._arch.advance_pc(access.length)
        access.writeback()

    def _is_over(self, access: LoadStore) -> bool:
        """Whether the last piece was this one's: the engine may have run on to the end of its block."""
        last = access.gva + access.size - 1
        gpa = self._arch.walk(self._memory.load, last).gpa
        write, start, piece = self._recent[-1]
        return write == access.write and gpa is not None and start <= gpa < start + len(piece)

    def _gather(self, access: LoadStore) -> bytes | None:
        """The bytes of a load from the pieces that the engine asked for last."""
        data, first = b"", None
        for write, gpa, piece in reversed(self._recent):
            if write or (first is not None and gpa + len(piece) != first):
                return None
            data, first = piece + data, gpa
            start = (access.gva - first) & _PAGE_MASK
            if start + access.size <= len(data):
                return data[start : start + access.size]
        return None

    def _may_be_fast(self, gpa: int) -> bool:
        touched = self._touch(gpa)
        return self._asks_fast and (touched or not self._kind.first_touch)

    def _touch(self, gpa: int) -> bool:
        """Whether the page has been accessed before; now it has."""
        page = gpa >> 12
        if page in self._touched:
            return True
        if len(self._touched) >= 1 << 16:
            self._touched.clear()
        self._touched.add(page)
        return False

    def _exit(self, steps: Steps) -> _Exit:
        return _Exit(self._userspace, steps)

    def _record(self, gpa: int, write: bool, steps: Steps, accesses: list[Access], note: str = "") -> None:
        route = heaviest(access.route for access in accesses)
        self._log.append(Exit(Reason.MMIO, None, gpa, write, tuple(accesses), route, steps, note))


class _Exit:
    """`Vm`'s idea of user space on top of the plugin's, for an exit without a pc."""

    __slots__ = ("_steps", "_userspace")

    def __init__(self, userspace: UserspaceCall, steps: Steps) -> None:
        self._userspace, self._steps = userspace, steps

    def __call__(self, write: bool, gpa: int, data: bytes) -> bytes:
        return self._userspace(write, gpa, data, None, self._steps)
