"""Which cells there are: architecture x stage 2 x decode x route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..arch import ARCHES
from ..eventfd import EventFd
from ..exits import UserspaceExit
from ..machine import Machine
from ..plugin import Decode, PvMmio
from ..stage2 import PROFILES
from .calls import CALLS, CallStub

__all__ = ["ROUTES", "Cell", "Doorbell", "Route", "cells"]

VALUE = 0x11
PORT = 0x50
DECODES: tuple[Decode, ...] = ("software", "assist")


@dataclass(frozen=True, slots=True)
class Doorbell:
    """What the guest stores: ``address`` is a gpa or a port, ``value`` is as the CPU sees it."""

    address: int
    size: int
    value: int
    order: str

    @property
    def datamatch(self) -> int:
        """The value as KVM on a little-endian host compares it: the guest-memory image, little-endian."""
        image = self.value.to_bytes(self.size, "big" if self.order == "big" else "little")
        return int.from_bytes(image, "little")


Register = Callable[[PvMmio, EventFd, Doorbell], None]


@dataclass(frozen=True, slots=True)
class Route:
    """One way from the guest's store to the eventfd. ``profile`` decides about the fast bus."""

    name: str
    about: str
    pio: bool
    profile: str
    register: Register
    call: CallStub | None = None

    @property
    def unmodified(self) -> bool:
        """Whether a driver that only knows stores and port output can use it."""
        return self.call is None

    @property
    def windows(self) -> bool:
        """Whether a guest that speaks no hypercalls but Hyper-V's can."""
        return self.call is None or self.call.windows


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the comparison. ``stage2`` and ``decode`` are None where the route does not meet them."""

    arch: str
    route: Route
    stage2: str | None
    decode: Decode | None

    @property
    def in_linux(self) -> bool:
        """Whether the kernel of today has it."""
        if self.route.call is not None:
            return self.route.call.in_linux
        if self.stage2 is None or self.route.profile == "linux":
            return True
        return (self.stage2 in PROFILES["linux"].asks) == (self.route.profile == "everywhere")


def _by_hand(pv: PvMmio, eventfd: EventFd, doorbell: Doorbell) -> None:
    def signal(exit_: UserspaceExit) -> None:
        if exit_.write and exit_.address == doorbell.address:
            eventfd.signal()

    pv.on_userspace(signal)


def _datamatch(pv: PvMmio, eventfd: EventFd, doorbell: Doorbell) -> None:
    pv.ioeventfd(eventfd, doorbell.address, doorbell.size, doorbell.datamatch)


def _any_length(pv: PvMmio, eventfd: EventFd, doorbell: Doorbell) -> None:
    pv.ioeventfd(eventfd, doorbell.address)


def _port(pv: PvMmio, eventfd: EventFd, doorbell: Doorbell) -> None:
    pv.ioeventfd(eventfd, doorbell.address, doorbell.size, doorbell.datamatch, pio=True)


ROUTES = (
    Route("user space", "no ioeventfd: the VMM signals", False, "linux", _by_hand),
    Route("datamatch", "length and value compared", False, "linux", _datamatch),
    Route("any length", "on the ordinary bus", False, "off", _any_length),
    Route("fast bus", "PV MMIO eventfd: the address alone", False, "everywhere", _any_length),
    Route("PIO user space", "no ioeventfd: the VMM signals", True, "linux", _by_hand),
    Route("PIO datamatch", "length and value compared", True, "linux", _port),
    *(Route(call.name, "hypercall", False, "linux", _any_length, call) for call in CALLS),
)


def cells(arches: tuple[str, ...] | None = None) -> Iterator[Cell]:
    """Every cell of these architectures (default: all); ports and hypercalls know no way of decoding."""
    for arch in arches or tuple(ARCHES):
        for route in ROUTES:
            if route.pio:
                if ARCHES[arch].has_ports:
                    yield Cell(arch, route, None, None)
                continue
            if route.call is not None:
                if route.call.arch == arch:
                    yield Cell(arch, route, route.call.stage2, None)
                continue
            for stage2 in ARCHES[arch].stage2_kinds:
                for decode in DECODES:
                    yield Cell(arch, route, stage2, decode)


def doorbell_of(machine: Machine, route: Route) -> Doorbell:
    """Where the guest of this row rings."""
    if route.pio:
        return Doorbell(PORT, 1, VALUE, "little")
    return Doorbell(machine.platform.mmio + 0x50, 4, VALUE, machine.variant.order)
