"""A real eventfd(2), with the two things that user space cannot do with one by itself.

The kernel's own signal adds 1 to the count up to 2**64-1 and never waits. A write(2) of 1 stops at 2**64-2
and then waits, or fails with EAGAIN, depending on O_NONBLOCK, which belongs to the open file description and
so to everybody who has a descriptor of it. Hence:

* A signal that does not fit is remembered here (``_overflow``) for the readers of this process. Whoever
  reads the descriptor by other means sees 2**64-2, and poll(2) reports no POLLERR.
* An eventfd made here in blocking mode becomes non-blocking just before the values written through EventFd
  can have brought its count to 2**63, and blocking again when the count is below. Nobody waits for a count
  that large, so only a reader that drains it by other means and reads on can notice. Signals therefore need
  no check of their own.
* A blocking eventfd that somebody else made keeps its mode: a signal asks poll(2) first. What remains is that
  another process fills the count up between the two calls.

Not covered: somebody who fills a blocking eventfd made here through the bare descriptor. Then a signal waits
for a reader.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import select
import sys
from contextlib import suppress
from typing import NamedTuple

from ._eventfd_context import COUNT_MAX, WRITE_MAX, EventFdContext, live_contexts, registry_lock

__all__ = ["LinuxContext"]

_NEAR_FULL = 2**63
_POLL_CAP = 3600.0  # seconds; poll(2) takes milliseconds in an int
_RWF_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
_KCMP_FILE = 0
# kcmp(2) by architecture (arch/*/entry/syscalls/*.tbl), 64-bit processes only
_KCMP_NUMBER = {
    "x86_64": 312,
    "aarch64": 272,
    "riscv64": 272,
    "ppc64le": 354,
    "ppc64": 354,
    "s390x": 343,
}


class _FdInfo(NamedTuple):
    counter: int
    number: int | None
    semaphore: bool


def _inspect(fd: int) -> _FdInfo | None:
    """/proc/self/fdinfo of an open descriptor; None if it is not an eventfd.

    fs/eventfd.c, eventfd_show_fdinfo: ``eventfd-count`` in hex, ``eventfd-id`` since 5.2 and
    ``eventfd-semaphore`` since 6.5 in decimal. The id is an errno (negative) where none was free.
    """
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(info, 4096)
    finally:
        os.close(info)
    fields = dict(line.split(b":", 1) for line in text.splitlines() if line.startswith(b"eventfd-"))
    if b"eventfd-count" not in fields:
        return None
    number = int(fields.get(b"eventfd-id", b"-1"))
    semaphore = int(fields.get(b"eventfd-semaphore", b"0")) != 0
    return _FdInfo(int(fields[b"eventfd-count"], 16), number if number >= 0 else None, semaphore)


def _count(fd: int) -> int:
    info = _inspect(fd)
    if info is None:
        raise OSError(errno.EBADF, f"descriptor {fd} was an eventfd and was closed behind its EventFd's back")
    return info.counter


def _same_file(left: int, right: int) -> bool:
    """kcmp(2) of two descriptors; False as well where the kernel or a sandbox does not offer it."""
    number = _KCMP_NUMBER.get(platform.machine()) if sys.maxsize > 2**32 else None
    if number is None:
        return False
    pid = os.getpid()
    answer: int = ctypes.CDLL(None).syscall(number, pid, pid, _KCMP_FILE, left, right)
    return answer == 0


def _poll(fd: int, event: int, timeout: float) -> bool:
    waiter = select.poll()
    waiter.register(fd, event)
    # rounded up: a wait that ends early is repeated, and rounding down would repeat it at full speed
    found = waiter.poll(math.ceil(min(timeout, _POLL_CAP) * 1000) if timeout else 0)
    return bool(found) and found[0][1] & event != 0  # POLLERR alone is a count of 2**64-1


def _read_now(fd: int) -> int:
    """read(2) that does not wait whatever O_NONBLOCK says; 0 if there is nothing to read."""
    if _RWF_NOWAIT:
        buffer = bytearray(8)
        try:
            os.preadv(fd, [buffer], -1, _RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as refused:
            if refused.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
        else:
            return int.from_bytes(buffer, sys.byteorder)
    return _read_if_readable(fd)


def _read_if_readable(fd: int) -> int:
    """For kernels before 5.8, which have no RWF_NOWAIT for eventfds: another process can be faster."""
    if not _poll(fd, select.POLLIN, 0):
        return 0
    with suppress(BlockingIOError):
        return os.eventfd_read(fd)
    return 0


class LinuxContext(EventFdContext):
    """An eventfd of the kernel. ``eventfd-id`` tells it from others, or kcmp(2) where there is none.

    Where there is neither, a bare descriptor never has the same context as another one.
    """

    __slots__ = ("_lifted", "_overflow", "_polls_first", "_semaphore", "_written")

    def __init__(self, fd: int, info: _FdInfo, *, polls_first: bool) -> None:
        self._semaphore = info.semaphore
        self._polls_first = polls_first
        self._overflow = False  # the kernel has 2**64-2, and it should be one more
        self._lifted = False  # blocking, but with O_NONBLOCK set for as long as the count is huge
        self._written = info.counter  # no smaller than the count, signals aside
        super().__init__(fd, object() if info.number is None else ("eventfd-id", info.number))

    @staticmethod
    def available() -> bool:
        """Whether this system has eventfds, and shows their counts."""
        return hasattr(os, "eventfd") and os.path.isdir("/proc/self/fdinfo")

    @classmethod
    def create(cls, initial: int, *, semaphore: bool, blocking: bool) -> tuple[LinuxContext, int]:
        """A new eventfd and its first descriptor."""
        flags = os.EFD_CLOEXEC
        flags |= os.EFD_SEMAPHORE if semaphore else 0
        flags |= 0 if blocking else os.EFD_NONBLOCK
        fd = os.eventfd(initial, flags)
        try:
            info = _inspect(fd) or _FdInfo(initial, None, semaphore)
            return cls(fd, info._replace(semaphore=semaphore), polls_first=False), fd
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def adopt(cls, raw: int) -> tuple[EventFdContext, int]:
        """The context of a descriptor that somebody else owns, and a duplicate. OSError EBADF, EINVAL."""
        with registry_lock:
            fd = os.dup(raw)
            try:
                info = _inspect(fd)
                if info is None:
                    raise OSError(errno.EINVAL, f"descriptor {raw} is open, but it is not an eventfd")
                context = cls._known(fd, info.number) or cls(fd, info, polls_first=os.get_blocking(fd))
            except BaseException:
                os.close(fd)
                raise
            context._descriptors.add(fd)
            return context, fd

    @classmethod
    def _known(cls, fd: int, number: int | None) -> EventFdContext | None:
        if number is not None:
            return live_contexts.get(("eventfd-id", number))
        for context in list(live_contexts.values()):
            if isinstance(context, cls) and _same_file(next(iter(context._descriptors)), fd):
                return context
        return None

    @property
    def semaphore(self) -> bool:
        """EFD_SEMAPHORE; taken to be False for an adopted eventfd on kernels before 6.5, which do not say."""
        return self._semaphore

    def signal(self) -> None:
        """Add 1; see the module's text for what happens at 2**64-2."""
        own = self._own
        if own is None or self._polls_first:
            return self.signal_through(own.fd if own else self.fileno())
        try:
            os.eventfd_write(own.fd, 1)
        except OSError:
            self.signal_through(own.fd)

    def signal_through(self, fd: int) -> None:
        """Add 1 through ``fd``."""
        with self.lock:
            while not self._add_one(fd):
                if _count(fd) >= WRITE_MAX:  # else another process read it between the two calls
                    self._overflow = True
                    return

    def _add_one(self, fd: int) -> bool:
        if self._polls_first and not _poll(fd, select.POLLOUT, 0):
            return False
        try:
            os.eventfd_write(fd, 1)
        except BlockingIOError:
            return False
        return True

    def take(self, fd: int) -> int:
        """As read(2); the signal that did not fit is part of it."""
        got = self._take_overflow(fd) if self._overflow else _read_now(fd)
        if got:
            if self._lifted:
                self._lower(fd)
            if self._waiters:
                self._changed.notify_all()
        return got

    def _take_overflow(self, fd: int) -> int:
        self._overflow = False
        if self._semaphore and _count(fd) == WRITE_MAX:
            return 1
        got = _read_now(fd)
        return COUNT_MAX if got == WRITE_MAX else got

    def add(self, fd: int, value: int) -> bool:
        """As write(2). On an adopted blocking eventfd the count is looked at first."""
        if (self._overflow or self._polls_first) and self.peek(fd) + value > WRITE_MAX:
            return False
        if not self._polls_first:
            self._lift(fd, value)
        try:
            os.eventfd_write(fd, value)
        except BlockingIOError:
            return False
        self._written += value
        self._overflow = False
        return True

    def _lift(self, fd: int, value: int) -> None:
        if self._written + value >= _NEAR_FULL and os.get_blocking(fd):
            os.set_blocking(fd, False)
            self._lifted = True

    def _lower(self, fd: int) -> None:
        self._written = _count(fd)
        if self._written < _NEAR_FULL:
            os.set_blocking(fd, True)
            self._lifted = False

    def peek(self, fd: int) -> int:
        """``eventfd-count`` and the signal that did not fit."""
        count = _count(fd)
        return COUNT_MAX if self._overflow and count == WRITE_MAX else count

    def blocks(self, fd: int) -> bool:
        """O_NONBLOCK as it is now, whoever changed it."""
        return self._lifted or os.get_blocking(fd)

    def wait_readable(self, fd: int, timeout: float) -> None:
        """poll(2)."""
        _poll(fd, select.POLLIN, timeout)

    def _dup(self, fd: int) -> int:
        return os.dup(fd)

    def _close(self, fd: int) -> None:
        os.close(fd)
