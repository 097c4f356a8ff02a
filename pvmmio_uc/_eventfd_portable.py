"""An eventfd made of a counter and a socket pair, for systems without eventfd(2).

The descriptor is the read end; it holds one byte exactly while the count is not 0. So it can be given to
select, poll, epoll, kqueue and asyncio to wait for a signal, but not to read(2) and write(2), not to another
process, and it is always writable.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Hashable
from contextlib import suppress

from ._eventfd_context import COUNT_MAX, WRITE_MAX, EventFdContext, live_contexts, registry_lock

__all__ = ["PortableContext"]

_WAIT_CAP = 3600.0  # seconds; a lock's time-out has an upper bound


class _Socket(socket.socket):
    """A socket that is closed when nobody has it any more, and that does not warn about it."""

    def __del__(self) -> None:
        self.close()


def _identity(fd: int) -> Hashable:
    """The same for every descriptor of one socket. OSError EBADF if it is not open."""
    status = os.fstat(fd)
    return ("socket", status.st_dev, status.st_ino)


class PortableContext(EventFdContext):
    """An eventfd that lives in this process."""

    __slots__ = ("_bell", "_blocking", "_count", "_ringing", "_semaphore", "_sockets")

    def __init__(self, initial: int, *, semaphore: bool, blocking: bool) -> None:
        ear, bell = (_Socket(fileno=end.detach()) for end in socket.socketpair())
        bell.setblocking(False)
        ear.setblocking(False)
        self._bell = bell
        self._sockets = {ear.fileno(): ear}
        self._semaphore = semaphore
        self._blocking = blocking
        self._count = 0
        self._ringing = False
        super().__init__(ear.fileno(), _identity(ear.fileno()))
        self._raise(initial)

    @classmethod
    def create(cls, initial: int, *, semaphore: bool, blocking: bool) -> tuple[PortableContext, int]:
        """A new eventfd and its first descriptor."""
        context = cls(initial, semaphore=semaphore, blocking=blocking)
        return context, next(iter(context._sockets))

    @classmethod
    def adopt(cls, raw: int) -> tuple[EventFdContext, int] | None:
        """The context of the read end ``raw`` and a duplicate; None if it is none. OSError EBADF."""
        with registry_lock:
            context = live_contexts.get(_identity(raw))
            return None if context is None else (context, context.duplicate(raw))

    @property
    def semaphore(self) -> bool:
        """As it was made."""
        return self._semaphore

    def signal(self) -> None:
        """Add 1, up to 2**64-1."""
        own = self._own  # kept to the end: it keeps the sockets open
        if own is None:
            self.fileno()  # says why that is an error
        with self.lock:
            if self._count < COUNT_MAX:
                self._raise(1)

    def signal_through(self, fd: int) -> None:
        """Add 1; which descriptor makes no difference."""
        with self.lock:
            if self._count < COUNT_MAX:
                self._raise(1)

    def take(self, fd: int) -> int:
        """The count, or 1 of it."""
        got = min(self._count, 1) if self._semaphore else self._count
        if got:
            self._count -= got
            if not self._count:
                self._silence(self._sockets[fd])
            if self._waiters:
                self._changed.notify_all()
        return got

    def add(self, fd: int, value: int) -> bool:
        """As write(2), except that a full count does not show in poll(2)."""
        if self._count + value > WRITE_MAX:
            return False
        self._raise(value)
        return True

    def peek(self, fd: int) -> int:
        """The count."""
        return self._count

    def blocks(self, fd: int) -> bool:
        """As it was made."""
        return self._blocking

    def wait_readable(self, fd: int, timeout: float) -> None:
        """Wait for a change, unless the count is not 0 already."""
        with self.lock:
            if not self._count:
                self._wait_for_change(min(timeout, _WAIT_CAP))

    def _raise(self, value: int) -> None:
        self._count += value
        if self._count and not self._ringing:
            self._ringing = True
            with suppress(BrokenPipeError):  # every read end was closed behind the EventFds' backs
                self._bell.send(b"\1")
        if self._waiters:
            self._changed.notify_all()

    def _silence(self, ear: socket.socket) -> None:
        self._ringing = False
        with suppress(BlockingIOError):  # somebody read the byte by other means
            ear.recv(1)

    def _dup(self, fd: int) -> int:
        # any will do: fd may be somebody else's number for this socket
        ear = next(iter(self._sockets.values())).dup()
        self._sockets[ear.fileno()] = ear
        return ear.fileno()

    def _close(self, fd: int) -> None:
        ear = self._sockets.pop(fd)
        if not self._sockets:
            self._bell.close()
        ear.close()
