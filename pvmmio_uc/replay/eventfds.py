"""The eventfds of a scenario by their ids, and the descriptors that are none."""

from __future__ import annotations

import errno
import os
import select

from ..eventfd import EventFd
from .steps import EventFdId

__all__ = ["EventFds"]

_NEVER_OPEN = (1 << 31) - 1


class EventFds:
    """Makes an eventfd at the first mention of its id; close it to give all descriptors back."""

    def __init__(self) -> None:
        self._open: dict[int, EventFd] = {}  # in the order of their first mention
        self._others: dict[str, int] = {}

    def named(self, eventfd: int) -> EventFd:
        """The eventfd of a number: non-blocking, made now if the number has none."""
        if eventfd not in self._open:
            self._open[eventfd] = EventFd(blocking=False)
        return self._open[eventfd]

    def source(self, eventfd: EventFdId) -> EventFd | int:
        """What a registration names: an eventfd, or the number of a descriptor that is not one.

        There is no VM descriptor here; ``"vm"`` is another kernel object without a file, an epoll.
        """
        if isinstance(eventfd, int):
            return self.named(eventfd)
        if eventfd == "closed":
            return _NEVER_OPEN
        if eventfd == "neg":
            return -1
        if eventfd not in self._others:
            self._others[eventfd] = os.open(os.devnull, os.O_RDWR) if eventfd == "null" else _anonymous_file()
        return self._others[eventfd]

    def close_one(self, eventfd: int) -> int:
        """Close and forget: 0, or -EBADF where the id has no descriptor."""
        closed = self._open.pop(eventfd, None)
        if closed is None:
            return -errno.EBADF
        closed.close()
        return 0

    def dup(self, eventfd: int, source: int) -> int:
        """``eventfd`` becomes a descriptor of the same eventfd as ``source``, as dup2(2) does: 0."""
        if eventfd != source:
            duplicate = self.named(source).dup()
            self.close_one(eventfd)
            self._open[eventfd] = duplicate
        return 0

    def signal(self, eventfd: int, value: int) -> int:
        """User space writes ``value``: 0 or -errno."""
        try:
            self.named(eventfd).write(value)
        except OSError as error:
            return -(error.errno or errno.EIO)
        return 0

    def drain(self) -> dict[str, int]:
        """Read every counter that is not 0; one with two ids is found under the older."""
        return {str(name): count for name, eventfd in self._open.items() if (count := eventfd.wait(0))}

    def close(self) -> None:
        """Close every descriptor."""
        for eventfd in self._open.values():
            eventfd.close()
        for descriptor in self._others.values():
            os.close(descriptor)
        self._open.clear()
        self._others.clear()


def _anonymous_file() -> int:
    """A descriptor without a file behind it that is no eventfd, on any system."""
    if hasattr(select, "epoll"):
        poll = select.epoll()
        try:
            return os.dup(poll.fileno())
        finally:
            poll.close()
    reader, writer = os.pipe()
    os.close(writer)
    return reader
