"""What all descriptors of one eventfd have in common: its identity, its lifetime and its lock.

Lock order: a context's ``lock`` first, the registry's second. The registry's lock is the only one that a
finalizer takes, and it is re-entrant, so garbage collection is safe at every point.
"""

from __future__ import annotations

import errno
import threading
from abc import ABC, abstractmethod
from collections.abc import Hashable
from weakref import ReferenceType, WeakValueDictionary, ref

__all__ = ["COUNT_MAX", "WRITE_MAX", "EventFdContext", "live_contexts", "registry_lock", "would_block"]

COUNT_MAX = 2**64 - 1
"""The largest count; only a signal reaches it."""
WRITE_MAX = 2**64 - 2
"""The largest count that write(2) can make."""

_ROOM_RECHECK = 0.02  # seconds; a reader outside this process wakes nobody here

registry_lock = threading.RLock()
live_contexts: WeakValueDictionary[Hashable, EventFdContext] = WeakValueDictionary()
"""Every context with at least one open descriptor, by what tells eventfd objects apart."""


def would_block(what: str) -> BlockingIOError:
    """The EAGAIN of read(2) and write(2) on a non-blocking eventfd."""
    return BlockingIOError(errno.EAGAIN, what)


class _Own:
    """A context's own descriptor. It is closed when the context has given it up and no signal is using it.

    So a signal on its way in one thread never meets a number that another thread's put() has freed; the
    kernel waits for a grace period there.
    """

    __slots__ = ("_context", "fd")

    def __init__(self, context: EventFdContext, fd: int) -> None:
        self._context: ReferenceType[EventFdContext] = ref(context)
        self.fd = fd

    def __del__(self) -> None:
        context = self._context()
        if context is not None:
            context.close_descriptor(self.fd)


class EventFdContext(ABC):
    """One eventfd object, as opposed to the descriptors that name it: the kernel's ``eventfd_ctx``.

    Two descriptors belong to one eventfd exactly if their contexts are one Python object: compare with
    ``is`` (``==`` is the same). :func:`pvmmio_uc.eventfd.eventfd_context` takes a reference, as the
    kernel's ``eventfd_ctx_fdget`` does, and :meth:`put` drops it, as ``eventfd_ctx_put``. While there is a
    reference the eventfd lives and :meth:`signal` works, also after every EventFd of it was closed. All
    references together use one descriptor.
    """

    __slots__ = ("__weakref__", "_changed", "_descriptors", "_key", "_own", "_references", "_waiters", "lock")

    def __init__(self, fd: int, key: Hashable) -> None:
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._waiters = 0
        self._descriptors = {fd}
        self._own: _Own | None = None
        self._references = 0
        self._key = key
        with registry_lock:
            live_contexts[key] = self

    # -- references and descriptors ---------------------------------------------------------------------

    def take_reference(self, fd: int) -> EventFdContext:
        """Count one reference more; the first one duplicates ``fd``, a descriptor of this eventfd."""
        with registry_lock:
            if not self._references:
                self._own = _Own(self, self.duplicate(fd))
            self._references += 1
        return self

    def put(self) -> None:
        """Drop one reference; the last one gives up the context's own descriptor.

        A :meth:`signal` that another thread has begun is completed. ValueError without a reference.
        """
        with registry_lock:
            if not self._references:
                raise ValueError(f"put() of {self!r}: every reference taken was dropped before")
            self._references -= 1
            if not self._references:
                self._own = None

    def fileno(self) -> int:
        """The descriptor that :meth:`signal` uses. ValueError without a reference."""
        own = self._own
        if own is None:
            raise ValueError(f"{self!r} has no descriptor: take a reference with eventfd_context() first")
        return own.fd

    def duplicate(self, fd: int) -> int:
        """A new descriptor (close-on-exec) of this eventfd from an open one; keeps the context alive."""
        with registry_lock:
            new = self._dup(fd)
            self._descriptors.add(new)
            return new

    def close_descriptor(self, fd: int) -> None:
        """Close a descriptor of this context. With the last one the identity ends: numbers get reused."""
        with registry_lock:
            if fd not in self._descriptors:
                return
            self._descriptors.remove(fd)
            if not self._descriptors and live_contexts.get(self._key) is self:
                del live_contexts[self._key]
            self._close(fd)

    def __del__(self) -> None:
        for fd in list(getattr(self, "_descriptors", ())):
            self.close_descriptor(fd)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} references={self._references} descriptors={len(self._descriptors)}>"

    # -- waiting ----------------------------------------------------------------------------------------

    def wait_for_room(self) -> None:
        """Wait for a reader, with ``lock`` held once or more often; may return early."""
        self._wait_for_change(_ROOM_RECHECK)

    def _wait_for_change(self, timeout: float) -> None:
        self._waiters += 1
        try:
            self._changed.wait(timeout)
        finally:
            self._waiters -= 1

    # -- the backend ------------------------------------------------------------------------------------

    @abstractmethod
    def signal(self) -> None:
        """Add 1, as the kernel's ``eventfd_signal`` (fs/eventfd.c): never blocks, sticks at 2**64-1.

        Needs a reference (ValueError without).
        """

    @abstractmethod
    def signal_through(self, fd: int) -> None:
        """The same through a descriptor of this eventfd, without a reference."""

    @abstractmethod
    def take(self, fd: int) -> int:
        """What read(2) returns, or 0 where it would block; ``lock`` is held."""

    @abstractmethod
    def add(self, fd: int, value: int) -> bool:
        """What write(2) does; False where it would block. ``lock`` is held."""

    @abstractmethod
    def peek(self, fd: int) -> int:
        """The count, left as it is; exact with ``lock`` held."""

    @abstractmethod
    def blocks(self, fd: int) -> bool:
        """Whether read(2) and write(2) wait, or fail with EAGAIN."""

    @abstractmethod
    def wait_readable(self, fd: int, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for a count that is not 0; may return early. ``lock`` is free."""

    @property
    @abstractmethod
    def semaphore(self) -> bool:
        """Whether a read takes 1 instead of the whole count (EFD_SEMAPHORE)."""

    @abstractmethod
    def _dup(self, fd: int) -> int: ...

    @abstractmethod
    def _close(self, fd: int) -> None: ...
