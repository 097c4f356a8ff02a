"""The list of writes in KVM's convention on x86."""

from __future__ import annotations

import pytest

from pvmmio_uc.exits import Route

from .fakes import (
    DEVICE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    NOBODY,
    RAM,
    ROM,
    U64,
    Board,
    element,
    routes,
)
from .kvm_x86_guest import (
    EFAULT,
    EINVAL,
    ENXIO,
    WRITE_LIST,
    both,
    call,
    error,
)


@pytest.fixture
def board() -> Board:
    return Board()


LIST = RAM + 0x1000


@both
def test_a_list_in_index_order(board: Board, bits: int) -> None:
    board.put(LIST, element(DEVICE + 8, 1, 4) + element(DOORBELL_ANY, 2, 2) + element(DEVICE, 3, 8))
    cpu = call(board, bits, rax=WRITE_LIST, rbx=LIST, rcx=3, rdx=0)
    assert cpu.written == {"rax": 0, "rdx": 3}
    assert board.device.log == [("W", 8, 4, 1), ("W", 0, 8, 3)]
    assert routes(cpu.accesses) == [Route.DEVICE, Route.FAST, Route.DEVICE]


@both
def test_170_doorbells_are_one_call(board: Board, bits: int) -> None:
    board.put(LIST, b"".join(element(DOORBELL_FOUR, queue, 4) for queue in range(170)))
    assert call(board, bits, rax=WRITE_LIST, rbx=LIST, rcx=170, rdx=0).written == {"rax": 0, "rdx": 170}
    assert board.bells[DOORBELL_FOUR].count == 170


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (element(DEVICE, 1, 3), EINVAL),
        (element(DEVICE + 1, 1, 4), EINVAL),
        (element(RAM, 1, 4), EINVAL),
        (element(DEVICE, 1, 4, 1), EINVAL),
        (element(NOBODY, 1, 4), ENXIO),
        (element(U64, 1, 2), EINVAL),
    ],
)
def test_a_list_stops_at_the_first_that_fails_and_goes_on_from_there(
    board: Board, bad: bytes, status: int
) -> None:
    good = element(DEVICE, 7, 4)
    board.put(LIST, good + good + bad + good)
    cpu = call(board, rax=WRITE_LIST, rbx=LIST, rcx=4, rdx=0)
    assert cpu.written == {"rax": error(status, 64), "rdx": 2}
    assert len(board.device.log) == 2
    assert call(board, rax=WRITE_LIST, rbx=LIST, rcx=4, rdx=3).written == {"rax": 0, "rdx": 4}
    assert len(board.device.log) == 3


@pytest.mark.parametrize(
    ("gpa", "elements", "first", "status"),
    [
        (LIST, 171, 0, EINVAL),
        (LIST, U64, 0, EINVAL),
        (LIST, 2, 3, EINVAL),
        (LIST, 2, U64, EINVAL),
        (LIST + 4, 1, 0, EINVAL),
        (LIST + 1, 0, 0, EINVAL),
        (LIST + 0x1000 - 8, 1, 0, EINVAL),
        (LIST + 24, 170, 0, EINVAL),
        (NOBODY, 1, 0, EFAULT),
        (U64 - 23, 1, 0, EFAULT),
        (DEVICE, 1, 0, EFAULT),
        (LIST, 0, 0, 0),
        (NOBODY, 0, 0, 0),
    ],
)
def test_the_shape_of_a_list(board: Board, gpa: int, elements: int, first: int, status: int) -> None:
    board.put(LIST, element(DEVICE, 7, 4) * 170)
    cpu = call(board, rax=WRITE_LIST, rbx=gpa, rcx=elements, rdx=first)
    assert cpu.written == {"rax": error(status, 64), "rdx": 0}
    assert board.untouched


def test_a_list_that_writes_over_itself_has_been_read_before(board: Board) -> None:
    """RAM is refused by the element, so the list cannot change under its own feet."""
    board.put(LIST, element(LIST + 24, 0, 8) + element(DEVICE, 1, 4))
    assert call(board, rax=WRITE_LIST, rbx=LIST, rcx=2).written == {"rax": error(EINVAL, 64), "rdx": 0}
    assert not board.memory.writes


def test_a_list_in_rom_is_fine(board: Board) -> None:
    board.memory.read_only[ROM][:24] = element(DEVICE, 9, 1)
    assert call(board, rax=WRITE_LIST, rbx=ROM, rcx=1).written == {"rax": 0, "rdx": 1}
