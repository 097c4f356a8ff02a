"""A device model on the bus: two methods, the fit of an access, and who fills in for a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from .bus import Bus
from .errors import AccessRefused
from .exits import Route

__all__ = ["ByteOrder", "Device", "DeviceRegion"]

ByteOrder = Literal["little", "big"]


@runtime_checkable
class Device(Protocol):
    """What `PvMmio.device` takes. ``offset`` is inside the region, ``size`` in bytes.

    ``value`` is the integer as the CPU sees it, or in the region's own byte order where one was
    given. Raise `AccessRefused` for a width or an offset that does not fit; anything else that is
    raised reaches the caller of ``emu_start``.
    """

    def mmio_read(self, offset: int, size: int) -> int:
        """The value of ``size`` bytes at ``offset``."""

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Take ``value``, written to ``size`` bytes at ``offset``."""


class DeviceRegion:
    """A `Device` at a place on the bus. ``order`` tells the byte order at the time of the access."""

    __slots__ = ("_fits", "addr", "bus", "device", "name", "order", "refusal", "refused", "size")

    def __init__(
        self,
        bus: Bus,
        device: Device,
        addr: int,
        size: int,
        order: Callable[[], ByteOrder],
        name: str = "",
    ) -> None:
        self.bus = bus
        self.device, self.addr, self.size, self.order = device, addr, size, order
        self.name = name or type(device).__name__
        self.refused = 0
        self.refusal = ""
        self._fits = True

    @property
    def route(self) -> Route:
        """``device``, or ``error`` while the last access is one that the device refused."""
        return Route.DEVICE if self._fits else Route.ERROR

    def write(self, addr: int, data: bytes) -> bool:
        """Hand the write to the device; one that it refuses is counted and dropped."""
        self._fits = True
        try:
            self.device.mmio_write(addr - self.addr, len(data), int.from_bytes(data, self.order()))
        except AccessRefused as refusal:
            self._refuse(refusal)
        return True

    def read(self, addr: int, size: int) -> bytes | None:
        """Ask the device; a read that it refuses is counted and filled with ones."""
        self._fits = True
        try:
            value = self.device.mmio_read(addr - self.addr, size)
        except AccessRefused as refusal:
            self._refuse(refusal)
            return b"\xff" * size
        if not isinstance(value, int):
            raise TypeError(f"{self!r} answered a read of {addr:#x} with {value!r}: return a whole number")
        return (value & ((1 << (8 * size)) - 1)).to_bytes(size, self.order())

    def _refuse(self, refusal: AccessRefused) -> None:
        self._fits = False
        self.refused += 1
        self.refusal = str(refusal)

    def __repr__(self) -> str:
        return f"<DeviceRegion {self.name} {self.addr:#x}+{self.size:#x}>"
