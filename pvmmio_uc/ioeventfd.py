"""KVM_IOEVENTFD: a doorbell that signals an eventfd, with the kernel's rules and errnos.

Source: virt/kvm/eventfd.c (kvm_assign_ioeventfd, kvm_deassign_ioeventfd, ioeventfd_in_range,
ioeventfd_check_collision), Documentation/virt/kvm/api.rst 4.59.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from enum import IntFlag
from itertools import islice

from .bus import Bus
from .errors import RegistrationError
from .eventfd import EventFd, EventFdContext, eventfd_context
from .exits import Route

__all__ = ["IoEventFd", "IoEventFdFlag", "IoEventFds"]

U64 = (1 << 64) - 1
_LENGTHS = (0, 1, 2, 4, 8)


class IoEventFdFlag(IntFlag):
    """The flag bits of struct kvm_ioeventfd. ``FAST_MMIO`` is accepted and means nothing."""

    DATAMATCH = 1
    PIO = 2
    DEASSIGN = 4
    VIRTIO_CCW_NOTIFY = 8
    FAST_MMIO = 16


_VALID_FLAGS = 0x1F


class IoEventFd:
    """One registration on one bus. ``datamatch`` None is a wildcard, ``length`` 0 any length."""

    __slots__ = ("addr", "bus", "context", "datamatch", "length", "route")

    def __init__(
        self, bus: Bus, context: EventFdContext, addr: int, length: int, datamatch: int | None, route: Route
    ) -> None:
        self.bus = bus
        self.context = context
        self.addr = addr
        self.length = length
        self.datamatch = datamatch
        self.route = route

    def write(self, addr: int, data: bytes) -> bool:
        """Signal if address, length and value fit; the value is compared as a little-endian host does."""
        if addr != self.addr:
            return False
        if self.length:
            if len(data) != self.length:
                return False
            if self.datamatch is not None and int.from_bytes(data, "little") != self.datamatch:
                return False
        self.context.signal()
        return True

    def read(self, addr: int, size: int) -> bytes | None:
        """Never: a read of a doorbell goes past it."""
        return None

    def __repr__(self) -> str:
        length = self.length or "any"
        match = "" if self.datamatch is None else f", datamatch={self.datamatch:#x}"
        return f"<IoEventFd {self.addr:#x}, length={length}{match}, {self.route}>"


class IoEventFds:
    """All ioeventfds of a VM, and the two calls that change them."""

    def __init__(self, mmio: Bus, pio: Bus, ccw: Bus, fast: Bus) -> None:
        self._mmio, self._pio, self._ccw, self._fast = mmio, pio, ccw, fast
        self._at: dict[tuple[str, int], dict[tuple[int, int | None], IoEventFd]] = {}
        self._fast_twins: dict[int, IoEventFd] = {}

    def __len__(self) -> int:
        return sum(map(len, self._at.values()))

    def __iter__(self) -> Iterator[IoEventFd]:
        return (entry for slot in self._at.values() for entry in slot.values())

    def assign(
        self, source: EventFd | int, addr: int, length: int, flags: int = 0, datamatch: int = 0
    ) -> IoEventFd:
        """Register: from now on a write of ``length`` bytes at exactly ``addr`` adds 1 to the eventfd.

        ``length`` is 1, 2, 4, 8 or 0 for any; ``datamatch`` counts only with the DATAMATCH flag. On
        the MMIO bus a registration of any length is also put on the fast bus. Raises
        RegistrationError with the errno and in the order of the kernel: EINVAL for the arguments,
        EBADF or EINVAL for the descriptor, EEXIST for a collision, ENOSPC for a full bus.
        """
        _check_arguments(addr, length, flags, datamatch)
        bus = self._bus(flags)
        match = datamatch if flags & IoEventFdFlag.DATAMATCH else None
        context = eventfd_context(source)
        try:
            entry = IoEventFd(bus, context, addr, length, match, Route.IOEVENTFD)
            self._check_collision(entry)
            self._register(entry)
        except RegistrationError:
            context.put()
            raise
        return entry

    def deassign(
        self, source: EventFd | int, addr: int, length: int, flags: int = 0, datamatch: int = 0
    ) -> None:
        """Remove the registration whose bus, eventfd, address, length and datamatch are all equal.

        Only the descriptor is validated (EBADF, EINVAL); whatever else does not fit finds nothing: ENOENT.
        """
        context = eventfd_context(source)
        try:
            bus = self._bus(flags)
            match = datamatch if flags & IoEventFdFlag.DATAMATCH else None
            slot = self._at.get((bus.name, addr), {})
            entry = slot.get((length, match))
            if entry is None or entry.context is not context:
                raise RegistrationError(
                    errno.ENOENT,
                    f"no ioeventfd of this eventfd on the {bus.name} bus at {addr:#x}, length {length}, "
                    f"datamatch {'any' if match is None else hex(match)} (there is {_some(slot.values())}): "
                    "bus, eventfd, address, length and datamatch must be as at registration",
                )
            self.remove(entry)
        finally:
            context.put()

    def remove(self, entry: IoEventFd) -> None:
        """Remove what `assign` returned; once more is nothing."""
        slot = self._at.get((entry.bus.name, entry.addr), {})
        if slot.get((entry.length, entry.datamatch)) is not entry:
            return
        entry.bus.unregister(entry.addr, entry.length, entry, ioeventfd=True)
        del slot[entry.length, entry.datamatch]
        if not slot:
            del self._at[entry.bus.name, entry.addr]
        if entry.length == 0 and entry.bus is self._mmio:
            twin = self._fast_twins.pop(entry.addr)
            self._fast.unregister(entry.addr, 0, twin, ioeventfd=True)
        entry.context.put()

    def close(self) -> None:
        """Remove every registration, as destroying the VM does."""
        for entry in list(self):
            self.remove(entry)

    def _bus(self, flags: int) -> Bus:
        if flags & IoEventFdFlag.PIO:
            return self._pio
        return self._ccw if flags & IoEventFdFlag.VIRTIO_CCW_NOTIFY else self._mmio

    def _check_collision(self, new: IoEventFd) -> None:
        slot = self._at.get((new.bus.name, new.addr))
        if not slot:
            return
        other: IoEventFd | None
        if new.length == 0:
            other = next(iter(slot.values()))
        elif new.datamatch is None:
            other = next((entry for entry in slot.values() if entry.length in (0, new.length)), None)
        else:
            keys = ((0, None), (new.length, None), (new.length, new.datamatch))
            other = next((slot[key] for key in keys if key in slot), None)
        if other is not None:
            raise RegistrationError(
                errno.EEXIST,
                f"{new!r} collides with {other!r} on the {new.bus.name} bus: deassign that one, "
                "or tell the two apart by length or datamatch",
            )

    def _register(self, entry: IoEventFd) -> None:
        entry.bus.register(entry.addr, entry.length, entry, ioeventfd=True)
        self._at.setdefault((entry.bus.name, entry.addr), {})[entry.length, entry.datamatch] = entry
        if entry.length == 0 and entry.bus is self._mmio:
            twin = IoEventFd(self._fast, entry.context, entry.addr, 0, None, Route.FAST)
            self._fast.register(entry.addr, 0, twin, ioeventfd=True)
            self._fast_twins[entry.addr] = twin


def _some(entries: Collection[IoEventFd]) -> str:
    shown = [repr(entry) for entry in islice(entries, 3)]
    if len(entries) > len(shown):
        shown.append(f"{len(entries) - len(shown)} more")
    return ", ".join(shown) or "none"


def _check_arguments(addr: int, length: int, flags: int, datamatch: int) -> None:
    """The checks that come before the descriptor is looked at, in the kernel's order; all are EINVAL."""
    if length not in _LENGTHS:
        raise RegistrationError(errno.EINVAL, f"length {length:#x}: give 1, 2, 4, 8, or 0 for any length")
    if not 0 <= addr <= U64 or not 0 <= datamatch <= U64:
        raise RegistrationError(
            errno.EINVAL, f"address {addr:#x} and datamatch {datamatch:#x} must fit in 64 bits"
        )
    if addr + length > U64:
        raise RegistrationError(
            errno.EINVAL, f"{addr:#x}+{length:#x} wraps past 2^64: the last byte must be below 2^64-1"
        )
    if flags & ~_VALID_FLAGS:
        raise RegistrationError(
            errno.EINVAL, f"flags {flags:#x}: the bits {flags & ~_VALID_FLAGS:#x} are not defined"
        )
    if length == 0 and flags & IoEventFdFlag.DATAMATCH:
        raise RegistrationError(
            errno.EINVAL,
            f"length 0 (any) at {addr:#x} with datamatch {datamatch:#x}: "
            "give a length to compare, or no datamatch",
        )
