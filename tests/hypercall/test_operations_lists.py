"""Lists of writes: their place and shape, then element by element."""

from __future__ import annotations

import pytest

from pvmmio_uc.exits import Route
from pvmmio_uc.hypercall.operations import (
    ELEMENT_BYTES,
    MOST_ELEMENTS,
    Operations,
    Refusal,
    Refused,
)

from .fakes import (
    DEVICE,
    DOORBELL_ANY,
    DOORBELL_FOUR,
    NOBODY,
    RAM,
    U64,
    USER,
    ZONE,
    Board,
    element,
    routes,
)


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def operations(board: Board) -> Operations:
    return board.operations()


LIST = RAM + 0x1000


def test_the_longest_list_is_a_page() -> None:
    assert (ELEMENT_BYTES, MOST_ELEMENTS) == (24, 170)


def test_elements_in_index_order_over_all_routes(board: Board, operations: Operations) -> None:
    board.put(
        LIST,
        element(DEVICE, 1, 1)
        + element(DOORBELL_ANY, 2, 8)
        + element(DOORBELL_FOUR, 3, 4)
        + element(ZONE, 4, 2)
        + element(USER, 5, 4),
    )
    assert operations.write_list(LIST, 5, 0) == 5
    assert routes(operations.accesses) == [
        Route.DEVICE,
        Route.FAST,
        Route.IOEVENTFD,
        Route.COALESCED,
        Route.USERSPACE,
    ]
    assert not board.memory.writes


@pytest.mark.parametrize("first", range(5))
def test_start_and_the_index_behind_the_last(board: Board, operations: Operations, first: int) -> None:
    board.put(LIST, b"".join(element(DEVICE + 4 * index, index, 4) for index in range(4)))
    assert operations.write_list(LIST, 4, first) == 4
    assert [offset // 4 for _, offset, _, _ in board.device.log] == list(range(first, 4))


def test_a_list_of_both_byte_orders(board: Board, operations: Operations) -> None:
    """The fields in the guest's order; the value is a number all the same."""
    board.put(LIST, element(DEVICE, 0x1234, 2, order="big"))
    assert operations.write_list(LIST, 1, 0, "big") == 1
    assert board.device.log == [("W", 0, 2, 0x1234)]
    with pytest.raises(Refused):
        operations.write_list(LIST, 1, 0, "little")


BAD_SHAPES = [
    (Refusal.LIST_COUNT, LIST, 171, 0),
    (Refusal.LIST_COUNT, LIST, 1 << 63, 0),
    (Refusal.LIST_COUNT, LIST, 1, 2),
    (Refusal.LIST_COUNT, LIST + 1, 171, 0),
    (Refusal.LIST_ALIGNMENT, LIST + 4, 1, 0),
    (Refusal.LIST_ALIGNMENT, LIST + 0xFFF, 170, 0),
    (Refusal.LIST_ALIGNMENT, NOBODY + 1, 0, 0),
    (Refusal.LIST_PAGE, LIST + 24, 170, 0),
    (Refusal.LIST_PAGE, LIST + 0xFF0, 1, 0),
    (Refusal.LIST_PAGE, NOBODY + 0xFF0, 1, 0),
    (Refusal.LIST_UNREADABLE, NOBODY, 1, 0),
    (Refusal.LIST_UNREADABLE, NOBODY, 1, 1),
    (Refusal.LIST_UNREADABLE, DEVICE, 170, 0),
    (Refusal.LIST_UNREADABLE, U64 - 23, 1, 0),
]


@pytest.mark.parametrize(("reason", "gpa", "count", "start"), BAD_SHAPES)
def test_nothing_is_written_before_the_whole_list_fits(
    board: Board, operations: Operations, reason: Refusal, gpa: int, count: int, start: int
) -> None:
    board.put(LIST, element(DEVICE, 1, 4) * 170)
    with pytest.raises(Refused) as refused:
        operations.write_list(gpa, count, start)
    assert (refused.value.refusal, refused.value.done) == (reason, 0)
    assert board.untouched
    assert not operations.accesses


@pytest.mark.parametrize("count", [1, 169, 170])
def test_a_list_up_to_the_end_of_its_page(board: Board, operations: Operations, count: int) -> None:
    gpa = LIST + 0x1000 - (24 * count + 7 & ~7)
    board.put(gpa, element(DEVICE, 1, 4) * count)
    assert operations.write_list(gpa, count, 0) == count


@pytest.mark.parametrize("bad_at", [0, 1, 5, 169])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (element(DEVICE, 1, 0), Refusal.SIZE),
        (element(DEVICE, 1, 3), Refusal.SIZE),
        (element(DEVICE, 1, 1 << 31), Refusal.SIZE),
        (element(DEVICE + 2, 1, 4), Refusal.ALIGNMENT),
        (element(U64, 1, 2), Refusal.ALIGNMENT),
        (element(RAM, 1, 4), Refusal.MEMORY),
        (element(LIST, 0, 8), Refusal.MEMORY),
        (element(NOBODY, 1, 4), Refusal.UNCLAIMED),
        (element(DEVICE, 1, 4, 1), Refusal.FLAGS),
        (element(DEVICE, 1, 4, 1 << 31), Refusal.FLAGS),
        (element(RAM + 1, 1, 3, 1), Refusal.FLAGS),
    ],
)
def test_a_list_stops_at_the_first_element_that_fails(
    board: Board, operations: Operations, bad: bytes, reason: Refusal, bad_at: int
) -> None:
    good = element(DEVICE, 1, 4)
    board.put(LIST, good * bad_at + bad + good * (169 - bad_at))
    with pytest.raises(Refused) as refused:
        operations.write_list(LIST, 170, 0)
    assert (refused.value.refusal, refused.value.done) == (reason, bad_at)
    assert len(board.device.log) == bad_at
    assert not board.memory.writes
    if bad_at < 169:
        assert operations.write_list(LIST, 170, bad_at + 1) == 170
        assert len(board.device.log) == 169


def test_the_list_is_read_once(board: Board, operations: Operations) -> None:
    """A device that changes the list while it is worked through changes nothing."""
    board.put(LIST, element(DEVICE, 1, 4) + element(DEVICE + 4, 2, 4))

    def overwrite(offset: int, size: int, value: int) -> None:
        board.device.log.append(("W", offset, size, value))
        assert board.memory.write(LIST + 24, element(NOBODY, 0, 3))

    board.device.mmio_write = overwrite
    assert operations.write_list(LIST, 2, 0) == 2
    assert board.device.log == [("W", 0, 4, 1), ("W", 4, 4, 2)]
