"""The run loop around one engine: ``emu_start`` goes on as before, and every fault in between is handled.

Attaching replaces ``emu_start`` and ``emu_stop`` of this one `Uc` object; other engines never notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from unicorn import Uc, UcError
from unicorn.unicorn_const import UC_HOOK_CODE

from .arch.base import Arch, Fault
from .arch.trap import MemoryTrap
from .errors import PvMmioError

__all__ = ["RunLoop"]


@dataclass(slots=True)
class _Run:
    """One ``emu_start`` of the user's."""

    stopped: bool = False
    raised: BaseException | None = None


class RunLoop:
    """``handle(fault)`` completes a faulting instruction; ``ended()`` is called when a run is over."""

    def __init__(
        self,
        uc: Uc,
        arch: Arch,
        trap: MemoryTrap,
        handle: Callable[[Fault], None],
        interrupted: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self._uc, self._arch, self._trap = uc, arch, trap
        self._handle, self._interrupted, self._ended = handle, interrupted, ended
        self._run: _Run | None = None

    def attach(self) -> None:
        """Put the loop in front of the engine. PvMmioError where another one is there already."""
        if "emu_start" in vars(self._uc):
            raise PvMmioError(
                "another PvMmio is attached to this engine, or its emu_start was replaced: "
                "detach that one first"
            )
        self._native_start, self._native_stop = self._uc.emu_start, self._uc.emu_stop
        self._uc.emu_start, self._uc.emu_stop = self.start, self.stop

    def detach(self) -> None:
        """Put the engine's own methods back."""
        vars(self._uc).pop("emu_start", None)
        vars(self._uc).pop("emu_stop", None)

    @property
    def running(self) -> bool:
        """Whether the guest runs, or one of its exits is being handled."""
        return self._run is not None

    @property
    def stopping(self) -> bool:
        """Whether this run is to end: stopped by the user, or by an exception in a callback."""
        return self._run is not None and (self._run.stopped or self._run.raised is not None)

    @property
    def failed(self) -> bool:
        """Whether a callback has raised in this run."""
        return self._run is not None and self._run.raised is not None

    def start(self, begin: int, until: int, timeout: int = 0, count: int = 0) -> None:
        """`Uc.emu_start`: from ``begin`` to ``until``, at most ``timeout`` us or ``count`` instructions."""
        outer, self._run = self._run, _Run()
        try:
            self._trap.refresh()
            if count > 1:
                self._start_counted(begin, until, timeout, count)
            else:
                self._loop(begin, until, timeout, count)
        finally:
            self._run = outer
            if outer is None:
                self._ended()

    def stop(self) -> None:
        """`Uc.emu_stop`: also where the guest is out on an exit."""
        if self._run is not None:
            self._run.stopped = True
        self._native_stop()

    def fail(self, error: BaseException) -> None:
        """An exception in a callback: end the run, and let it reach the caller of ``emu_start``."""
        if self._run is not None and self._run.raised is None:
            self._run.raised = error
        self._native_stop()

    def _loop(self, begin: int, until: int, timeout: int, count: int) -> None:
        run = self._run
        deadline = time.monotonic() + timeout / 1e6 if timeout else None
        while run is not None:
            left = 0 if deadline is None else max(1, int((deadline - time.monotonic()) * 1e6))
            fault = self._native(begin, until, left, count)
            if run.raised is not None:
                raise run.raised
            if fault is None:
                self._interrupted()
                return
            self._handle(fault)
            late = deadline is not None and time.monotonic() >= deadline
            if run.stopped or late or count:
                return
            begin = self._arch.start_address()

    def _native(self, begin: int, until: int, timeout: int, count: int) -> Fault | None:
        """One stretch of the engine; the fault that ended it, if one did."""
        self._trap.fault = None
        try:
            self._native_start(begin, until, timeout, count)
        except UcError as error:
            fault = self._trap.take()
            if fault is not None:
                return fault
            if self._run is not None and self._run.raised is not None:
                return None
            # The binding lets UcError hide what a memory hook of the user's raised (unicorn #1386).
            hidden = self._uc._hook_exception
            if hidden is not None:
                raise hidden from error
            if self._trap.refresh():  # RAM was unmapped under way: there are hooks on it now
                return self._native(self._arch.start_address(), until, timeout, count)
            raise
        return None

    def _start_counted(self, begin: int, until: int, timeout: int, count: int) -> None:
        """``count`` spans restarts, and the engine does not tell how far it came: count here."""
        left = count + 1

        def one_more(uc: Uc, address: int, size: int, user_data: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.stop()

        # An instruction that faulted and was completed outside has been counted when it began.
        hook = self._uc.hook_add(UC_HOOK_CODE, one_more)
        self._uc.ctl_flush_tb()
        try:
            self._loop(begin, until, timeout, 0)
        finally:
            self._uc.hook_del(hook)
            self._uc.ctl_flush_tb()
