"""Eventfds: what a doorbell signals, and what the other side waits for.

An EventFd has a descriptor that select, poll, epoll and asyncio take. It is a real eventfd(2) where there is
one, and else the same behaviour from a counter and a socket pair, which stays inside this process; the
environment variable ``PVMMIO_PORTABLE_EVENTFD=1`` asks for the latter. Registrations keep an
:class:`EventFdContext`, because KVM compares the eventfd itself and not the number of a descriptor:
closing every descriptor of a registered eventfd leaves it registered and signalled, and with no descriptor
left it cannot be named any more.

Sources: eventfd(2); fs/eventfd.c; ``kvm_assign_ioeventfd_idx`` in virt/kvm/eventfd.c.
"""

from __future__ import annotations

import errno
import math
import operator
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

from ._eventfd_context import COUNT_MAX, EventFdContext, would_block
from ._eventfd_linux import LinuxContext
from ._eventfd_portable import PortableContext
from .errors import RegistrationError

__all__ = ["EventFd", "EventFdContext", "eventfd_context"]

_INITIAL_MAX = 2**32 - 1  # eventfd(2) takes an unsigned int
_S32_MAX = 2**31 - 1


def _in_range(what: str, value: int, limit: int) -> int:
    value = operator.index(value)
    if value < 0:
        raise ValueError(f"{what} is {value}: it must be 0 or more")
    if value > limit:
        raise OverflowError(f"{what} is {value:#x}: it must be {limit:#x} or less")
    return value


def _adopt(fd: int) -> tuple[EventFdContext, int]:
    """The context of somebody's descriptor and a duplicate that belongs to it. OSError EBADF, EINVAL."""
    if not 0 <= fd <= _S32_MAX:
        raise OSError(errno.EBADF, f"{fd} is not a descriptor: it must be 0 or more and open")
    try:
        known = PortableContext.adopt(fd)
        if known is not None:
            return known
        if LinuxContext.available():
            return LinuxContext.adopt(fd)
    except OSError as failed:
        if failed.errno != errno.EBADF:
            raise
        raise OSError(errno.EBADF, f"descriptor {fd} is not open") from None
    raise OSError(errno.EINVAL, f"descriptor {fd} is open, but it does not belong to an EventFd")


class EventFd:
    """A descriptor of an eventfd: a 64-bit count that is signalled, and waited for until it is not 0.

    ``initial`` is the first count (0 to 2**32-1). ``semaphore``: a read takes 1 instead of the whole count.
    ``blocking``: whether :meth:`read` and :meth:`write` wait or raise BlockingIOError (EAGAIN); it belongs
    to the eventfd and so to all its descriptors. A descriptor is close-on-exec. Closing is idempotent and
    happens at the latest with the object. Every method but :meth:`close` raises ValueError when closed, and
    all may be called from any thread.

    A count of 2**64-1 can only come from signals, and of a real eventfd only the kernel can set it. When a
    signal from this process finds 2**64-2 there, every EventFd of the process reads 2**64-1, but another
    process, or whoever reads the descriptor by other means, sees 2**64-2.
    """

    __slots__ = ("__weakref__", "_context", "_fd")

    _context: EventFdContext

    def __init__(self, initial: int = 0, *, semaphore: bool = False, blocking: bool = True) -> None:
        self._fd = -1
        initial = _in_range("initial", initial, _INITIAL_MAX)
        portable = os.environ.get("PVMMIO_PORTABLE_EVENTFD") == "1" or not LinuxContext.available()
        backend = PortableContext if portable else LinuxContext
        self._context, self._fd = backend.create(initial, semaphore=semaphore, blocking=blocking)

    @classmethod
    def from_fd(cls, fd: int) -> EventFd:
        """Adopt an eventfd that somebody else made; ``fd`` stays theirs, to use and to close.

        OSError with EBADF if ``fd`` is negative or not open, EINVAL if it is open and not an eventfd. The
        eventfd keeps its mode. Every EventFd of one eventfd has the same context, whichever way it was
        made; only on kernels that show no ``eventfd-id`` (before 5.2) and refuse kcmp(2) do two bare
        descriptors of one eventfd count as two eventfds.
        """
        return cls._of(*_adopt(operator.index(fd)))

    @classmethod
    def _of(cls, context: EventFdContext, fd: int) -> EventFd:
        self = cls.__new__(cls)
        self._context, self._fd = context, fd
        return self

    def dup(self) -> EventFd:
        """A second descriptor of the same eventfd."""
        return self._of(self._context, self._duplicate())

    def _duplicate(self) -> int:
        with self._context.lock:
            return self._context.duplicate(self.fileno())

    def fileno(self) -> int:
        """The descriptor; readable while the count is not 0."""
        if self._fd < 0:
            raise ValueError("the EventFd is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether this descriptor was closed; the eventfd may live on through others."""
        return self._fd < 0

    @property
    def count(self) -> int:
        """The count, left as it is."""
        with self._context.lock:
            return self._context.peek(self.fileno())

    def signal(self) -> None:
        """Add 1 as the kernel does: it never waits, and the count sticks at 2**64-1."""
        with self._context.lock:
            self._context.signal_through(self.fileno())

    def write(self, value: int) -> None:
        """Add ``value`` as write(2) does.

        A sum above 2**64-2 does not fit: that waits for a reader, or raises BlockingIOError. OSError with
        EINVAL for 2**64-1; ValueError for less than 0, OverflowError for 2**64 and more.
        """
        if _in_range("value", value, COUNT_MAX) == COUNT_MAX:
            raise OSError(errno.EINVAL, f"an eventfd cannot be written {value:#x}, only up to {value - 1:#x}")
        with self._context.lock:
            while not self._context.add(self.fileno(), value):
                if not self._context.blocks(self.fileno()):
                    raise would_block(f"{value:#x} more does not fit into the count: read it first")
                self._context.wait_for_room()

    def read(self) -> int:
        """Take the count as read(2) does: all of it, or 1 in semaphore mode.

        At 0 it waits, or raises BlockingIOError.
        """
        with self._context.lock:
            got = self._context.take(self.fileno())
            if not got and not self._context.blocks(self.fileno()):
                raise would_block("the count is 0")
        return got or self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for a count that is not 0 and read it; 0 if none came within ``timeout`` seconds.

        Waits in either mode; None waits for ever, 0 or less not at all. As with read(2), closing the
        EventFd does not end a wait that has begun.
        """
        with self._context.lock:
            got = self._context.take(self.fileno())
        if got or (timeout is not None and timeout <= 0):
            return got
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        if math.isnan(deadline):
            raise ValueError("the timeout is not a number")
        with self._pinned() as fd:
            while True:
                self._context.wait_readable(fd, max(0.0, deadline - time.monotonic()))
                with self._context.lock:
                    got = self._context.take(fd)
                # 0 before the deadline: another thread was faster
                if got or time.monotonic() >= deadline:
                    return got

    @contextmanager
    def _pinned(self) -> Iterator[int]:
        """A descriptor that nobody closes, so that its number cannot become another file's meanwhile."""
        fd = self._duplicate()
        try:
            yield fd
        finally:
            self._context.close_descriptor(fd)

    def _reference(self) -> EventFdContext:
        with self._context.lock:
            if self._fd < 0:
                raise OSError(errno.EBADF, "the EventFd is closed")
            return self._context.take_reference(self._fd)

    def close(self) -> None:
        """Close this descriptor. Registrations of the eventfd stay, and go on signalling it."""
        with self._context.lock:
            fd, self._fd = self._fd, -1
        self._context.close_descriptor(fd)

    def __enter__(self) -> EventFd:
        self.fileno()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # not close(): a finalizer may run inside any lock but the registry's
        if getattr(self, "_fd", -1) >= 0:
            self._context.close_descriptor(self._fd)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an EventFd cannot be copied or pickled: use dup(), or pass the descriptor on")

    def __repr__(self) -> str:
        if self._fd < 0:
            return "<EventFd closed>"
        try:
            count = str(self._context.peek(self._fd))  # without the lock: a debugger may ask at any time
        except OSError:  # closed by another thread, or behind its back
            count = "?"
        semaphore = " semaphore" if self._context.semaphore else ""
        portable = " portable" if isinstance(self._context, PortableContext) else ""
        return f"<EventFd fd={self._fd} count={count}{semaphore}{portable}>"


def eventfd_context(source: EventFd | int) -> EventFdContext:
    """Take a reference to an eventfd, as the kernel's ``eventfd_ctx_fdget`` does for a registration.

    ``source`` is an EventFd or a descriptor. Give the reference back with :meth:`EventFdContext.put`.
    RegistrationError with EBADF for a closed EventFd and for a number that is no open descriptor, with
    EINVAL for a descriptor that is no eventfd; TypeError for anything else.
    """
    try:
        if isinstance(source, EventFd):
            return source._reference()
        if isinstance(source, int) and not isinstance(source, bool):
            context, fd = _adopt(source)
            try:
                return context.take_reference(fd)
            finally:
                context.close_descriptor(fd)
    except OSError as failed:
        raise RegistrationError(failed.errno or errno.EINVAL, failed.strerror or "") from None
    raise TypeError(f"an EventFd or a descriptor was expected, not {type(source).__name__}: {source!r}")
