"""KVM_HYPERV_EVENTFD: the connection ids of a partition and the eventfds that HvCallSignalEvent signals.

Source: arch/x86/kvm/hyperv.c (kvm_vm_ioctl_hv_eventfd); Documentation/virt/kvm/api.rst, KVM_HYPERV_EVENTFD.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from enum import IntFlag
from types import MappingProxyType

from ..errors import RegistrationError
from ..eventfd import EventFd, EventFdContext, eventfd_context

__all__ = ["CONNECTION_ID_MASK", "Connections", "HyperVEventFdFlag"]

CONNECTION_ID_MASK = 0x00FF_FFFF
"""A connection id has 24 bits; 0 is one."""


class HyperVEventFdFlag(IntFlag):
    """The flag bits of struct kvm_hyperv_eventfd."""

    DEASSIGN = 1


_VALID_FLAGS = 1


class Connections:
    """One eventfd per connection id, without length or datamatch."""

    def __init__(self) -> None:
        self._contexts: dict[int, EventFdContext] = {}
        self.contexts: Mapping[int, EventFdContext] = MappingProxyType(self._contexts)
        """What is registered now, by connection id; a view, for `Operations`."""

    def __len__(self) -> int:
        return len(self._contexts)

    def __contains__(self, conn_id: object) -> bool:
        return conn_id in self._contexts

    def hyperv_eventfd(self, conn_id: int, source: EventFd | int | None, flags: int = 0) -> None:
        """The ioctl: `assign`, or with the DEASSIGN flag `deassign`, which does not look at ``source``.

        Raises RegistrationError: EINVAL for undefined flags or a ``conn_id`` that is not of 24 bits,
        then the errnos of the two.
        """
        if flags & ~_VALID_FLAGS:
            raise RegistrationError(
                errno.EINVAL,
                f"flags {flags:#x}: the bits {flags & ~_VALID_FLAGS:#x} are not defined, "
                "give 0 or DEASSIGN (1)",
            )
        if flags & HyperVEventFdFlag.DEASSIGN:
            self.deassign(conn_id)
        else:
            self.assign(conn_id, -1 if source is None else source)

    def assign(self, conn_id: int, source: EventFd | int) -> None:
        """Signal ``source`` for this id from now on.

        Raises RegistrationError: EINVAL for the id, EBADF or EINVAL for the descriptor, EEXIST where the
        id is taken.
        """
        _check(conn_id)
        context = eventfd_context(source)
        if conn_id in self._contexts:
            context.put()
            raise RegistrationError(
                errno.EEXIST,
                f"connection {conn_id:#x} has an eventfd already ({self._contexts[conn_id]!r}): deassign it",
            )
        self._contexts[conn_id] = context

    def deassign(self, conn_id: int) -> None:
        """Forget this id. Raises RegistrationError: EINVAL for the id, ENOENT where it is not registered."""
        _check(conn_id)
        context = self._contexts.pop(conn_id, None)
        if context is None:
            raise RegistrationError(
                errno.ENOENT,
                f"connection {conn_id:#x} has no eventfd; {len(self._contexts)} other connections have one",
            )
        context.put()

    def close(self) -> None:
        """Forget all of them, as destroying the VM does."""
        while self._contexts:
            self._contexts.popitem()[1].put()


def _check(conn_id: int) -> None:
    if conn_id & ~CONNECTION_ID_MASK:
        raise RegistrationError(
            errno.EINVAL, f"connection id {conn_id:#x} is not of 24 bits: give 0 to {CONNECTION_ID_MASK:#x}"
        )
