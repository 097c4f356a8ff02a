"""KVM_HYPERV_EVENTFD: what is refused and with which errno, and what is signalled."""

from __future__ import annotations

import errno
import os

import pytest

from pvmmio_uc.errors import RegistrationError
from pvmmio_uc.eventfd import EventFd
from pvmmio_uc.exits import Access, Route, Steps
from pvmmio_uc.hypercall.connections import CONNECTION_ID_MASK, Connections, HyperVEventFdFlag
from pvmmio_uc.hypercall.operations import Operations, Refusal, Refused
from pvmmio_uc.vm import Vm

from ..doorbells import NEVER_OPEN, code, eventfd_fixture
from .fakes import FakeMemory

DEASSIGN = HyperVEventFdFlag.DEASSIGN
kick = eventfd_fixture()
other = eventfd_fixture()


@pytest.fixture
def connections():
    made = Connections()
    yield made
    made.close()


@pytest.mark.parametrize("conn_id", [0, 1, 0x1234, 0x00FF_FFFF])
def test_ids(connections: Connections, kick: EventFd, conn_id: int) -> None:
    connections.hyperv_eventfd(conn_id, kick)
    assert conn_id in connections
    assert len(connections) == 1


@pytest.mark.parametrize("flags", [0, DEASSIGN])
@pytest.mark.parametrize("conn_id", [*(1 << bit for bit in range(24, 33)), 0x0100_0001, 0xFFFF_FFFF, -1])
def test_an_id_above_24_bits(connections: Connections, kick: EventFd, conn_id: int, flags: int) -> None:
    with pytest.raises(RegistrationError, match="24 bits") as refused:
        connections.hyperv_eventfd(conn_id, kick, flags)
    assert refused.value.errno == errno.EINVAL
    assert len(connections) == 0


@pytest.mark.parametrize("bit", range(32))
def test_flag_bits(connections: Connections, kick: EventFd, bit: int) -> None:
    connections.assign(7, kick)
    expected = 0 if bit == 0 else errno.EINVAL
    assert code(connections.hyperv_eventfd, 7, kick, 1 << bit) == expected
    assert (7 in connections) is bool(expected)


def test_undefined_flags_win_over_deassign(connections: Connections, kick: EventFd) -> None:
    assert code(connections.hyperv_eventfd, 7, kick, 3) == errno.EINVAL


def test_an_id_that_is_taken(connections: Connections, kick: EventFd, other: EventFd) -> None:
    connections.assign(7, kick)
    assert code(connections.assign, 7, other) == errno.EEXIST
    assert code(connections.assign, 7, kick) == errno.EEXIST
    assert code(connections.assign, 8, kick) == 0
    connections.contexts[7].signal()
    assert (kick.wait(0), other.wait(0)) == (1, 0)


def test_deassign(connections: Connections, kick: EventFd) -> None:
    assert code(connections.deassign, 7) == errno.ENOENT
    connections.assign(7, kick)
    assert code(connections.deassign, 8) == errno.ENOENT
    assert code(connections.deassign, 7) == 0
    assert code(connections.deassign, 7) == errno.ENOENT
    assert code(connections.assign, 7, kick) == 0


@pytest.mark.parametrize("source", [None, NEVER_OPEN, -1])
def test_deassign_does_not_look_at_the_descriptor(
    connections: Connections, kick: EventFd, source: int | None
) -> None:
    connections.assign(7, kick)
    connections.hyperv_eventfd(7, source, DEASSIGN)
    assert len(connections) == 0


def test_descriptors(connections: Connections, kick: EventFd) -> None:
    assert code(connections.assign, 7, NEVER_OPEN) == errno.EBADF
    assert code(connections.assign, 7, -1) == errno.EBADF
    assert code(connections.hyperv_eventfd, 7, None) == errno.EBADF
    null = os.open(os.devnull, os.O_RDWR)
    try:
        assert code(connections.assign, 7, null) == errno.EINVAL
    finally:
        os.close(null)
    kick.close()
    assert code(connections.assign, 7, kick) == errno.EBADF
    assert len(connections) == 0


def test_order_of_the_checks(connections: Connections, kick: EventFd) -> None:
    """Arguments, then the descriptor, then whether the id is free."""
    connections.assign(7, kick)
    assert code(connections.assign, 1 << 24, NEVER_OPEN) == errno.EINVAL
    assert code(connections.assign, 7, NEVER_OPEN) == errno.EBADF


def test_a_descriptor_by_number(connections: Connections, kick: EventFd) -> None:
    connections.assign(7, kick.fileno())
    connections.contexts[7].signal()
    assert kick.wait(0) == 1


def test_the_eventfd_outlives_its_descriptors(connections: Connections) -> None:
    with EventFd(blocking=False) as kick, kick.dup() as twin:
        connections.assign(7, kick)
        kick.close()
        connections.contexts[7].signal()
        assert twin.wait(0) == 1


def references(eventfd: EventFd) -> str:
    return repr(eventfd._context).split("references=")[1].split()[0]


def test_references_are_given_back(connections: Connections, kick: EventFd) -> None:
    connections.assign(1, kick)
    connections.assign(2, kick)
    assert references(kick) == "2"
    code(connections.assign, 1, kick)
    assert references(kick) == "2"
    connections.deassign(1)
    assert references(kick) == "1"
    connections.close()
    assert references(kick) == "0"
    connections.close()
    assert len(connections) == 0


def test_the_view_is_live_and_read_only(connections: Connections, kick: EventFd) -> None:
    view = connections.contexts
    connections.assign(7, kick)
    assert set(view) == {7}
    with pytest.raises(TypeError):
        view[8] = view[7]  # type: ignore[index]
    connections.deassign(7)
    assert not view


def test_operations_signal_by_the_view(connections: Connections, kick: EventFd) -> None:
    operations = Operations(Vm(), FakeMemory({}), lambda *_: None, connections.contexts, Steps())
    with pytest.raises(Refused) as refused:
        operations.signal(7)
    assert refused.value.refusal is Refusal.CONNECTION
    connections.assign(7, kick)
    operations.signal(7)
    assert kick.wait(0) == 1
    assert operations.accesses == [Access(True, 7, 0, b"", Route.IOEVENTFD)]
    assert operations.steps.signals == 1


def test_the_mask() -> None:
    assert CONNECTION_ID_MASK == 0xFF_FFFF
