"""Accesses of any number of bytes, and ports."""

from __future__ import annotations

import pytest

from pvmmio_uc.exits import Route, Steps
from pvmmio_uc.hypercall.operations import (
    Operations,
    Refused,
)

from .fakes import (
    DEVICE,
    DEVICE_SIZE,
    NOBODY,
    NOBODY_PORT,
    PORT,
    PORT_DOORBELL,
    U64,
    USER,
    USER_PORT,
    ZONE,
    ZONE_SIZE,
    Board,
    routes,
    user_bytes,
)


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def operations(board: Board) -> Operations:
    return board.operations()


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 16, 20, 64])
def test_bytes_go_eight_at_a_time(board: Board, size: int) -> None:
    data = bytes(range(1, size + 1))
    board.vm.zones.register(ZONE + ZONE_SIZE, 0x100)
    operations = board.operations()
    operations.write_bytes(ZONE, data)
    chunks = [data[at : at + 8] for at in range(0, size, 8)]
    assert [access.data for access in operations.accesses] == chunks
    assert board.drain()["ring"] == [(ZONE + 8 * index, chunk) for index, chunk in enumerate(chunks)]


def test_what_is_refused_ends_the_offering(board: Board) -> None:
    operations = board.operations()
    operations.write_bytes(DEVICE + DEVICE_SIZE - 8, bytes(range(20)))
    assert routes(operations.accesses) == [Route.DEVICE, Route.USERSPACE, Route.USERSPACE]
    assert [len(data) for _, _, data in board.asked] == [8, 4]
    operations = board.operations()
    board.device.answer = 0x8877665544332211
    assert operations.read_bytes(DEVICE + DEVICE_SIZE - 8, 12) == bytes.fromhex("1122334455667788ffffffff")
    assert operations.read_bytes(USER, 11) == user_bytes(USER, 11)
    assert operations.read_bytes(NOBODY, 3) == b"\xff\xff\xff"


def test_bytes_past_the_end(board: Board, operations: Operations) -> None:
    for size in (2, 9, 4096):
        with pytest.raises(Refused, match="past"):
            operations.read_bytes(U64 - size + 2, size)
        with pytest.raises(Refused, match="past"):
            operations.write_bytes(U64 - size + 2, bytes(size))
    assert board.untouched
    assert not operations.accesses


def test_no_bytes_at_all(board: Board, operations: Operations) -> None:
    operations.write_bytes(DEVICE, b"")
    assert operations.read_bytes(DEVICE, 0) == b""
    assert board.untouched


# Ports


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ports(board: Board, operations: Operations, size: int) -> None:
    operations.port_write(PORT, size, 0x8877665544332211)
    low = 0x44332211 & ((1 << 8 * size) - 1)
    assert operations.port_read(PORT, size) == low
    assert board.ports.log == [("W", 0, size, low), ("R", 0, size, low)]
    assert routes(operations.accesses) == [Route.DEVICE] * 2
    assert operations.port_read(USER_PORT, size) == int.from_bytes(user_bytes(USER_PORT, size), "little")
    assert operations.port_read(NOBODY_PORT, size) == (1 << 8 * size) - 1
    operations.port_write(NOBODY_PORT, size, 1)
    assert board.port_asked[-1] == ("W", NOBODY_PORT, b"\1" + bytes(size - 1))
    assert routes(operations.accesses[2:]) == [Route.USERSPACE] * 3
    assert not board.asked


def test_a_doorbell_on_a_port(board: Board, operations: Operations) -> None:
    operations.port_write(PORT_DOORBELL, 2, 1)
    operations.port_write(PORT_DOORBELL, 4, 1)
    assert routes(operations.accesses) == [Route.IOEVENTFD, Route.USERSPACE]
    assert board.bells[PORT_DOORBELL].count == 1
    assert operations.steps.signals == 1


def test_without_anybody_for_ports_they_are_ones(board: Board) -> None:
    operations = Operations(board.vm, board.memory, board.userspace, {}, Steps())
    assert operations.port_read(NOBODY_PORT, 2) == 0xFFFF
    operations.port_write(NOBODY_PORT, 2, 0)
    assert board.untouched
