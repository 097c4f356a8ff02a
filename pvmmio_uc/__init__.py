"""KVM's doorbells - PV MMIO eventfds and MMIO hypercalls - for any Unicorn engine."""

from ._version import __version__
from .crash import GuestCrash
from .device import Device
from .errors import (
    AccessRefused,
    AssemblyError,
    EmulationFailure,
    FetchFromDevice,
    GuestError,
    GuestException,
    GuestPageFault,
    NeverFires,
    PvMmioError,
    RegistrationError,
    ScenarioError,
    UnsupportedArchitecture,
)
from .eventfd import EventFd
from .exits import Access, Exit, ExitLog, Reason, Route, Steps, UserspaceExit
from .plugin import PvMmio
from .registration import Registration

__all__ = [
    "Access",
    "AccessRefused",
    "AssemblyError",
    "Device",
    "EmulationFailure",
    "EventFd",
    "Exit",
    "ExitLog",
    "FetchFromDevice",
    "GuestCrash",
    "GuestError",
    "GuestException",
    "GuestPageFault",
    "NeverFires",
    "PvMmio",
    "PvMmioError",
    "Reason",
    "Registration",
    "RegistrationError",
    "Route",
    "ScenarioError",
    "Steps",
    "UnsupportedArchitecture",
    "UserspaceExit",
    "__version__",
]
