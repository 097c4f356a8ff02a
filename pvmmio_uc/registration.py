"""The handle that a registration returns, and what can be known in advance about one that never fires."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType

from .arch.base import Arch
from .device import Device, DeviceRegion
from .errors import NeverFires
from .ioeventfd import IoEventFd
from .memory import GuestMemory
from .vm import Vm

__all__ = ["Registration", "registered", "why_never", "without_ports"]

_LAST_PORT = 0xFFFF
_LENGTHS = (1, 2, 4, 8)


class Registration:
    """Something on a bus; `remove`, or leaving a ``with`` block, takes it off again."""

    def __init__(self, what: str, remove: Callable[[], None]) -> None:
        self._what = what
        self._remove: Callable[[], None] | None = remove

    def remove(self) -> None:
        """Take it off the bus; a second time is nothing."""
        remove, self._remove = self._remove, None
        if remove is not None:
            remove()

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<Registration of {self._what}{'' if self._remove else ', removed'}>"


def registered(what: str, remove: Callable[[], None], never: str) -> Registration:
    """The handle of something on a bus. ``never`` says why no access can reach it: then warn `NeverFires`.

    Where a filter makes an error of the warning, nothing stays registered.
    """
    handle = Registration(what, remove)
    if never:
        try:
            warnings.warn(f"{what} never fires: {never}", NeverFires, stacklevel=3)
        except NeverFires:
            handle.remove()
            raise
    return handle


def without_ports(arch: Arch, pio: bool) -> str:
    """Why nothing ever happens on the port bus of ``arch``; empty where it does, or another bus is meant."""
    if pio and not arch.has_ports:
        return f"{arch.name} has no port I/O: register at the MMIO address, without pio"
    return ""


def check_numbers(**numbers: object) -> None:
    """TypeError for what is not a whole number."""
    for name, number in numbers.items():
        if not isinstance(number, int):
            raise TypeError(f"{name} is a whole number, not {number!r}")


def check_device(device: object, order: str) -> None:
    """TypeError for an object without the two methods, ValueError for a byte order that there is not."""
    if not isinstance(device, Device):
        raise TypeError(
            f"{device!r} is no device: it needs mmio_read(offset, size) and mmio_write(offset, ...)"
        )
    if order not in ("native", "little", "big"):
        raise ValueError(f"order={order!r}: give 'native', 'little' or 'big'")


def in_memory(memory: GuestMemory, address: int, size: int) -> str:
    """Why a device is behind RAM; empty where it is not."""
    if memory.write_reaches(address, size):
        return f"there is RAM at {address:#x}: the guest's accesses go there; unmap it or move the device"
    return ""


def why_never(entry: IoEventFd, vm: Vm, arch: Arch, decode: str, memory: GuestMemory, fast: bool) -> str:
    """Why no access can reach ``entry``, which KVM accepts all the same; empty where one can."""
    if entry.bus is vm.ccw:
        return "VIRTIO_CCW_NOTIFY is a bus of s390, which no access reaches elsewhere"
    if entry.datamatch is not None and entry.datamatch >> (8 * entry.length):
        return (
            f"datamatch {entry.datamatch:#x} has bits above its {entry.length} bytes: they are compared too"
        )
    if entry.bus is vm.pio:
        if arch.has_ports and (entry.length == 8 or entry.addr > _LAST_PORT):
            return "ports are 0x0 to 0xffff and accesses to them 1, 2 or 4 bytes"
        return without_ports(arch, True)
    if memory.write_reaches(entry.addr, max(entry.length, 1)):
        return f"there is RAM at {entry.addr:#x}: the guest's writes go there; unmap it or move the doorbell"
    if decode == "assist" and entry.length == 8:
        return "decode='assist' sees an 8-byte store as two of 4: use decode='software' or length 0"
    return "" if entry.length == 0 and fast else _hidden(entry)


def _hidden(entry: IoEventFd) -> str:
    """What the bus finds instead of it, because of the order of registration (docs/design.md, "The bus")."""
    lengths = (entry.length,) if entry.length else _LENGTHS
    reason = ""
    for length in lengths:
        for device in entry.bus.find(entry.addr, length).devices:
            if device is entry:
                return ""
            if isinstance(device, DeviceRegion):
                reason = (
                    f"{device!r} was registered first and takes the access: register the doorbell before it"
                )
                break
    return reason or "the bus does not find it behind its neighbours, as on KVM: register it before them"
