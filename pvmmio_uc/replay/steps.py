"""The steps of a recorded scenario, as tests/data/kvm/SCHEMA.md describes them, with whole names.

Addresses are guest-physical or ports, sizes and lengths in bytes, ``data`` is in guest memory order.
Results stay what JSON makes of them (`Result`): they are compared and shown, not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "CloseEventFd",
    "DrainRing",
    "DupEventFd",
    "EventFdId",
    "GuestAccess",
    "IoEventFdCall",
    "IoEventFdCalls",
    "MemoryRead",
    "MemoryWrite",
    "PortRead",
    "PortWrite",
    "RawCall",
    "Result",
    "Scenario",
    "SignalEventFd",
    "Step",
    "Transaction",
    "VmOptions",
    "ZoneCall",
    "ZoneCalls",
]

EventFdId = int | str
Result = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What happens to the VM at one point of a scenario."""


@dataclass(frozen=True)
class IoEventFdCall(Step):
    """KVM_IOEVENTFD, to assign or to deassign."""

    addr: int
    length: int
    flags: int
    eventfd: EventFdId
    datamatch: int = 0


@dataclass(frozen=True)
class IoEventFdCalls(Step):
    """``count`` assigns, each ``stride`` bytes and ``datamatch_stride`` behind the one before."""

    addr: int
    count: int
    stride: int
    length: int
    flags: int
    eventfd: EventFdId
    datamatch: int = 0
    datamatch_stride: int = 0


@dataclass(frozen=True)
class ZoneCall(Step):
    """KVM_REGISTER_COALESCED_MMIO or, with ``unregister``, its opposite."""

    addr: int
    size: int
    pio: int = 0
    unregister: int = 0


@dataclass(frozen=True)
class ZoneCalls(Step):
    """``count`` zones, each ``stride`` bytes behind the one before."""

    addr: int
    count: int
    stride: int
    size: int
    pio: int = 0


@dataclass(frozen=True)
class DrainRing(Step):
    """User space takes everything out of the coalesced ring."""


@dataclass(frozen=True)
class CloseEventFd(Step):
    """Close the descriptor behind an id."""

    eventfd: int


@dataclass(frozen=True)
class DupEventFd(Step):
    """``eventfd`` becomes a duplicate of ``source``."""

    eventfd: int
    source: int


@dataclass(frozen=True)
class SignalEventFd(Step):
    """User space writes ``value`` into an eventfd."""

    eventfd: int
    value: int


@dataclass(frozen=True)
class RawCall(Step):
    """One ioctl by number; ``call`` is its argument, None a null pointer."""

    on: str
    request: int
    call: IoEventFdCall | None


class MemoryWrite(NamedTuple):
    """One data write of an instruction, before it is split."""

    gpa: int
    data: bytes


class MemoryRead(NamedTuple):
    """One data read of an instruction, before it is split."""

    gpa: int
    size: int


class PortWrite(NamedTuple):
    """One element of port output."""

    port: int
    data: bytes


class PortRead(NamedTuple):
    """Port input of so many elements of ``size`` bytes at once."""

    port: int
    size: int
    elements: int


Transaction = MemoryWrite | MemoryRead | PortWrite | PortRead


@dataclass(frozen=True)
class GuestAccess(Step):
    """The guest runs ``code``; ``transactions`` is what that comes to on the bus, None where nobody said."""

    label: str
    code: bytes
    registers: dict[str, int]
    transactions: tuple[Transaction, ...] | None = None


class VmOptions(NamedTuple):
    """What a scenario's VM has besides RAM and one vCPU."""

    irqchip: bool = False
    pit: bool = False
    rom: bool = False


@dataclass(frozen=True)
class Scenario:
    """One line of a scenario file: ``recorded[i]`` is what KVM did at ``steps[i]``."""

    id: str
    vm: VmOptions
    steps: tuple[Step, ...]
    recorded: tuple[Result, ...]
