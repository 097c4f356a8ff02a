"""The run loop around one engine: ``emu_start`` goes on as before, and every fault in between is handled.

Attaching replaces ``emu_start`` and ``emu_stop`` of this one `Uc` object; other engines never notice.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count as endless
from types import FrameType
from typing import Any

from unicorn import Uc, UcError
from unicorn.unicorn_const import (
    UC_ERR_FETCH_PROT,
    UC_ERR_FETCH_UNMAPPED,
    UC_ERR_MAP,
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_PROT,
    UC_ERR_WRITE_UNMAPPED,
    UC_HOOK_CODE,
)

from .arch.base import Arch, Fault
from .arch.trap import MemoryTrap
from .crash import EXPLAINED
from .errors import GuestError, PvMmioError

__all__ = ["RunLoop"]

_MEMORY_ERRORS = frozenset(
    {
        UC_ERR_READ_UNMAPPED,
        UC_ERR_WRITE_UNMAPPED,
        UC_ERR_FETCH_UNMAPPED,
        UC_ERR_WRITE_PROT,
        UC_ERR_FETCH_PROT,
    }
)
_INSIST_TIMES, _INSIST_SECONDS, _QUIET_SECONDS = 100, 0.001, 0.02
_BINDING = Uc.emu_start.__code__.co_filename


@dataclass(slots=True)
class _Run:
    """One ``emu_start`` of the user's.

    ``inside`` while the engine has the guest, not its exit; ``answered`` is when the engine's callbacks
    last answered an access, ``in_access`` that the run ends there; ``restart`` where it ended only to go
    on with other hooks. Times are time.monotonic's.
    """

    deadline: float | None = None
    thread: int = field(default_factory=threading.get_ident)
    inside: bool = False
    answered: float = 0.0
    in_access: bool = False
    restart: bool = False
    stopped: bool = False
    raised: BaseException | None = None

    @property
    def late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


class RunLoop:
    """``handle(fault)`` completes a faulting instruction.

    ``interrupted()`` is called where a run ends inside an access that is over, with pc at its
    instruction; ``ended()`` when the outermost run is over.
    """

    def __init__(
        self,
        uc: Uc,
        arch: Arch,
        trap: MemoryTrap,
        handle: Callable[[Fault], None],
        interrupted: Callable[[], None],
        ended: Callable[[], None],
        explain: Callable[[UcError], GuestError],
    ) -> None:
        self._uc, self._arch, self._trap = uc, arch, trap
        self._handle, self._interrupted, self._ended = handle, interrupted, ended
        self._explain = explain
        self._run: _Run | None = None
        self.prepare: Callable[[int], None] | None = None
        """Called with the address before the engine starts there: a last chance to add hooks."""
        self.starting: Callable[[], None] | None = None
        """Called when the user starts the guest, whose code may have changed since."""

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
    def failed(self) -> bool:
        """Whether a callback has raised in this run."""
        return self._run is not None and self._run.raised is not None

    def start(self, begin: int, until: int, timeout: int = 0, count: int = 0) -> None:
        """`Uc.emu_start`: from ``begin`` to ``until``, at most ``timeout`` us or ``count`` instructions."""
        outer = self._run
        # A run inside the callback of an exit: the engine is free, and would lose the outer run's pc.
        pc = self._arch.pc() if outer is not None and not outer.inside else None
        run = _Run()
        clock = self._start_clock(run, timeout)
        self._run = run
        handler = self._catch_interrupts() if outer is None else None
        try:
            self._trap.refresh()
            if self.starting is not None:
                self.starting()
            if count > 1:
                self._start_counted(run, begin, until, count)
            else:
                self._loop(run, begin, until, count)
            if outer is not None and outer.inside and (run.stopped or run.late):
                # pc was written last, which inside a callback also moves the outer run: not after this.
                self._native_start(self._arch.start_address(), self._arch.start_address())
        finally:
            self._run = outer
            if pc is not None:
                self._arch.set_pc(pc)
            if handler is not None:
                signal.signal(signal.SIGINT, handler)
            if clock is not None:
                clock.cancel()
                clock.join()
            if outer is None:
                self._ended()

    def stop(self) -> None:
        """`Uc.emu_stop`: also where the guest is out on an exit, and from any thread."""
        run = self._run
        if run is not None:
            run.stopped = True
            if run.thread != threading.get_ident():
                self._stop_from_outside(run, range(_INSIST_TIMES))
                return
        self._native_stop()

    def restart(self) -> None:
        """From a callback: leave the engine before the next block, `prepare`, and go on."""
        if self._run is not None:
            self._run.restart = True
            self._native_stop()

    def fail(self, error: BaseException) -> None:
        """An exception in a callback: end the run, and let it reach the caller of ``emu_start``."""
        if self._run is not None and self._run.raised is None:
            self._run.raised = error
        self._native_stop()

    def access_done(self) -> None:
        """The engine's callbacks have answered an access: where the run is to end, let it end here.

        Otherwise another thread could end it between the access and the end of its instruction without
        anybody knowing that the access is over.
        """
        run = self._run
        if run is None:
            return
        run.answered = time.monotonic()
        if run.stopped or run.raised is not None or run.late:
            run.in_access = True
            self._native_stop()

    def _loop(self, run: _Run, begin: int, until: int, count: int) -> None:
        while True:
            fault = self._native(run, begin, until, count)
            if run.raised is not None:
                raise run.raised
            if fault is not None:
                self._handle(fault)
            elif run.in_access:
                self._interrupted()
            again = run.restart if fault is None else not count
            run.restart = False
            if run.stopped or run.late or not again:
                return
            if self._arch.is_at(until):
                return  # the engine would look at what is there, which may not be mapped
            begin = self._arch.start_address()

    def _native(self, run: _Run, begin: int, until: int, count: int) -> Fault | None:
        """One stretch of the engine; the fault that ended it, if one did."""
        self._trap.fault, self._trap.retried = None, False
        if self.prepare is not None:
            self.prepare(begin)
        run.inside = True
        try:
            if run.stopped or run.raised is not None or run.late:
                self._arch.go_to(begin)  # stopped on the way in: where the engine would have begun
            else:
                self._native_start(begin, until, 0, count)
        except UcError as error:
            # The binding lets UcError hide what a hook of the user's raised (unicorn #1386).
            hidden = self._uc._hook_exception
            if hidden is not None:
                raise hidden from error
            fault = self._trap.take()
            if fault is not None and error.errno in _MEMORY_ERRORS:
                return fault
            if run.raised is not None:
                return None
            # RAM was unmapped under way: there are hooks on it now. Or the engine does not look again at
            # the last page of its virtual address space after a hook has mapped it (not reported upstream).
            if self._trap.refresh() or (self._trap.retried and error.errno == UC_ERR_MAP):
                return self._native(run, self._arch.start_address(), until, count)
            if error.errno in EXPLAINED:
                raise self._explain(error) from error
            raise
        finally:
            run.inside = False
        return None

    def _catch_interrupts(self) -> Any:
        """Handle Ctrl-C in the main thread, unless the user handles it; the handler to put back, or None."""
        if threading.current_thread() is not threading.main_thread():
            return None
        handler = signal.getsignal(signal.SIGINT)
        ours = isinstance(getattr(handler, "__self__", None), RunLoop)  # another engine's, which calls this
        if handler is not signal.default_int_handler and not ours:
            return None
        return signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C. It mostly comes as the engine enters a callback, where the binding would drop it.

        So it ends the run in any case, and interrupts what else is going on: a callback that waits.
        """
        self.fail(KeyboardInterrupt())
        if self._run is None or frame is None or frame.f_code.co_filename != _BINDING:
            signal.default_int_handler(number, frame)

    def _start_clock(self, run: _Run, timeout: int) -> threading.Timer | None:
        """Not the engine's, which may stop it in an instruction whose access is over (unicorn #1105),

        takes a thread for every stretch between two exits, and now and then never stops it (unicorn #1174).
        """
        if not timeout:
            return None
        clock = threading.Timer(timeout / 1e6, self._stop_from_outside, (run, endless()))
        clock.daemon = True
        clock.start()
        run.deadline = time.monotonic() + timeout / 1e6  # not before: starting a thread may take that long
        return clock

    def _stop_from_outside(self, run: _Run, tries: Iterable[int]) -> None:
        """Stop the engine from another thread, neither too early nor between an access and its instruction.

        It loses a stop that meets it on its way in: ask again until it is out, but not for ever, since a
        callback may be waiting for this thread. And while it returns from a callback it would take the
        stop before the instruction is over: leave that to `access_done` as long as accesses come.
        """
        for _ in tries:
            if not run.inside:
                if run.stopped or run.late:
                    return
            elif time.monotonic() - run.answered > _QUIET_SECONDS:
                self._native_stop()
            time.sleep(_INSIST_SECONDS)

    def _start_counted(self, run: _Run, begin: int, until: int, count: int) -> None:
        """``count`` spans restarts, and the engine does not tell how far it came: count here."""
        left = count + 1

        def one_more(uc: Uc, address: int, size: int, user_data: object) -> None:
            nonlocal left
            left -= self._run is run  # not those of a run inside one of its callbacks
            if left == 0:
                self.stop()

        # An instruction that faulted and was completed outside has been counted when it began.
        hook = self._uc.hook_add(UC_HOOK_CODE, one_more)
        self._uc.ctl_flush_tb()
        try:
            self._loop(run, begin, until, 0)
        finally:
            self._uc.hook_del(hook)
            self._uc.ctl_flush_tb()
