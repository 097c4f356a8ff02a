"""What the tests of the buses share: a VM and eventfds as fixtures, and short ways to ask them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pvmmio_uc.bus import Bus
from pvmmio_uc.errors import RegistrationError
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.vm import Vm

A = 0x1000000
DATAMATCH, PIO, DEASSIGN, CCW, FAST = 1, 2, 4, 8, 16
U64 = (1 << 64) - 1
NEVER_OPEN = (1 << 31) - 1


def vm_fixture() -> Any:
    """A VM of its own for each test."""

    @pytest.fixture
    def vm() -> Iterator[Vm]:
        vm = Vm()
        yield vm
        vm.close()

    return vm


def eventfd_fixture() -> Any:
    """A non-blocking eventfd of its own for each test."""

    @pytest.fixture
    def eventfd() -> Iterator[EventFd]:
        with EventFd(blocking=False) as made:
            yield made

    return eventfd


def code(call: Callable[..., object], *arguments: object) -> int:
    """The errno of a call, 0 where it succeeds."""
    try:
        call(*arguments)
    except RegistrationError as error:
        return error.errno or -1
    return 0


def fires(bus: Bus, addr: int, data: bytes, eventfd: EventFd) -> int:
    """How much a write adds to ``eventfd``."""
    bus.write(addr, data)
    return eventfd.wait(0)
