"""A timer that ends KVM_RUN in its own thread, so that a guest that never exits cannot hold the process.

A POSIX timer sends a real-time signal to the one thread that made it. The signal stays blocked there all
the time; only KVM_RUN unblocks it (KVM_SET_SIGNAL_MASK) and gives it back still pending, with EINTR. So no
handler is needed, none is replaced, it works in any thread, and a signal that comes a moment too early or
too late is neither lost nor delivered to Python.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from ctypes import Structure, byref, c_int, c_int64, c_long, c_uint64
from types import TracebackType

from .ioctls import KVM_SET_SIGNAL_MASK, KVM_SIGNAL_MASK, call

__all__ = ["KICK_SIGNAL", "Watchdog"]

KICK_SIGNAL = signal.SIGRTMAX - 2 if sys.platform == "linux" else 0
"""The signal that is used; nobody else in the process may send it to a thread that runs a guest."""

_TIMER_CREATE, _TIMER_SETTIME, _TIMER_DELETE = 222, 223, 226  # arch/x86/entry/syscalls/syscall_64.tbl
_CLOCK_MONOTONIC = 1
_SIGEV_THREAD_ID = 4
_KERNEL_SIGSET_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)


class _Sigevent(Structure):
    _fields_ = (
        ("sigev_value", c_uint64),
        ("sigev_signo", c_int),
        ("sigev_notify", c_int),
        ("sigev_notify_thread_id", c_int),
        ("padding", c_int * 11),
    )


class _Itimerspec(Structure):
    _fields_ = tuple((name, c_int64) for name in ("interval_s", "interval_ns", "first_s", "first_ns"))


def _syscall(number: int, *arguments: object) -> None:
    """syscall(2): the C library's timer functions live elsewhere in each of its versions."""
    if _libc.syscall(c_long(number), *arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"system call {number}: {os.strerror(code)}")


class Watchdog:
    """Ends KVM_RUN of ``vcpu_fd`` in this thread every ``period`` seconds while the block is open."""

    def __init__(self, vcpu_fd: int, period: float) -> None:
        self._vcpu_fd = vcpu_fd
        self._period = max(1, round(period * 1e9))
        self._timer = c_int(-1)
        self._mask: set[int] = set()

    def __enter__(self) -> Watchdog:
        self._mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL}))
        try:
            open_to = self._mask - {KICK_SIGNAL}
            mask = KVM_SIGNAL_MASK.pack(_KERNEL_SIGSET_BYTES, sum(1 << (number - 1) for number in open_to))
            call(self._vcpu_fd, KVM_SET_SIGNAL_MASK, mask)
            self._start()
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _syscall(_TIMER_DELETE, self._timer)
            self.acknowledge()
        finally:
            self._restore()

    def acknowledge(self) -> None:
        """Take a signal that has come; until then every KVM_RUN ends at once."""
        signal.sigtimedwait({KICK_SIGNAL}, 0)

    def _start(self) -> None:
        event = _Sigevent(
            sigev_signo=KICK_SIGNAL,
            sigev_notify=_SIGEV_THREAD_ID,
            sigev_notify_thread_id=threading.get_native_id(),
        )
        _syscall(_TIMER_CREATE, c_int(_CLOCK_MONOTONIC), byref(event), byref(self._timer))
        period = divmod(self._period, 10**9)
        _syscall(_TIMER_SETTIME, self._timer, c_int(0), byref(_Itimerspec(*period, *period)), None)

    def _restore(self) -> None:
        if KICK_SIGNAL not in self._mask:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})
