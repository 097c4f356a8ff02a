"""KVMPPC_H_LOGICAL_MEMOP: copies in RAM, to and from devices, and in parts."""

from __future__ import annotations

import pytest

from pvmmio_uc.exits import Route
from pvmmio_uc.hypercall.cpu import Outcome
from pvmmio_uc.hypercall.papr import Papr

from .fakes import (
    DEVICE,
    DOORBELL_MATCH,
    MATCH,
    NOBODY,
    RAM,
    RAM_SIZE,
    ROM,
    U64,
    Board,
    FakeCpu,
    routes,
)
from .papr_guest import (
    COPY,
    INVERT,
    MEMOP,
    PARAMETER,
    SC1,
    SUCCESS,
    call,
)


@pytest.fixture
def board() -> Board:
    return Board()


def pattern(length: int) -> bytes:
    return bytes((index * 7 + 1) & 0xFF for index in range(length))


@pytest.mark.parametrize("op", [COPY, INVERT])
@pytest.mark.parametrize("shift", [0, 1, 2, 3])
@pytest.mark.parametrize("distance", [-64, -8, 0, 8, 64])
def test_copies_in_ram_may_overlap(board: Board, op: int, shift: int, distance: int) -> None:
    data = pattern(0x100)
    source = RAM + 0x400
    board.put(source, data)
    assert call(board, MEMOP, source + distance, source, shift, 0x100 >> shift, op) == {"r3": SUCCESS}
    expected = data if op == COPY else bytes(byte ^ 0xFF for byte in data)
    assert board.get(source + distance, 0x100) == expected
    assert not board.accesses
    assert board.untouched


def test_ram_to_a_device_and_back(board: Board) -> None:
    board.put(RAM, pattern(8))
    assert call(board, MEMOP, DEVICE, RAM, 2, 2, COPY) == {"r3": SUCCESS}
    words = [int.from_bytes(pattern(8)[at : at + 4], "little") for at in (0, 4)]
    assert board.device.log == [("W", 0, 4, words[0]), ("W", 4, 4, words[1])]
    assert call(board, MEMOP, RAM + 0x100, DEVICE, 2, 2, INVERT) == {"r3": SUCCESS}
    assert board.get(RAM + 0x100, 8) == bytes(byte ^ 0xFF for byte in pattern(8))
    assert [access.route for access in board.accesses] == [Route.DEVICE] * 2


@pytest.mark.parametrize(
    ("to", "source", "offsets"),
    [
        (DEVICE + 8, DEVICE, [8, 4, 0]),
        (DEVICE, DEVICE, [8, 4, 0]),
        (DEVICE, DEVICE + 8, [8, 12, 16]),
        (DEVICE + 12, DEVICE, [0, 4, 8]),
        (DEVICE + 16, DEVICE, [0, 4, 8]),
    ],
)
def test_the_direction_on_a_device(board: Board, to: int, source: int, offsets: list[int]) -> None:
    """Backwards where the destination begins in the source, its very start included."""
    assert call(board, MEMOP, to, source, 2, 3, COPY) == {"r3": SUCCESS}
    assert [offset for kind, offset, _, _ in board.device.log if kind == "R"] == offsets


def test_a_copy_rings_doorbells_in_guest_bytes(board: Board) -> None:
    board.put(RAM, MATCH.to_bytes(4, "little"))
    assert call(board, MEMOP, DOORBELL_MATCH, RAM, 2, 1, COPY) == {"r3": SUCCESS}
    assert routes(board.accesses) == [Route.IOEVENTFD]


def test_a_copy_of_nothing_and_of_nobody(board: Board) -> None:
    assert call(board, MEMOP, RAM, NOBODY, 3, 2, COPY) == {"r3": SUCCESS}
    assert board.get(RAM, 16) == b"\xff" * 16
    assert call(board, MEMOP, NOBODY, RAM, 3, 2, COPY) == {"r3": SUCCESS}
    assert call(board, MEMOP, ROM, RAM, 3, 1, COPY) == {"r3": SUCCESS}
    assert board.get(ROM, 8) == bytes(8)
    assert call(board, MEMOP, RAM, ROM, 3, 1, COPY) == {"r3": SUCCESS}
    assert board.get(RAM, 8) == bytes(8)


def test_a_copy_that_leaves_ram_is_done_by_the_element(board: Board) -> None:
    board.put(RAM + RAM_SIZE - 8, pattern(8))
    assert call(board, MEMOP, RAM, RAM + RAM_SIZE - 8, 3, 2, COPY) == {"r3": SUCCESS}
    assert board.get(RAM, 16) == pattern(8) + b"\xff" * 8
    assert [access.address for access in board.accesses] == [RAM + RAM_SIZE]


def test_addresses_wrap(board: Board) -> None:
    """U64 - 7 is followed by 0."""
    assert call(board, MEMOP, RAM, U64 - 7, 3, 2, COPY) == {"r3": SUCCESS}
    assert [access.address for access in board.accesses] == [U64 - 7, 0]


@pytest.mark.parametrize(
    ("to", "source", "shift", "elements", "op", "status"),
    [
        (DEVICE, RAM, 2, 0x8000_0001, COPY, PARAMETER),
        (DEVICE, RAM, 2, U64, COPY, PARAMETER),
        (DEVICE + 2, RAM, 2, 1, COPY, PARAMETER),
        (DEVICE, RAM + 4, 3, 1, COPY, PARAMETER),
        (DEVICE, RAM, 2, 1, 2, PARAMETER),
        (DEVICE, RAM, 2, 1, U64, PARAMETER),
        (DEVICE, RAM, 4, 1, COPY, PARAMETER),
        (DEVICE, RAM, 63, 1, COPY, PARAMETER),
        (DEVICE, RAM, 1 << 63, 1, COPY, PARAMETER),
        (DEVICE, RAM, 4, 0, COPY, SUCCESS),
        (DEVICE, RAM, U64, 0, COPY, PARAMETER),
        (0, 0, U64, 0, COPY, SUCCESS),
        (DEVICE, RAM, 1 << 5, 0, COPY, SUCCESS),
        (DEVICE + 1, RAM, 2, 0, COPY, PARAMETER),
        (DEVICE, RAM, 2, 0, 2, PARAMETER),
        (DEVICE, RAM, 2, 0, INVERT, SUCCESS),
    ],
)
def test_checks_of_a_copy(
    board: Board, to: int, source: int, shift: int, elements: int, op: int, status: int
) -> None:
    """The element size counts only where there is an element; its alignment always."""
    assert call(board, MEMOP, to, source, shift, elements, op) == {"r3": status}
    assert board.untouched
    assert not board.memory.writes


@pytest.mark.parametrize("distance", [-8, 0, 8])
@pytest.mark.parametrize("elements", [4095, 4096, 4097, 8192, 9000])
def test_a_long_copy_is_done_in_parts(board: Board, elements: int, distance: int) -> None:
    start_at = 0x10_0000
    board.memory.slots[start_at] = bytearray(0x20000)
    data = bytes(index * 131 >> 3 & 0xFF for index in range(8 * elements))
    board.put(start_at + 0x100, data)
    written = call(board, MEMOP, start_at + 0x100 + distance, start_at + 0x100, 3, elements, COPY)
    assert written["r3"] == SUCCESS
    assert board.parts == -(-elements // 4096)
    assert board.get(start_at + 0x100 + distance, 8 * elements) == data


def test_the_longest_copy_gives_the_engine_its_turn(board: Board) -> None:
    """2^31 elements of nothing would otherwise keep the host busy for hours."""
    cpu = FakeCpu(board.memory, r3=MEMOP, r4=NOBODY, r5=NOBODY, r6=3, r7=0x8000_0000, r8=COPY)
    assert Papr().handle(cpu, SC1, board.operations()) is Outcome.RETRY
    assert cpu.registers == {
        "r3": MEMOP,
        "r4": NOBODY,
        "r5": NOBODY,
        "r6": 3,
        "r7": 0x8000_0000 - 4096,
        "r8": COPY,
    }
    assert board.asked[0][:2] == ("R", NOBODY + 8 * 0x7FFF_FFFF)
